"""Scans with label maps beside them, told apart by their names: `p1_ct.nii.gz` and `p1_seg.nii.gz`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers.base import RawCase, RawDataset
from medpretrain3d.ingest.importers.folder import channel_name, volumes_below
from medpretrain3d.ingest.importers.layout import Layout, Misplaced
from medpretrain3d.store.file_names import LABEL_MAP, is_label_map, scan_words

_SIDES = frozenset(("images", "imagestr", "imagests", "imgs", "img", "image", "scans", "volumes"))
"""Folders of scans with a folder of label maps beside them."""


def read_pairs(raw: Path, classes: str = "object") -> RawDataset:
    """Return every label map with its one scan, at any depth; scans without a label map are unlabelled.

    Both names have the same words, but for `seg`, `mask`, `label` or the like in one and at most one word in the other,
    as `ct` or `image`. A label map of no further word belongs to the only scan of its folder. Folders such as `images`
    and `labels` count as one. Where that leaves no scan or several, the case cannot be used: nothing is guessed.

    Args:
        raw: the folder.
        classes: of the values 1, 2, ... of the label maps, with commas between them. In maps called `instances` each
            value is an object of the one class.

    Raises:
        Misplaced: no label map.
        UserError: classes that are not different names.
    """
    names = tuple(name.strip() for name in classes.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise UserError(f"pairs: option classes is {classes!r}, wanted different names, as liver,tumor")
    scans, maps, leftovers = volumes_below(raw)
    if not maps:
        raise Misplaced("no file is called a label map")
    maps_of, unpaired = _paired(scans, maps)
    cases = (*(_case(scan, maps_of[scan.id], names) for scan in scans), *unpaired)
    return RawDataset(names, cases, channel_names=channel_name(scans), leftovers=tuple(leftovers))


def _paired(scans: Sequence[RawCase], maps: Sequence[RawCase]) -> tuple[Mapping[str, list[RawCase]], list[RawCase]]:
    """Return the label maps of each scan by its id, and those without one scan, which are cases with a problem."""
    same_words, one_more = defaultdict(list), defaultdict(list)
    for scan in scans:
        place, words = _place(scan), _words(scan)
        same_words[place, words].append(scan)
        for fewer in {(), *_without_one(words)}:
            one_more[place, fewer].append(scan)
    maps_of: dict[str, list[RawCase]] = defaultdict(list)
    unpaired = []
    for one in maps:
        name = _place(one), _words(one)
        fitting = same_words.get(name) or one_more.get(name, [])
        if len(fitting) == 1:
            maps_of[fitting[0].id].append(one)
        else:
            message = ", ".join(scan.id for scan in fitting[:3]) or "no scan"
            problem = (
                f"is called a label map; found {message} for it, wanted one that is called alike, as p1_ct of p1_seg"
            )
            unpaired.append(replace(one, problem=problem))
    return maps_of, unpaired


def _case(scan: RawCase, maps: Sequence[RawCase], names: Sequence[str]) -> RawCase:
    if scan.problem:
        return scan
    if not maps:
        return replace(scan, split="unlabelled")
    if len(maps) > 1:
        return replace(scan, problem=f"{len(maps)} label maps, {maps[0].id} and {maps[1].id}; keep one")
    holds_instances = "instance" in maps[0].id.lower()
    if holds_instances and len(names) > 1:
        return replace(scan, problem=f"{maps[0].id} tells objects, not their classes; wanted one class")
    class_of_value = None if holds_instances else {label + 1: label for label in range(len(names))}
    return replace(scan, labels=maps[0].images[0], class_of_value=class_of_value)


def _place(case: RawCase) -> tuple[str, ...]:
    """Return the folders of a case, without those that tell scans from label maps."""
    folders = case.id.lower().split("__")[:-1]
    return tuple(name for name in folders if name not in _SIDES and not LABEL_MAP.fullmatch(name))


def _words(case: RawCase) -> tuple[str, ...]:
    """Return the words of a case's name without the one that says that it is a label map."""
    return scan_words(case.id.split("__")[-1])


def _without_one(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Return the words without each one that is no number in turn."""
    return (words[:place] + words[place + 1 :] for place, word in enumerate(words) if not word.isdigit())


LAYOUTS = (
    Layout(
        name="pairs",
        kind="generic",
        classes=(),
        licence="as the data",
        wanted="""  RAW/**/<name>_seg.nii.gz          or _mask, _label, _segmentation, ...: values are classes
  RAW/**/<name>_instances.nii.gz    or values are objects of one class
  RAW/**/<name>.nii.gz              the scan, or <name>_ct, <name>_image, <name>_flair, ...""",
        patterns=(is_label_map,),
        read=read_pairs,
        page="""\
Scans with label maps beside them, told apart by their names, at any depth.

```
RAW/**/p1_seg.nii.gz          a label map: seg, segmentation, mask, label, annotation or gt, first or last in the name
RAW/**/p1_instances.nii.gz    or an instance map, each value an object of one class
RAW/**/p1_ct.nii.gz           its scan: the same words and at most one more, which is no number
RAW/p2/image.nii.gz, RAW/p2/mask.nii.gz          or the only scan of a folder; RAW/p2/ct/*.dcm will do
RAW/images/p3.nii.gz, RAW/labels/p3.nii.gz       or in folders beside each other
```

`--option classes=liver,tumor` names the values 1, 2, ...; without it there is one class, `object`, of value 1. An
object is a connected component, or with `--objects labels` all voxels of a value. A value without a name skips
its case, as does a label map without a scan or with several that it could be of. Scans without a label map are
unlabelled. Where all scans are called `ct`, `flair`, `t1` and so on, that names the channel and so says whether
values are HU. For anything else, anatomy around tumours or several channels of other names, write a `dataset.json`
(nnunet).""",
    ),
)

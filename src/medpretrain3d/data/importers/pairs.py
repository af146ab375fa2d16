"""Scans with label maps beside them, told apart by their names: `p1_ct.nii.gz` and `p1_seg.nii.gz`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medpretrain3d.data.importers.base import ObjectRule, RawCase, RawDataset
from medpretrain3d.data.importers.files import LABEL_MAP, is_label_map, words_of
from medpretrain3d.data.importers.folder import scans_below
from medpretrain3d.data.importers.layout import Layout, Misplaced
from medpretrain3d.errors import UserError

MODALITIES = frozenset(("ct", "mr", "mri", "t1", "t1c", "t1ce", "t2", "flair", "adc", "dwi", "pet"))
"""Words of a scan's name that say whether its values are HU."""
_SIDES = frozenset(("images", "imagestr", "imagests", "imgs", "img", "image", "scans", "volumes"))
"""Folders of scans with a folder of label maps beside them."""


def read_pairs(raw: Path, classes: str = "object") -> RawDataset:
    """Every label map with its one scan, at any depth; scans without a label map are unlabelled.

    Both names have the same words, but for `seg`, `mask`, `label` or the like in one and at most one word in the other,
    as `ct` or `image`. A label map of no further word belongs to the only scan of its folder. Folders such as `images`
    and `labels` count as one. Where that leaves no scan or several, the case cannot be used: nothing is guessed.

    Args:
        raw: the folder.
        classes: of the values 1, 2, ... of the label maps, with commas between them. In maps that are named `instances`
            each value is an object of the one class.

    Raises:
        Misplaced: no label map.
        UserError: classes that are not different names, instance maps beside others or of several classes.
    """
    names = tuple(name.strip() for name in classes.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise UserError(f"pairs: option classes is {classes!r}, wanted different names, as liver,tumor")
    found = scans_below(raw)
    maps = [case for case in found if is_label_map(case.images[0].relative_to(raw))]
    scans = [case for case in found if case not in maps]
    if not maps:
        raise Misplaced("no file is named as a label map")
    num_instance_maps = sum("instance" in case.id.lower() for case in maps)
    if num_instance_maps and (num_instance_maps < len(maps) or len(names) > 1):
        raise UserError(f"{raw}: instance maps beside other label maps or of several classes; prepare them apart")
    class_of_value = None if num_instance_maps else {label + 1: label for label in range(len(names))}
    maps_of, unpaired = _paired(scans, maps)
    cases = [*(_case(scan, maps_of[scan.id], class_of_value) for scan in scans), *unpaired]
    rule: ObjectRule = "instances" if num_instance_maps else "components"
    return RawDataset(names, tuple(sorted(cases, key=lambda case: case.id)), rule, _channel_names(scans))


def _paired(scans: Sequence[RawCase], maps: Sequence[RawCase]) -> tuple[Mapping[str, list[RawCase]], list[RawCase]]:
    """The label maps of each scan by its id, and those without one scan, which are cases with a problem."""
    scans_in: dict[tuple[str, ...], list[RawCase]] = defaultdict(list)
    for scan in scans:
        scans_in[_place(scan)].append(scan)
    maps_of: dict[str, list[RawCase]] = defaultdict(list)
    unpaired = []
    for one in maps:
        words = _words(one)
        beside = scans_in[_place(one)]
        fitting = [scan for scan in beside if _words(scan) == words] or [
            scan for scan in beside if not words or _differ_by_one(_words(scan), words)
        ]
        if len(fitting) == 1:
            maps_of[fitting[0].id].append(one)
        else:
            told = ", ".join(scan.id for scan in fitting[:3]) or "no scan"
            unpaired.append(replace(one, problem=f"is called a label map; wanted one scan that it is of, found {told}"))
    return maps_of, unpaired


def _case(scan: RawCase, maps: Sequence[RawCase], class_of_value: Mapping[int, int] | None) -> RawCase:
    if not maps:
        return replace(scan, split="unlabelled")
    if len(maps) > 1:
        return replace(scan, problem=f"{len(maps)} label maps, {maps[0].id} and {maps[1].id}; keep one")
    return replace(scan, labels=maps[0].images[0], class_of_value=class_of_value)


def _place(case: RawCase) -> tuple[str, ...]:
    """The folders of a case, without those that tell scans from label maps."""
    folders = case.id.lower().split("__")[:-1]
    return tuple(name for name in folders if name not in _SIDES and not LABEL_MAP.fullmatch(name))


def _words(case: RawCase) -> tuple[str, ...]:
    """The words of a case's name without the one that says that it is a label map."""
    words = words_of(case.id.split("__")[-1])
    for end, rest in ((0, words[1:]), (-1, words[:-1])):
        if words and LABEL_MAP.fullmatch(words[end]):
            return rest
    return words


def _differ_by_one(longer: Sequence[str], words: Sequence[str]) -> bool:
    """Whether one word more, which is no number, is all that tells a scan's name from a label map's."""
    return any(
        not word.isdigit() and (*longer[:place], *longer[place + 1 :]) == tuple(words)
        for place, word in enumerate(longer)
    )


def _channel_names(scans: Sequence[RawCase]) -> tuple[str, ...]:
    """The modality, where every scan is of one file and names the same."""
    named = {tuple(word for word in _words(scan) if word in MODALITIES) for scan in scans if len(scan.images) == 1}
    is_one = len(named) == 1 and all(len(scan.images) == 1 for scan in scans)
    return tuple(word.upper() for word in named.pop()) if is_one else ()


LAYOUTS = (
    Layout(
        name="pairs",
        kind="generic",
        classes=(),
        licence="as the data",
        wanted="""  RAW/**/<name>_seg.nii.gz          or _mask, _label, _segmentation, ...: values are classes
  RAW/**/<name>_instances.nii.gz    or values are objects of one class
  RAW/**/<name>.nii.gz              the scan, or <name>_ct, <name>_image, <name>_flair, ...""",
        signs=(is_label_map,),
        read=read_pairs,
    ),
)

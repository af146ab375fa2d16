"""A DICOM export with structure sets (RTSTRUCT) or segmentations (SEG): each leads to the series it was drawn on."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers.annotation_file import (
    NEWEST,
    AnnotationFile,
    chosen,
    drawn_twice,
    read_annotation_file,
    without_older,
)
from medpretrain3d.ingest.importers.base import ANATOMY, Leftover, RawCase, RawDataset
from medpretrain3d.ingest.importers.layout import Layout, Misplaced
from medpretrain3d.ingest.importers.series_choice import SeriesChoice, left_out, problem_of_part
from medpretrain3d.ingest.importers.series_patients import patients_of
from medpretrain3d.lines import counted
from medpretrain3d.store.file_names import case_id_of, is_label_map
from medpretrain3d.store.readers import Series, find_series, find_volumes, scattered, volume_ending, walk
from medpretrain3d.store.readers.dicom_header import (
    RTSTRUCT,
    SEGMENTATIONS,
    is_dicom,
    sop_class,
)

_ANNOTATIONS = (RTSTRUCT, *SEGMENTATIONS)
_ENDINGS = (".dcm", ".ima", "")


@dataclass(frozen=True)
class _Scan:
    """A series, or a volume of another format, that annotations may be of."""

    id: str
    image: Path
    series: Series | None = None


def read_dicom_labels(
    raw: Path, classes: str = "", modality: str = "", series: str = "", min_slices: int = 0, annotations: str = ""
) -> RawDataset:
    """Return every series that a structure set or segmentation was drawn on; other series are named and left out.

    A file of annotations belongs to the series that it names; where that is not there, to the only one of its frame of
    reference; and else to the only scan, of any format, in its folder or the nearest one above. Several files of one
    series are taken together, unless two draw a region of the same name.

    Args:
        raw: the folder.
        classes: names of regions, with commas between them, in any case, where `*` stands for any text; `tumor:GTV*`
            gives a class another name. Regions of other names are no objects. Empty: every name is a class.
        modality: of the series, as `CT`; empty takes all.
        series: identifier, key or description of those that are wanted, where `*` stands for any text.
        min_slices: series of fewer are left out, as localizers are.
        annotations: path below the folder, or label, of the files of annotations that count, where `*` stands for any
            text; `newest`: of regions of one name, that of the newest file. Empty takes all.

    Raises:
        Misplaced: no structure set and no segmentation.
        UserError: classes that are not different names, or that no file has, or annotations that no file is.
    """
    labels = [read_annotation_file(path) for path in sorted(_annotation_files(raw))]
    if not labels:
        raise Misplaced("holds no DICOM structure set (RTSTRUCT) and no segmentation (SEG)")
    all_labels, labels = labels, chosen(raw, labels, annotations)
    found = find_series(raw)
    wanted = SeriesChoice(modality, series, min_slices).of(raw, found)
    scans = _scans(raw, wanted, Counter(one.folder for one in found))
    dropped = {one.uid for one in found} - {one.uid for one in wanted}
    labels = [one for one in labels if not one.references.series or one.references.series - dropped]
    names = _classes(raw, labels, classes)
    labels_of, cases = _paired(raw, labels, scans)
    if annotations == NEWEST:
        labels_of = {scan: without_older(those, partial(_is_wanted, names=names)) for scan, those in labels_of.items()}
    patients = patients_of({scan.id: scan.series for scan in scans if scan.series})
    parts = scattered(found)
    for scan in scans:
        its_labels = labels_of.get(scan.id, [])
        problem = problem_of_part(raw, scan.series, parts) if scan.series else ""
        if its_labels:
            case = _case(raw, scan, its_labels, names, patients.get(scan.id))
            cases.append(replace(case, problem=problem) if problem else case)
    modalities = sorted({scan.series.modality for scan in scans if scan.series and scan.id in labels_of} - {""})
    leftovers = list(_leftovers(raw, labels, found, wanted, scans, labels_of, names))
    leftovers += [
        Leftover(one.file.relative_to(raw).as_posix(), "files of annotations that the options leave out")
        for one in all_labels
        if annotations not in ("", NEWEST) and not one.fits(raw, annotations)
    ]
    kinds = Counter("structure sets" if sop_class(one.file) == RTSTRUCT else "segmentations" for one in labels)
    recognised_by = "it has " + " and ".join(f"{count} DICOM {kind}" for kind, count in sorted(kinds.items()))
    channel = ("/".join(modalities),) if modalities else ()
    cases = sorted(cases, key=lambda case: case.id)
    return RawDataset(
        tuple(names), tuple(cases), "labels", channel, leftovers=tuple(leftovers), recognised_by=recognised_by
    )


def _annotation_files(raw: Path) -> Iterator[Path]:
    files = (path for path in walk(raw) if not volume_ending(path))
    return (path for path in files if is_dicom(path) and sop_class(path) in _ANNOTATIONS)


def _scans(raw: Path, series: Sequence[Series], num_in_folder: Mapping[Path, int]) -> list[_Scan]:
    scans = []
    for one in series:
        name = case_id_of(one.folder, raw)
        is_alone = num_in_folder[one.folder] == 1
        scans.append(_Scan(name, one.folder, one) if is_alone else _Scan(f"{name}__{one.key}", one.files[0], one))
    volumes = [path for path in find_volumes(raw, recursive=True) if not is_label_map(path.relative_to(raw))]
    return scans + [_Scan(case_id_of(path, raw), path) for path in volumes]


def _classes(raw: Path, labels: Sequence[AnnotationFile], classes: str) -> dict[str, str]:
    """Pattern of the names of regions, in lower case, for each class."""
    names = Counter(name for one in labels for name in one.regions.values())
    if not classes:
        first: dict[str, str] = {}
        for name in sorted(names):
            first.setdefault(name.casefold(), name)
        return {name: _literal(folded) for folded, name in first.items()}
    found: dict[str, str] = {}
    for part in classes.split(","):
        name, colon, pattern = part.partition(":")
        name, pattern = name.strip(), (pattern if colon else name).strip().casefold()
        if not name or not pattern or name in found:
            raise UserError(f"dicom: option classes is {classes!r}, wanted different names, as tumor:GTV*,liver")
        found[name] = pattern
    for pattern in found.values():
        if not any(fnmatchcase(one.casefold(), pattern) for one in names):
            there = ", ".join(f"{one} ({count})" for one, count in names.most_common(8)) or "none"
            raise UserError(f"{raw}: no region is called {pattern!r}; drawn are {there}")
    return found


def _literal(text: str) -> str:
    """Return a pattern that fits this text alone."""
    return "".join(f"[{one}]" if one in "*?[" else one for one in text)


def _paired(
    raw: Path, labels: Sequence[AnnotationFile], scans: Sequence[_Scan]
) -> tuple[dict[str, list[AnnotationFile]], list[RawCase]]:
    """Return the files of annotations by the id of their scan; those without one are cases with a problem."""
    labels_of: dict[str, list[AnnotationFile]] = defaultdict(list)
    unpaired = []
    for one in labels:
        fitting = _scans_of(raw, one, scans)
        if len(fitting) == 1 and not one.problem:
            labels_of[fitting[0].id].append(one)
            continue
        there = ", ".join(scan.id for scan in fitting[:3]) or "no scan"
        problem = one.problem or (
            f"annotations of {there}; wanted the one series that they were drawn on, or one scan in their folder"
        )
        unpaired.append(RawCase(case_id_of(one.file, raw), (one.file,), problem=problem))
    return dict(labels_of), unpaired


def _scans_of(raw: Path, labels: AnnotationFile, scans: Sequence[_Scan]) -> list[_Scan]:
    series = [scan for scan in scans if scan.series]
    named = [scan for scan in series if scan.series and scan.series.uid in labels.references.series]
    if named:
        return named
    of_frame = [scan for scan in series if scan.series and scan.series.frame_of_reference in labels.references.frames]
    if len(of_frame) == 1:
        return of_frame
    for folder in labels.file.parents:
        near = [scan for scan in of_frame or scans if scan.image.is_relative_to(folder)]
        if near or folder == raw:
            return near
    return []


def _case(
    raw: Path, scan: _Scan, labels: Sequence[AnnotationFile], names: Mapping[str, str], patient: str | None
) -> RawCase:
    case = RawCase(scan.id, (scan.image,), patient=patient)
    wanted = [one for one in labels if any(_is_wanted(name, names) for name in one.regions.values())]
    if not wanted:
        message = "of a class" if any(one.regions for one in labels) else "drawn"
        file = labels[0].file if len(labels) == 1 else f"{len(labels)} files of annotations"
        return replace(case, problem=f"{file}: none of its regions is {message}; leave it out")
    twice = drawn_twice(wanted, partial(_is_wanted, names=names))
    if twice:
        name, having = next(iter(twice.items()))
        files = " and ".join(one.file.relative_to(raw).as_posix() for one in having[:2])
        more = f" and {counted(len(twice) - 1, 'more region')}" if len(twice) > 1 else ""
        return replace(
            case,
            problem=f"{len(having)} files of annotations, {files}, draw {name!r}{more}; choose by --option annotations="
            f"FILE, or {NEWEST}",
        )
    first, *others = (
        (one.file, {number: _class_of(name, names) for number, name in one.regions.items()}) for one in wanted
    )
    return replace(case, labels=first[0], class_of_value=first[1], more_labels=tuple(others))


def _is_wanted(name: str, names: Mapping[str, str]) -> bool:
    return _class_of(name, names) != ANATOMY


def _class_of(name: str, names: Mapping[str, str]) -> int:
    patterns = list(names.values())
    return next((label for label, one in enumerate(patterns) if fnmatchcase(name.casefold(), one)), ANATOMY)


def _leftovers(
    raw: Path,
    labels: Sequence[AnnotationFile],
    found: Sequence[Series],
    wanted: Sequence[Series],
    scans: Sequence[_Scan],
    labels_of: Mapping[str, Sequence[AnnotationFile]],
    names: Mapping[str, str],
) -> Iterator[Leftover]:
    yield from left_out(raw, found, wanted)
    for scan in scans:
        if scan.id not in labels_of:
            yield Leftover(scan.id, "scans without annotations, in no case")
    as_used = {one.file: one for those in labels_of.values() for one in those}
    for labels_file in (as_used.get(one.file, one) for one in labels):
        name = labels_file.file.relative_to(raw).as_posix()
        for count, reason in (
            (labels_file.num_undrawn, "regions that were named and not drawn"),
            (labels_file.num_older, "regions that a newer file draws again"),
            (labels_file.num_others, "regions that are no objects (skin, table, points)"),
            (
                sum(_class_of(one, names) == ANATOMY for one in labels_file.regions.values()),
                "regions of other names than the classes",
            ),
        ):
            for number in range(count):
                yield Leftover(f"{name} #{number + 1}", reason, is_used=True)


def _has_no_annotations(raw: Path) -> str:
    return "" if any(True for _ in _annotation_files(raw)) else "-"


LAYOUTS = (
    Layout(
        name="dicom",
        kind="generic",
        classes=(),
        licence="as the data",
        wanted="""  RAW/**/*.dcm    series of scans, and structure sets (RTSTRUCT) or segmentations (SEG) of them""",
        patterns=(lambda path: path.suffix.lower() in _ENDINGS,),
        read=read_dicom_labels,
        is_described=True,
        contradiction=_has_no_annotations,
        page="""\
A DICOM export at any depth, as a PACS or a treatment planning system writes it, with the objects in structure sets
(RTSTRUCT) or segmentations (SEG). Needs `pip install "medpretrain3d[dicom]"`. [DICOM](howto/dicom.md) has the rules.

```
RAW/**/*.dcm         any names, in any folders: what belongs together is read from the headers
RAW/p1/scan.nii.gz   or a scan of another format, the only one in the folder of its RS.dcm or the nearest above
```

Each region of interest or segment is one object, and its name is its class (`--objects components` parts it where it
is not connected). `--option classes=tumor:GTV*,liver` chooses and renames, `--option modality=CT`,
`--option series='*thin*'` (or its identifier) and `--option min_slices=20` choose among series. Series without
annotations are left out and counted. Several files of one series are taken together; where two draw a region of the
same name, `--option annotations=newest` takes the newest, and `annotations='*second*'` files of this path or label.""",
    ),
)

"""A folder or DICOM tree of unlabelled scans, at any depth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medpretrain3d.ingest.channel_names import MODALITIES
from medpretrain3d.ingest.importers.base import Leftover, RawCase, RawDataset
from medpretrain3d.ingest.importers.layout import Layout
from medpretrain3d.ingest.importers.series_choice import SeriesChoice, left_out
from medpretrain3d.ingest.importers.series_patients import patients_of
from medpretrain3d.store.file_names import case_id_of, channel_files, is_label_map, scan_words, words_of
from medpretrain3d.store.pseudonym import pseudonym_of
from medpretrain3d.store.readers import Series, find_series, find_volumes, scattered, volume_stem

_CHANNELS = "scans of several files, _0000, _0001, ..., taken for channels; rename those that are scans"
_PARTS = "DICOM series whose files lie in several folders, each taken for a scan; move them into one folder"


def read_folder(raw: Path, modality: str = "", series: str = "", min_slices: int = 0) -> RawDataset:
    """Return every scan below a folder as a case without labels; what is called a label map cannot be used as one.

    Args:
        raw: the folder.
        modality: of the DICOM series that are wanted, as `CT`; empty takes all. Other files are all taken.
        series: identifier, key or description of those that are wanted, where `*` stands for any text.
        min_slices: series of fewer are left out, as localizers are.

    Raises:
        UserError: no series is what the options ask for.
    """
    found = find_series(raw)
    return _dataset(raw, found, SeriesChoice(modality, series, min_slices).of(raw, found))


def scans_and_series(raw: Path) -> tuple[tuple[RawCase, ...], dict[Path, RawCase]]:
    """Return every scan as `read_folder` does, and the scan of each file of a DICOM series and of a folder of one."""
    found = find_series(raw)
    scans = _dataset(raw, found, found).cases
    of_image = {scan.images[0]: scan for scan in scans}
    of_file: dict[Path, RawCase] = {}
    for one in found:
        place = one.folder if one.folder in of_image else one.files[0]
        of_file |= dict.fromkeys((place, *one.files), of_image[place])
    return scans, of_file


def _dataset(raw: Path, found: Sequence[Series], wanted: Sequence[Series]) -> RawDataset:
    scans, maps, read_so = _volumes(raw, found, wanted)
    problem = "is called a label map; rename it if it is a scan, else use --dataset pairs"
    cases = (*scans, *(replace(one, problem=problem) for one in maps))
    leftovers = (*left_out(raw, found, wanted), *read_so)
    return RawDataset((), cases, channel_names=channel_name(scans), leftovers=leftovers)


def volumes_below(raw: Path, num_channels: int | None = None) -> tuple[list[RawCase], list[RawCase], list[Leftover]]:
    """Every volume and DICOM series below a folder: scans, and what is called a label map, in the order of their ids;
    and which of them may be meant otherwise.

    The id is the path below the folder, `a/b/scan.nii.gz` becomes `a__b__scan`; nnU-Net's `_0000` is dropped. A DICOM
    series is one scan; where a folder holds several, a hash of the series' identifier tells them apart.

    Args:
        raw: the folder.
        num_channels: of every scan; None where nobody says, and files that may be channels of one scan or scans of
            their own are a case with a problem.
    """
    found = find_series(raw)
    return _volumes(raw, found, found, num_channels)


def _volumes(
    raw: Path, found: Sequence[Series], wanted: Sequence[Series], num_channels: int | None = None
) -> tuple[list[RawCase], list[RawCase], list[Leftover]]:
    files = find_volumes(raw, recursive=True)
    label_files = [path for path in files if is_label_map(path.relative_to(raw))]
    ids = {" ".join(scan_words(volume_stem(path))) for path in label_files}
    scan_files = sorted(set(files) - set(label_files))
    cases = [
        RawCase("__".join([*one.files[0].relative_to(raw).parts[:-1], one.id]), one.files, problem=one.problem)
        for one in (*channel_files(scan_files, num_channels, ids), *channel_files(label_files, num_channels=1))
    ]
    joined = [case for case in cases if len(case.images) > 1 and not case.problem]
    leftovers = [Leftover(case.id, _CHANNELS, is_used=True) for case in joined]
    parts = scattered(found)
    for one, case in _of_series(raw, found, wanted, parts).items():
        cases.append(case)
        leftovers += [Leftover(case.id, _PARTS, is_used=True)] if one.uid in parts else []
    scans: list[RawCase] = []
    maps: list[RawCase] = []
    for case in sorted(cases, key=lambda case: case.id):
        (maps if is_label_map(case.images[0].relative_to(raw)) else scans).append(case)
    return scans, maps, leftovers


def _of_series(
    raw: Path, found: Sequence[Series], wanted: Sequence[Series], parts: Mapping[str, Sequence[Path]]
) -> dict[Series, RawCase]:
    series_in = Counter(series.folder for series in found)
    name_of = {one: case_id_of(one.folder, raw) for one in wanted}
    name_of |= {one: f"{name}__{one.key}" for one, name in name_of.items() if series_in[one.folder] > 1}
    patients = patients_of({name: one for one, name in name_of.items()})
    cases = {}
    for one, name in name_of.items():
        image = one.folder if series_in[one.folder] == 1 else one.files[0]
        patient = patients.get(name) or (pseudonym_of(one.uid) if one.uid in parts else None)
        cases[one] = RawCase(name, (image,), patient=patient)
    return cases


def channel_name(scans: Sequence[RawCase]) -> tuple[str, ...]:
    """The name of the one channel, where every scan is of one file and called by a modality; else nothing.

    Scans of several modalities give it the names of all, `FLAIR or T1`.
    """
    named = {
        tuple(word for word in words_of(scan.id.split("__")[-1]) if word in MODALITIES and len(scan.images) == 1)
        for scan in scans
    }
    # `p1_t1_ct` is a CT, at a time point 1.
    modalities = {"CT" if "ct" in words else " ".join(dict.fromkeys(words)).upper() for words in named}
    return (" or ".join(sorted(modalities)),) if named and all(named) else ()


LAYOUTS = (
    Layout(
        name="folder",
        kind="generic",
        classes=(),
        licence="as the scans",
        wanted="  RAW/**/*.nii.gz, .nii, .mha, .mhd, .nrrd, or folders of .dcm files   (scans without labels)",
        patterns=(),
        read=read_folder,
        page="""\
Any folder or DICOM tree of scans at any depth, without labels: a corpus. The id is the path, `a/b/scan.nii.gz`
becomes `a__b__scan`. `p1_0000` and `p1_0001` are channels of one scan where other scans have the same numbers;
alone they are left out, since they may as well be two scans. Of several DICOM series in one folder each is a case,
and series of one patient stay together. Files that are called label maps (see `pairs`) are skipped, never taken for
scans. Among DICOM series `--option modality=CT`, `--option series='*thin*'` (or its identifier) and
`--option min_slices=20` choose. Modalities in all names, as `flair`, say whether values
are HU; so does a DICOM header.""",
    ),
)

"""A folder or DICOM tree of unlabelled scans, at any depth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from medpretrain3d.ingest.channel_names import MODALITIES
from medpretrain3d.ingest.importers.base import Leftover, RawCase, RawDataset
from medpretrain3d.ingest.importers.layout import Layout
from medpretrain3d.ingest.importers.series_choice import SeriesChoice, left_out
from medpretrain3d.store.file_names import case_id_of, channel_files, is_label_map, scan_words, words_of
from medpretrain3d.store.readers import Series, find_series, find_volumes, volume_stem


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
    wanted = SeriesChoice(modality, series, min_slices).of(raw, found)
    scans, maps = _volumes(raw, found, wanted)
    problem = "is called a label map; rename it if it is a scan, else use --dataset pairs"
    cases = (*scans, *(replace(one, problem=problem) for one in maps))
    leftovers = (*left_out(raw, found, wanted), *joined_files(scans))
    return RawDataset((), cases, channel_names=channel_name(scans), leftovers=leftovers)


def volumes_below(raw: Path, num_channels: int | None = None) -> tuple[list[RawCase], list[RawCase]]:
    """Every volume and DICOM series below a folder: scans, and what is called a label map, in the order of their ids.

    The id is the path below the folder, `a/b/scan.nii.gz` becomes `a__b__scan`; nnU-Net's `_0000` is dropped. A DICOM
    series is one scan; where a folder holds several, a hash of the series' identifier tells them apart.

    Args:
        raw: the folder.
        num_channels: of every scan; None where nobody says, and files that may be channels of one scan or scans of
            their own are a case with a problem.
    """
    found = find_series(raw)
    return _volumes(raw, found, found, num_channels)


def joined_files(scans: Sequence[RawCase]) -> Iterator[Leftover]:
    """Yield the scans whose channels are files of their own, as names alone say."""
    for scan in scans:
        if len(scan.images) > 1 and not scan.problem:
            reason = "scans of several files, _0000, _0001, ..., taken for channels; rename those that are scans"
            yield Leftover(scan.id, reason, is_used=True)


def _volumes(
    raw: Path, found: Sequence[Series], wanted: Sequence[Series], num_channels: int | None = None
) -> tuple[list[RawCase], list[RawCase]]:
    files = find_volumes(raw, recursive=True)
    label_files = [path for path in files if is_label_map(path.relative_to(raw))]
    ids = {" ".join(scan_words(volume_stem(path))) for path in label_files}
    scan_files = sorted(set(files) - set(label_files))
    cases = [
        RawCase("__".join([*one.files[0].relative_to(raw).parts[:-1], one.id]), one.files, problem=one.problem)
        for one in (*channel_files(scan_files, num_channels, ids), *channel_files(label_files, num_channels=1))
    ]
    series_in = Counter(series.folder for series in found)
    for series in wanted:
        name = case_id_of(series.folder, raw)
        is_alone = series_in[series.folder] == 1
        cases.append(
            RawCase(name, (series.folder,)) if is_alone else RawCase(f"{name}__{series.key}", (series.files[0],))
        )
    scans: list[RawCase] = []
    maps: list[RawCase] = []
    for case in sorted(cases, key=lambda case: case.id):
        (maps if is_label_map(case.images[0].relative_to(raw)) else scans).append(case)
    return scans, maps


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
alone they are left out, since they may as well be two scans. Of several DICOM series in one folder each is a case.
Files that are called label maps (see `pairs`) are skipped, never taken for scans. Among DICOM series
`--option modality=CT`, `--option series='*thin*'` (or its identifier) and `--option min_slices=20`
choose. A modality in all names, as `flair`, says whether values are HU; so does a DICOM header.""",
    ),
)

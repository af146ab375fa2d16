"""DICOM series: which files below a folder belong together, and which series of several is meant."""

from __future__ import annotations

import functools
import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from medpretrain3d.store.readers.dicom_header import is_dicom, is_scan
from medpretrain3d.store.readers.dicom_slice import open_header
from medpretrain3d.store.readers.walk import walk
from medpretrain3d.store.skipped_cases import InvalidCaseError

ENDINGS = (".dcm", ".ima")

_SERIES, _DESCRIPTION, _MODALITY, _REFERENCE = "0020|000e", "0008|103e", "0008|0060", "0020|0052"
_PATIENT, _FRAMES, _INSTANCE = "0010|0020", "0028|0008", "0008|0018"


@dataclass(frozen=True)
class Series:
    """The files of one series, in the order of their names.

    The identifiers lead back to the hospital's archive, and a description is free text: they stay in memory.
    """

    folder: Path
    key: str
    """Hash of the series' identifier."""
    files: tuple[Path, ...]
    uid: str = field(default="", repr=False)
    modality: str = ""
    description: str = field(default="", repr=False)
    frame_of_reference: str = field(default="", repr=False)
    patient: str = field(default="", repr=False)
    num_slices: int = 0
    """Files, or the frames in the first one."""
    content: str = field(default="", repr=False)
    """Hash of the identifiers of its files, the same for a copy."""

    def fits(self, wanted: str) -> bool:
        """Return whether the series is meant by its identifier, the hash of it, or its description in any case, where
        `*` stands for any text."""
        named = (self.uid, self.key)
        return wanted in named or fnmatchcase(self.description.casefold(), wanted.strip().casefold())


def find_series(root: Path) -> list[Series]:
    """Return every series of a folder and the folders below it, in the order of folders and first files.

    Objects that are no scans (structure sets, segmentations, reports, doses, ...) are left out.

    Raises:
        MissingLibrary: SimpleITK.
    """
    folders = defaultdict(list)
    for path in sorted(walk(Path(root))):
        if is_dicom(path) and is_scan(path):
            folders[path.parent].append(path)
    return [series for folder, files in sorted(folders.items()) for series in _by_series(folder, files, False)]


def series_of(path: Path, wanted: str = "") -> Series:
    """Return the series in a folder, or the one that a file belongs to.

    Args:
        path: the folder or file.
        wanted: which one of several, see `Series.fits`; empty where there has to be one.

    Raises:
        MissingLibrary: SimpleITK.
        InvalidCaseError: there is none, the folder holds several, or a file in it that is called one of DICOM is
            none: at an end of the stack nothing else would show that its slice is missing.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    found: Sequence[Series] = _series_in(folder, _state(folder))
    if not path.is_dir():
        found = [series for series in found if path in series.files]
    fitting = [series for series in found if series.fits(wanted)] if wanted and path.is_dir() else found
    if len(fitting) == 1:
        return fitting[0]
    if not found:
        message = "holds no DICOM series"
    elif not fitting:
        message = f"no DICOM series fits {wanted!r}"
    elif wanted:
        message = f"{len(fitting)} DICOM series fit {wanted!r}; name the one by its key"
    else:
        message = f"holds {len(found)} DICOM series; name one file of the one, or the one by --series KEY"
    raise InvalidCaseError(f"{path}: {message}", "layout", list_series(fitting or found))


def scattered(series: Sequence[Series]) -> dict[str, list[Path]]:
    """Return the folders of every series, by its identifier, whose files lie in several; whole copies do not count."""
    folders: dict[str, dict[str, Path]] = defaultdict(dict)
    for one in series:
        if one.uid:
            folders[one.uid].setdefault(one.content, one.folder)
    return {uid: list(those.values()) for uid, those in folders.items() if len(those) > 1}


def list_series(series: Sequence[Series]) -> str:
    """Return a line per series: key, modality, number of slices, folder's file and description."""
    if not series:
        return ""
    lines = [
        f"  {one.key}  {one.modality or '-':4}  {one.num_slices:5} slices  {one.files[0].name}  {one.description}"
        for one in series
    ]
    return "\n".join(line.rstrip() for line in lines)


@functools.lru_cache(maxsize=1)  # each of the series in one folder asks for all of them: 8 of 48 files read 384 headers
def _series_in(folder: Path, state: str) -> tuple[Series, ...]:
    """Return the series of a folder, which are looked up again where its `state` is another.

    Raises:
        MissingLibrary: SimpleITK.
        InvalidCaseError: as `series_of`.
    """
    entries = list(walk(folder, is_deep=False))
    files = [file for file in entries if is_dicom(file)]
    known = set(files)
    damaged = [file for file in entries if file.suffix.lower() in ENDINGS and file not in known]
    if files and damaged:
        raise InvalidCaseError(f"{damaged[0]}: is called a DICOM file and is none; copy or export it again")
    return tuple(_by_series(folder, [file for file in files if is_scan(file)], is_strict=True))


def _state(folder: Path) -> str:
    """Return a hash that changes when a file of a folder is added, removed, written, replaced or given other rights."""
    state = hashlib.sha256()
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        names = []
    for name in names:
        try:
            one = os.stat(folder / name)
            seen = [one.st_size, one.st_mtime_ns, one.st_ctime_ns, one.st_ino, one.st_mode]
        except OSError:
            seen = []
        state.update(repr((name, seen)).encode("utf-8", "surrogateescape"))
    return state.hexdigest()


def _by_series(folder: Path, files: Sequence[Path], is_strict: bool) -> list[Series]:
    members = defaultdict(list)
    texts: dict[str, tuple[str, ...]] = {}
    instances: dict[str, list[str]] = defaultdict(list)
    for file in files:
        try:
            header = open_header(file)
            found = tuple(
                str(header.GetMetaData(tag)).strip() if header.HasMetaDataKey(tag) else ""
                for tag in (_SERIES, _MODALITY, _DESCRIPTION, _REFERENCE, _PATIENT, _FRAMES, _INSTANCE)
            )
        except InvalidCaseError:
            if is_strict:
                raise
            found = ("",) * 7  # a series of its own, and reading it says what is wrong
        texts.setdefault(found[0], found)
        members[found[0]].append(file)
        instances[found[0]].append(found[-1])
    series = []
    for uid, its_files in members.items():
        _, modality, description, reference, patient, frames, _ = texts[uid]
        key, content = _hash(uid)[:8], _hash(" ".join(sorted(instances[uid])))
        count = len(its_files) if not frames.isdigit() else max(int(frames), len(its_files))
        series.append(
            Series(folder, key, tuple(its_files), uid, modality, description, reference, patient, count, content)
        )
    return series


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

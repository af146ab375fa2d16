"""The scans that a prediction is asked for: files, folders, lists, stores and DICOM series."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from medpretrain3d.documents import read_text
from medpretrain3d.errors import UserError
from medpretrain3d.inference.voxel_reader import VoxelReader
from medpretrain3d.names import plain_name
from medpretrain3d.store.case import voxels_sha256
from medpretrain3d.store.corpus import CaseRef, Corpus
from medpretrain3d.store.file_names import ScanFiles, channel_files, is_label_map
from medpretrain3d.store.readers import VOLUME_ENDINGS, find_volumes, source_files, volume_ending, volume_stem
from medpretrain3d.store.readers.dicom_header import is_dicom, is_scan
from medpretrain3d.store.store import Store
from medpretrain3d.store.unit import Unit
from medpretrain3d.store.volume import Volume, read_channels
from medpretrain3d.urls import url_of


class ScanInput(Protocol):
    """A scan that has not been read yet."""

    @property
    def case(self) -> str:
        """Id in the results."""

    @property
    def file(self) -> str:
        """Name of the scan's file or folder, without the folders above it."""

    @property
    def dicom(self) -> tuple[Path, str] | None:
        """Folder or file of a DICOM series, and which one there; None where the scan is none."""

    def open(self, unit: Unit = "hu") -> VoxelReader:
        """Read what is needed. Raises UserError where the scan is damaged."""

    def sha256(self) -> str:
        """Return changes when the scan does."""

    def voxels(self, opened: VoxelReader) -> str:
        """Hash of the voxels before resampling, as `CaseRef.voxels`, of what `open` gave; empty if they are gone."""


@dataclass(frozen=True)
class ScanPath:
    """A file of any format of `data.readers`, or the folder of a DICOM series."""

    path: Path
    more: tuple[Path, ...] = ()
    """Files of further channels."""
    series: str = ""
    """Of DICOM, which series of several in the folder: its identifier, its key or its description."""
    straighten: bool = False
    """Of DICOM, whether the slices of a tilted gantry are moved back."""
    is_numbered: bool = False
    """Whether a number at the end of the name, as `_0000`, is that of the scan and not of a channel."""

    @property
    def case(self) -> str:
        """The name without its ending and without nnU-Net's channel `_0000`."""
        stem = volume_stem(self.path)
        return stem if self.is_numbered else stem.removesuffix("_0000")

    @property
    def file(self) -> str:
        """The name."""
        return self.path.name

    @property
    def dicom(self) -> tuple[Path, str] | None:
        """The path, where it is no file that holds a whole volume."""
        return None if volume_ending(self.path) else (self.path, self.series)

    def open(self, unit: Unit = "hu") -> VoxelReader:
        """Read the scan. Raises UserError where it is damaged."""
        return read_channels([self.path, *self.more], unit, self.series, self.straighten)

    def sha256(self) -> str:
        """Compute the SHA-256 of the files, or of all slices."""
        digest = hashlib.sha256()
        for path in (file for part in (self.path, *self.more) for file in source_files(part)):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        if self.series or self.straighten:  # other voxels of the same files
            digest.update(f"{self.series} {self.straighten}".encode())
        return digest.hexdigest()

    def voxels(self, opened: VoxelReader) -> str:
        """Compute the voxel hash of the volume that was read."""
        return voxels_sha256(opened.array) if isinstance(opened, Volume) else ""


@dataclass(frozen=True)
class StoredScan:
    """A case of a store."""

    ref: CaseRef

    @property
    def case(self) -> str:
        """The case's id in the store."""
        return self.ref.case_id

    @property
    def file(self) -> str:
        """Name of the file the case was prepared from."""
        return self.ref.open().source_file

    @property
    def dicom(self) -> tuple[Path, str] | None:
        """A store keeps no headers."""
        return None

    def open(self, unit: Unit = "hu") -> VoxelReader:
        """Open the case, in its store's unit; voxels are read tile by tile. Raises UserError where it is damaged."""
        return self.ref.open()

    def sha256(self) -> str:
        """Return the SHA-256 taken when the case was prepared."""
        return str(self.ref.open().sidecar["sha256"])

    def voxels(self, opened: VoxelReader) -> str:
        """From the index."""
        return self.ref.voxels


def find_scans(
    paths: Sequence[Path],
    split: str = "all",
    fold: int | None = None,
    series: str = "",
    straighten: bool = False,
    num_channels: int | None = None,
) -> list[ScanInput]:
    """Return the scans behind what was named, in that order.

    A path may be a volume file; a folder with volume files directly inside, in the order of their names, where `_0000`
    and `_0001` are channels unless scans have only one, and what is called a label map (`p1_seg.nii.gz`) does not
    count; the folder of a DICOM series, or a folder of such folders; a text file with one path per line, relative to
    the text file, where empty lines and lines that begin with # do not count; or a store.

    Args:
        paths: as named.
        split: of stores: `train`, `val`, `test`, or `all` cases.
        fold: of stores, whose split is meant; None for their named splits.
        series: of folders that hold several DICOM series, which one is meant: its identifier, key or description.
        straighten: whether slices of DICOM series that a tilted gantry shifted are moved back; else they are refused.
        num_channels: of every scan; None where nobody says.

    Raises:
        UserError: a path where nothing is, a folder without scans, a list that is empty or cannot be read, two scans
            with the same case id, or a split where no store is named.
    """
    by_case: dict[str, ScanInput] = {}
    for path in paths:
        for scan in _behind(path, split, fold, num_channels):
            plain_name(scan.case, "case id")  # files of its results are called by it
            if isinstance(scan, ScanPath):
                scan = replace(scan, series=series, straighten=straighten)
            if by_case.get(scan.case) == scan:
                raise UserError(f"{_name(scan)}: is named twice; name it once")
            if scan.case in by_case:
                names = f"{_name(by_case[scan.case])} and {_name(scan)}"
                raise UserError(f"{names} both have the case id '{scan.case}'; rename one of them")
            by_case[scan.case] = scan
    if (split != "all" or fold is not None) and not any(isinstance(scan, StoredScan) for scan in by_case.values()):
        asked = f"split '{split}'" if fold is None else f"split '{split}' of fold {fold}"
        raise UserError(f"{asked}: only stores have splits, and no store is named; leave it out, or name a store")
    return list(by_case.values())


def label_maps_in(paths: Sequence[Path]) -> list[Path]:
    """Return the files of folders of scans that `find_scans` leaves out, since they are called as label maps."""
    folders = [path for path in paths if path.is_dir() and not Store.is_at(path)]
    return [file for folder in folders for file in find_volumes(folder) if is_label_map(Path(file.name))]


def _behind(path: Path, split: str, fold: int | None, num_channels: int | None) -> Iterator[ScanInput]:
    if path.suffix == ".txt":
        for listed in _listed(path):
            try:
                for scan in _behind(listed, split, fold, num_channels):
                    plain_name(scan.case, "case id")
                    yield scan
            except UserError as error:
                raise UserError(f"{path}: {error}") from error
    elif Store.is_at(path):
        for ref in Corpus([path]).cases(split, fold):
            yield StoredScan(ref)
    elif path.is_dir():
        yield from _inside(path, num_channels)
    elif path.exists():
        yield ScanPath(path)
    else:  # found before anything is read: a slip in a name is not a scan that could not be predicted
        raise UserError(f"{path}: no such file or folder; name scans, folders of them, lists or stores")


def _inside(folder: Path, num_channels: int | None) -> list[ScanPath]:
    """The volumes in a folder but label maps, or itself where it is a DICOM series, or the series directly inside."""
    volumes = [path for path in find_volumes(folder) if not is_label_map(Path(path.name))]
    if volumes:
        # What could be either are channels, whose number whoever reads them compares with what is wanted.
        return [
            ScanPath(scan.files[0], scan.files[1:], is_numbered=_is_numbered(scan))
            for scan in channel_files(volumes, num_channels)
        ]
    if _is_series(folder):
        return [ScanPath(folder)]
    series = sorted(inner for inner in folder.glob("[!.]*") if inner.is_dir() and _is_series(inner))
    if not series:
        raise UserError(
            f"{folder}: holds no volume ({', '.join(VOLUME_ENDINGS)}) and no DICOM series; name the folder with the "
            "scans themselves"
        )
    return [ScanPath(inner) for inner in series]


def _is_numbered(scan: ScanFiles) -> bool:
    return scan.id == volume_stem(scan.files[0]) and scan.id.endswith("_0000")


def _is_series(folder: Path) -> bool:
    """Return whether a DICOM file of a scan lies directly in a folder."""
    return any(file.is_file() and is_dicom(file) and is_scan(file) for file in folder.glob("[!.]*"))


def _listed(path: Path) -> list[Path]:
    lines = [line.strip() for line in read_text(path, "give a list of scans, one path per line").splitlines()]
    named = [line for line in lines if line and not line.startswith("#")]
    listed = [Path(line) if url_of(line) else path.parent / line for line in named]
    if not listed:
        raise UserError(f"{path}: names no scan; give one path per line")
    if nested := [inner for inner in listed if inner.suffix == ".txt"]:
        raise UserError(f"{path}: names the list {nested[0].name}; a list may not name lists")
    return listed


def _name(scan: ScanInput) -> str:
    return str(scan.path) if isinstance(scan, ScanPath) else f"case {scan.case} of a store"

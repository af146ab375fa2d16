"""One way to open any volume: NIfTI, NRRD, MetaImage, and DICOM series."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medpretrain3d.errors import UserError
from medpretrain3d.store.readers import dicom, metaimage, nifti, nrrd
from medpretrain3d.store.readers.declared_header import DAMAGED_DEFLATE
from medpretrain3d.store.readers.dicom_header import MissingLibrary, is_dicom, is_scan
from medpretrain3d.store.readers.dicom_series import Series, find_series, scattered, series_of
from medpretrain3d.store.readers.scan import Scan
from medpretrain3d.store.readers.walk import walk
from medpretrain3d.store.skipped_cases import InvalidCaseError

__all__ = [
    "VOLUME_ENDINGS",
    "MissingLibrary",
    "Scan",
    "Series",
    "find_series",
    "find_volumes",
    "is_dicom",
    "read_scan",
    "scattered",
    "series_of",
    "source_files",
    "volume_ending",
    "volume_stem",
    "walk",
]

_READERS: dict[str, Callable[[Path], Scan]] = {
    **dict.fromkeys(nifti.ENDINGS, nifti.read_nifti),
    **dict.fromkeys(nrrd.ENDINGS, nrrd.read_nrrd),
    **dict.fromkeys(metaimage.ENDINGS, metaimage.read_metaimage),
}
VOLUME_ENDINGS = tuple(_READERS)
"""Endings of files that hold a whole volume, in lower case; DICOM series are folders, or the file of a slice."""


def read_scan(path: Path, series: str = "", straighten: bool = False) -> Scan:
    """Read a file of any known ending, the DICOM series in a folder, or the series that a DICOM file belongs to.

    Args:
        path: the file or folder.
        series: of DICOM, which one of several in the folder, see `read_dicom`.
        straighten: of DICOM, whether a tilted gantry is corrected.

    Raises:
        MissingLibrary: DICOM is asked for and its library is not installed.
        InvalidCaseError: the file is missing, empty, damaged, of no known format, or what its reader refuses.
    """
    path = Path(path)
    check_there(path)
    ending = volume_ending(path)
    if not ending and (path.is_dir() or is_dicom(path)):
        return dicom.read_dicom(path, series, straighten)
    if not ending:
        raise InvalidCaseError(
            f"{path}: wanted a volume ({', '.join(VOLUME_ENDINGS)}) or a DICOM series; convert it first", "layout"
        )
    if path.stat().st_size == 0:
        raise InvalidCaseError(f"{path}: is empty; copy or export it again")
    try:
        return _READERS[ending](path)
    except UserError:
        raise
    except DAMAGED_DEFLATE as error:
        raise InvalidCaseError(
            f"{path}: damaged or truncated compressed data ({error}); copy or export it again"
        ) from error
    except OSError as error:
        raise InvalidCaseError(f"{path}: cannot be read ({error.strerror or type(error).__name__})") from error
    except (ValueError, KeyError, IndexError, OverflowError) as error:  # its text may quote the header
        raise InvalidCaseError(f"{path}: its header is damaged; copy or export it again") from error


def check_there(path: Path) -> None:
    """Refuse a path at which there is nothing.

    Raises:
        InvalidCaseError: no file or folder, a link that leads nowhere, or a name that the file system cannot have.
    """
    try:
        if path.exists():
            return
        message = "is a link that leads nowhere; copy what it was to lead to" if path.is_symlink() else "no such file"
    except OSError as error:
        message = f"cannot be read ({(error.strerror or type(error).__name__).lower()})"
    raise InvalidCaseError(f"{path}: {message}")


def volume_ending(path: Path) -> str:
    """Return the known ending of a file's name, in lower case; empty where it has none."""
    name = Path(path).name.lower()
    return next((ending for ending in VOLUME_ENDINGS if name.endswith(ending)), "")


def volume_stem(path: Path) -> str:
    """Return a volume's file name without its ending, a folder's or slice's name as it is."""
    name = Path(path).name
    return name[: len(name) - len(volume_ending(path))]


def find_volumes(folder: Path, recursive: bool = False) -> list[Path]:
    """The volume files of a folder in order, links that lead nowhere among them, hidden files not; see `walk`."""
    return sorted(path for path in walk(folder, is_deep=recursive) if volume_ending(path))


def source_files(path: Path) -> list[Path]:
    """Return every file that a volume is read from: header and voxels, or all files in the folder of a DICOM series; of
    a structure set, a segmentation, or a file that is none of these that file alone.

    Raises:
        InvalidCaseError: the file is missing, or the header is damaged.
    """
    path = Path(path)
    check_there(path)
    if volume_ending(path) == ".mhd":
        return metaimage.data_files(path)
    if volume_ending(path) == ".nhdr":
        return nrrd.data_files(path)
    if volume_ending(path):
        return [path]
    if path.is_file() and not (is_dicom(path) and is_scan(path)):
        return [path]
    folder = path if path.is_dir() else path.parent
    return sorted(file for file in folder.iterdir() if file.is_file())

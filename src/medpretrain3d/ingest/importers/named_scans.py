"""The scans of a folder as a table or document names them: by a path of a file or of the folder of a DICOM series."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medpretrain3d.ingest.importers.base import RawCase
from medpretrain3d.ingest.importers.files import below
from medpretrain3d.ingest.importers.folder import scans_and_series
from medpretrain3d.store.file_names import case_id_of


class NamedScans:
    """Every scan below a folder, and the cases that paths in it mean.

    Args:
        raw: the folder.
    """

    def __init__(self, raw: Path) -> None:
        self.raw = raw
        self.scans, self._of_file = scans_and_series(raw)
        paths = {path for scan in self.scans for path in scan.images} | set(self._of_file)
        self._composed = {_composed(path.relative_to(raw).as_posix()): path for path in sorted(paths)}

    def path(self, name: str) -> Path:
        """Return the path that a name below the folder means, however its accents are composed.

        Raises:
            UserError: it leads out of the folder.
        """
        path = below(self.raw, name)
        return path if path.exists() else self._composed.get(_composed(path.relative_to(self.raw).as_posix()), path)

    def cases(self, paths: Iterable[Path]) -> dict[Path, RawCase]:
        """Return the case of each path, of the patient that a DICOM header names; files of one series mean one case.

        It is called as its path is. A series is called as `read_folder` calls it where it has its folder to itself, or
        several paths mean it.
        """
        names: dict[str, list[Path]] = defaultdict(list)
        for path in dict.fromkeys(paths):
            names[self._of_file[path].id if path in self._of_file else ""].append(path)
        return {path: self._case(path, names) for those in names.values() for path in those}

    def _case(self, path: Path, names: Mapping[str, Sequence[Path]]) -> RawCase:
        scan = self._of_file.get(path)
        if scan is None:
            return RawCase(case_id_of(path, self.raw), (path,))
        if scan.images[0].is_dir() or len(names[scan.id]) > 1:
            return scan
        return replace(scan, id=case_id_of(path, self.raw), images=(path,))

    def others(self, paths: Iterable[Path]) -> list[RawCase]:
        """Return the scans that none of some paths means."""
        named = set(paths)
        series = {self._of_file[path].id for path in named if path in self._of_file}
        return [scan for scan in self.scans if scan.id not in series and not named & set(scan.images)]


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)

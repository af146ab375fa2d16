"""The scans of a folder as a table or document names them: by a path of a file or of the folder of a DICOM series."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from medpretrain3d.ingest.importers.base import RawCase
from medpretrain3d.ingest.importers.files import below
from medpretrain3d.ingest.importers.folder import scans_and_series
from medpretrain3d.store.file_names import case_id_of


class NamedScans:
    """Every scan below a folder, and the case that a path in it means.

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

    def case(self, path: Path) -> RawCase:
        """Return the case of a path, of the patient that a DICOM header names; one that is not there has none."""
        scan = self._of_file.get(path)
        return RawCase(case_id_of(path, self.raw), (path,), patient=scan and scan.patient)

    def others(self, paths: Iterable[Path]) -> list[RawCase]:
        """Return the scans that none of some paths means."""
        named = set(paths)
        series = {self._of_file[path].id for path in named if path in self._of_file}
        return [scan for scan in self.scans if scan.id not in series and not named & set(scan.images)]


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)

"""Volumes that a validation or test has looked at, a file each, so that one that is interrupted goes on behind them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from medpretrain3d.errors import UserError
from medpretrain3d.inference import InferenceConfig, RawDetections
from medpretrain3d.inference.cached_detections import CachedCase, CachedDetections
from medpretrain3d.names import plain_name
from medpretrain3d.store.case import Case


class FinishedVolumes:
    """A folder of `<case>.safetensors` files, each valid for one set of weights and settings.

    Processes write the volumes that they are dealt; the first one removes the folder, once all have what is in it.

    Args:
        folder: where the files are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._made_by = ""

    def begin(self, made_by: str) -> None:
        """Look for volumes of some weights and settings from now on.

        Args:
            made_by: their digest, the same on every process.
        """
        self._made_by = made_by

    def load(self, case: Case) -> RawDetections | None:
        """Return what was seen in a volume; None if it was not looked at, or with other weights or settings."""
        try:
            found = CachedDetections.load(self._path(case))
        except UserError:  # unreadable is as good as absent: the volume is looked at again
            return None
        if found.made_by != self._made_by or [one.case for one in found.cases] != [case.id]:
            return None
        return found.cases[0].raw_detections

    def save(
        self, case: Case, raw_detections: RawDetections, classes: Sequence[str], inference: InferenceConfig
    ) -> None:
        """Keep what was seen in a volume.

        Raises:
            UserError: the disk is full or the folder cannot be written.
        """
        seen = (CachedCase.of(case, raw_detections),)
        CachedDetections(tuple(classes), inference, seen, self._made_by).save(self._path(case))

    def remove(self) -> None:
        """Remove all files; the first process calls this when no other one can be in a validation or test."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, case: Case) -> Path:
        return self.folder / f"{plain_name(case.id, 'case id')}.safetensors"

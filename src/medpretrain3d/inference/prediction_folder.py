"""The folder that scans are predicted into: what earlier calls left, and when this one's files take its place."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medpretrain3d.atomic import finished_file
from medpretrain3d.inference.prediction import Prediction
from medpretrain3d.inference.writers import CASE_WRITERS, cases_written, formats_written, mask_path, mask_sha256
from medpretrain3d.inference.writers.earlier import entries_written

MASKS, PREVIEW = "masks", "preview"
ENDINGS = (".nii.gz", ".mrk.json", ".dcm", ".png")
"""Of files of one scan, which are called by its case."""


class PredictionFolder:
    """A folder of predictions, whose files shall all be of the boxes in its files of all scans.

    Where an earlier call left files of all scans, those of single scans are made in `place` until it is known whether
    the earlier ones stay (`publish`); else they are made where they belong. Masks in `place` survive an interruption.

    Args:
        folder: may be missing.
        formats: asked for. Files of all scans that are there in another format are written anew, too.
    """

    def __init__(self, folder: Path, formats: Sequence[str]) -> None:
        self.folder = Path(folder)
        self.formats = list(dict.fromkeys([*formats, *formats_written(self.folder)]))
        self.cases = cases_written(self.folder, self.formats)
        """Of earlier calls."""
        self.place = self.folder / "cases" / "staged" if self.cases else self.folder
        self._earlier = entries_written(self.folder)
        if self.is_staged:
            for path in self.place.glob("*"):
                if path.name != MASKS:
                    shutil.rmtree(path)

    @property
    def is_staged(self) -> bool:
        """Whether files of this call wait for `publish`."""
        return self.place != self.folder

    def mask_files(self, case: str) -> list[Path]:
        """Return where the instance map of a case may be, that of this call first."""
        return list(dict.fromkeys([mask_path(self.place, case), mask_path(self.folder, case)]))

    def take_over_masks(self, case: str, sha256: str) -> None:
        """Put the instance map of a case, as an earlier call wrote it, beside the files of this one."""
        own, *published = self.mask_files(case)
        if published and not (own.is_file() and mask_sha256(own) == sha256):
            with finished_file(own) as unfinished:
                shutil.copyfile(published[0], unfinished)

    def publish(self, cases: Collection[str], with_masks: bool) -> None:
        """Let the files of single scans take the place of earlier ones.

        Args:
            cases: that were predicted.
            with_masks: whether instance maps are among them.

        Raises:
            UserError: the folder cannot be written.
        """
        if not self.is_staged:
            return
        masks = {mask_path(self.place, case) for case in cases} if with_masks else set()
        made = [path for path in _files(self.place) if path.parent.name != MASKS or path in masks]
        for path in made:
            with finished_file(self.folder / path.relative_to(self.place)) as unfinished:
                path.replace(unfinished)
        names = {path.relative_to(self.place) for path in made}
        for name in {*self.formats, *([MASKS] if with_masks else [])} & set(CASE_WRITERS.names()):
            for path, case in _of_cases(self.folder / name):
                if case in cases and path.relative_to(self.folder) not in names:
                    path.unlink()  # of boxes that are gone, and of these there is nothing to write
        shutil.rmtree(self.place, ignore_errors=True)

    def remove_stale(self, shown: Sequence[Prediction], written: Collection[str]) -> list[str]:
        """Remove masks that number boxes of an earlier call; return what to say of these and of other files left.

        Masks are known by their SHA-256 in the earlier `predictions.json`; whatever else is left is named and stays,
        for somebody may have worked on it.

        Args:
            shown: what the files of all scans hold now.
            written: formats of single scans that this call wrote of all of them.
        """
        now = {one.case: one for one in shown}
        same = {case for case, one in now.items() if _has_boxes(self._earlier.get(case), one)}
        num_removed, left = 0, Counter[str]()
        for name in dict.fromkeys([*CASE_WRITERS.names(), PREVIEW]):
            for path, case in _of_cases(self.folder / name):
                if case in now and (name in written or (now[case].mask_sha256 if name == MASKS else case in same)):
                    continue
                recorded = self._earlier.get(case, {}).get("mask_sha256")
                if name == MASKS and case in now and recorded is not None and mask_sha256(path) == recorded:
                    path.unlink()
                    num_removed += 1
                else:
                    left[name] += 1
        notes = [f"{num_removed} masks of other boxes removed from {self.folder / MASKS}"] if num_removed else []
        if left:
            counts = ", ".join(f"{count} in {name}" for name, count in left.items())
            notes.append(
                f"{self.folder} also holds files of an earlier call, of other scans or boxes than this one's: {counts}"
                "; remove them, or predict into another folder"
            )
        return notes


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def _of_cases(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files of single scans in a folder, with their cases."""
    for path in sorted(folder.glob("[!.]*")):
        ending = next((one for one in ENDINGS if path.name.endswith(one)), None)
        if ending is not None and path.is_file():
            yield path, path.name.removesuffix(ending)


def _has_boxes(entry: Mapping[str, Any] | None, prediction: Prediction) -> bool:
    """Return whether an entry of a predictions file has the boxes of a prediction."""
    own = prediction.to_json()
    return entry is not None and all(entry.get(key) == own[key] for key in ("boxes", "boxes_vox", "scores", "labels"))

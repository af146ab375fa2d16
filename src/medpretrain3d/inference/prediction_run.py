"""Scans predicted into a folder: what an earlier call did is taken over, and the next scan is read ahead."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from medpretrain3d.errors import UserError
from medpretrain3d.inference.finished_cases import FinishedCases
from medpretrain3d.inference.inputs import ScanInput
from medpretrain3d.inference.prediction import Prediction
from medpretrain3d.inference.prediction_folder import PREVIEW, PredictionFolder
from medpretrain3d.inference.predictor import Predictor
from medpretrain3d.inference.regions import Regions
from medpretrain3d.inference.started_scan import StartedScan, start_ahead
from medpretrain3d.inference.thresholds import Thresholds
from medpretrain3d.inference.writers import write_case, write_predictions
from medpretrain3d.store.skipped_cases import InvalidCaseError

if TYPE_CHECKING:
    from tqdm import tqdm


@dataclass
class PredictionRun:
    """Predicts scans into a folder, and holds what came of it."""

    folder: PredictionFolder
    predictor: Predictor
    finished: FinishedCases
    thresholds: Thresholds | None = None
    """Applied to what is shown; boxes are kept for a later call whatever their score."""
    regions: Regions | None = None
    with_masks: bool = False
    with_voxels: bool = False
    """Whether voxels of new scans are hashed, to tell which of them were trained on."""
    with_preview: bool = False
    """Whether pictures of the scans are made once their files are written."""
    predictions: list[Prediction] = field(default_factory=list)
    """As they are shown."""
    failures: list[ScanInput] = field(default_factory=list)
    num_reused: int = 0
    notes: list[str] = field(default_factory=list)
    """What happened to other files of earlier calls."""
    voxels: dict[str, str] = field(default_factory=dict)
    """Hash of the voxels of each case that was looked at."""

    def predict(self, scans: Sequence[ScanInput]) -> None:
        """Predict every scan and write its own files; one that fails is said, and the others go on.

        Raises:
            UserError: results cannot be written, which is no matter of one scan.
        """
        from tqdm import tqdm

        with closing(start_ahead(scans, self._start)) as all_started:
            for scan, started in tqdm(all_started, total=len(scans), desc="predict", unit="scan", disable=None):
                error = self._finish(scan, started)
                if error is not None:
                    self.failures.append(scan)
                    tqdm.write(f"error: {error}", file=sys.stderr)

    def write(self) -> tuple[bool, list[str]]:
        """Write the files of all scans, unless scans failed and the files would hold fewer than those that are there.

        Those of single scans take the place of earlier ones with them, or do not.

        Returns:
            Whether those of an earlier call were kept, and the cases that these hold and new ones do not.
        """
        made = {prediction.case for prediction in self.predictions}
        lost = [case for case in self.folder.cases if case not in made]
        is_kept = bool(self.failures) and (bool(lost) or not self.predictions)
        if not is_kept:
            self.folder.publish(made, self.with_masks)
            write_predictions(self.folder.folder, self.predictor.classes, self.predictions, self.folder.formats)
            more = {"masks": self.with_masks, PREVIEW: self.with_preview}
            written = {*self.folder.formats, *(name for name, is_made in more.items() if is_made)}
            self.notes = self.folder.remove_stale(self.predictions, written)
        return is_kept, lost

    def _start(self, scan: ScanInput) -> Prediction | StartedScan | UserError:
        """Take a scan over from an earlier call, or begin to read it; in a thread, while another is predicted."""
        masks = self.folder.mask_files(scan.case)
        # What waits for its place is of no call that makes no masks, and goes with its end.
        prediction = self.finished.load(scan, masks if self.with_masks else masks[-1:], self.with_masks)
        if prediction is not None:
            return prediction
        try:
            self.finished.note(scan)
            opened = scan.open(self.predictor.unit)
            if self.with_voxels:
                self.voxels[scan.case] = scan.voxels(opened)
            near = None if self.regions is None else self.regions.near(scan.case)
            return self.predictor.start(opened, scan.file or scan.case, near)
        except UserError as error:
            return error

    def _finish(self, scan: ScanInput, started: Prediction | StartedScan | UserError) -> UserError | None:
        """Return what is wrong with the scan, if anything is."""
        if isinstance(started, Prediction):
            prediction, self.num_reused = started, self.num_reused + 1
            if self.with_masks and prediction.mask_sha256 is not None:
                self.folder.take_over_masks(scan.case, prediction.mask_sha256)
        else:
            try:
                prediction = self._predicted(scan, started)
            except UserError as error:
                return error
            write_case(self.folder.place, self.predictor.classes, self._applied(prediction), ["masks"])
            prediction = dataclasses.replace(prediction, instances=None)  # as large as the scan
            masks = self.folder.mask_files(scan.case)[0] if self.with_masks else None
            prediction = dataclasses.replace(prediction, mask_sha256=self.finished.save(prediction, scan, masks))
        shown = self._applied(prediction)
        if not self.with_masks and len(shown) < len(prediction):
            shown = dataclasses.replace(shown, mask_sha256=None)  # they number the boxes that are left out, too
        of_source = dataclasses.replace(shown, source=scan.dicom)
        try:
            write_case(self.folder.place, self.predictor.classes, of_source, self.folder.formats)
        except InvalidCaseError as error:
            return error
        self.predictions.append(shown)
        return None

    def _predicted(self, scan: ScanInput, started: StartedScan | UserError) -> Prediction:
        from tqdm import tqdm

        if isinstance(started, UserError):
            raise started
        with closing(started), tqdm(desc=scan.case, unit="tile", leave=False, disable=None) as bar:
            return self.predictor.predict(started, scan.case, scan.file, _shown_on(bar), self.with_masks)

    def _applied(self, prediction: Prediction) -> Prediction:
        return prediction if self.thresholds is None else self.thresholds.applied(prediction)


def _shown_on(bar: tqdm[NoReturn]) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return show

"""A detector bundle at work: a scan in, boxes in the scan's own coordinates out."""

from __future__ import annotations

from pathlib import Path

import torch

from medpretrain3d.data.volume import Volume, read_volume, resample
from medpretrain3d.errors import UserError
from medpretrain3d.inference.bundle import Bundle
from medpretrain3d.inference.config import InferenceConfig
from medpretrain3d.inference.sliding_window import Progress, detect_volume
from medpretrain3d.inference.writers import Prediction

ENDINGS = (".nii.gz", ".nii")


class Predictor:
    """Finds boxes in scans: resample as the bundle says, window, slide, and back to the scan's own grid.

    Args:
        bundle: what `load_bundle` gave; its detector moves to `device`.
        device: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, ...
        config: `None` is the bundle's own; `dataclasses.replace(bundle.inference, overlap=0.25)` changes a part of it.
        batch_size: tiles per forward pass.

    Raises:
        UserError: a device that does not exist here.
    """

    def __init__(
        self, bundle: Bundle, device: str = "auto", config: InferenceConfig | None = None, batch_size: int = 1
    ) -> None:
        self.bundle = bundle
        self.config = config or bundle.inference
        self.batch_size = batch_size
        self.device = _device(device)
        self.detector = bundle.detector.to(self.device).eval()

    def predict(self, volume: Volume, case: str, file: str = "", progress: Progress | None = None) -> Prediction:
        """Boxes in a volume, in voxels of its file and in LPS millimetres, best score first.

        Args:
            volume: as `read_volume` gives it; intensities in the unit of the training data (HU for CT).
            case: id of the scan in the result.
            file: name of the scan's file in the result.
            progress: called with (tiles done, tiles in all).

        Raises:
            UserError: the volume does not have the number of channels the detector was trained with.
        """
        wanted = self.bundle.preprocessing
        if len(volume.array) != wanted.num_channels:
            raise UserError(
                f"{file or case}: has {len(volume.array)} channels, the bundle was trained on {wanted.num_channels}; "
                "give scans with the channels of the training data"
            )
        if wanted.spacing_mm is not None:
            volume = resample(volume, wanted.spacing_mm)
        detections = detect_volume(
            self.detector,
            torch.from_numpy(wanted.window.fitted(volume.statistics)(volume.array)),
            wanted.patch,
            self.config,
            batch_size=self.batch_size,
            pad_value=wanted.pad_value,
            progress=progress,
        )
        return Prediction.of(case, detections, volume.grid, volume.source_grid, file)

    def predict_file(self, path: Path, progress: Progress | None = None) -> Prediction:
        """Boxes in a NIfTI file; the case id is the file's name without its ending and without nnU-Net's `_0000`.

        Raises:
            UserError: the file cannot be read, or has other channels than the training data.
        """
        path = Path(path)
        return self.predict(read_volume(path), case_id(path), path.name, progress)


def case_id(path: Path) -> str:
    """Id of the case in a scan's file: its name without `.nii.gz` or `.nii` and without nnU-Net's channel `_0000`."""
    name = Path(path).name
    for ending in ENDINGS:
        name = name.removesuffix(ending)
    return name.removesuffix("_0000")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device '{name}' cannot be used here ({reason}); use auto or cpu") from error
    return device

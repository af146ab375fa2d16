"""A trained detector in a program: made from a folder or a hub, asked about scans."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medpretrain3d.api.scans import ScanLike, as_volume
from medpretrain3d.backbones.checkpoints.source import locate
from medpretrain3d.errors import UserError
from medpretrain3d.inference import Prediction, Predictor, Regions, load_members
from medpretrain3d.precision.names import Precision
from medpretrain3d.store.readers import volume_stem


class Detector:
    """A bundle, or an ensemble of several, that finds boxes in scans.

    Args:
        predictor: what runs it.

    Example:
        >>> import numpy as np
        >>> import medpretrain3d as mp
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.detection import FCOS
        >>> from medpretrain3d.inference import save_bundle
        >>> from medpretrain3d.store import Preprocessing
        >>> from tempfile import TemporaryDirectory
        >>> network = FCOS(ResEnc("XXS"), num_classes=1, fpn_channels=16, head_convs=1)
        >>> with TemporaryDirectory() as folder:
        ...     _ = save_bundle(f"{folder}/bundle", network, ["nodule"], Preprocessing((16, 16, 16)))
        ...     detector = mp.Detector.from_pretrained(f"{folder}/bundle", device="cpu")
        >>> prediction = detector.predict(np.zeros((16, 16, 16), np.int16), spacing_mm=(1, 1, 1))
        >>> detector.classes, prediction.boxes_lps_mm.shape[1]
        (('nodule',), 6)
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | Sequence[str | Path],
        device: str = "auto",
        precision: Precision | None = None,
        **changes: Any,
    ) -> Detector:
        """Load a detector.

        Args:
            source: the folder of a bundle, an ensemble or a fine-tuning run, or `owner/name` of a hub; several are an
                ensemble.
            device: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, ...
            precision: of the network; None is what suits the device.
            changes: fields of `InferenceConfig` that differ from the bundle's, as `score_threshold=0.3`.

        Raises:
            UserError: there is no bundle, it is damaged, a device or precision that there is not, or a change that is
                no such field or out of its range.
        """
        # What is no place at all is said where it is looked for.
        sources = list(source) if isinstance(source, Iterable) and not isinstance(source, str) else [source]
        bundles = [bundle for one in sources for bundle in load_members(_folder(one))]
        try:
            return cls(Predictor(bundles, device, changes, precision=precision))
        except TypeError as error:
            names = ", ".join(vars(bundles[0].inference))
            raise UserError(
                f"got the options {', '.join(changes)}, wanted fields of InferenceConfig: {names}"
            ) from error

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of each label."""
        return tuple(self.predictor.classes)

    def predict(
        self,
        scan: ScanLike,
        affine_lps: np.ndarray | Sequence[Sequence[float]] | None = None,
        spacing_mm: Sequence[float] | None = None,
        case: str = "",
        with_masks: bool = False,
        series: str = "",
        straighten: bool = False,
        regions: Regions | None = None,
    ) -> Prediction:
        """Return the boxes in a scan, best score first.

        They are `boxes_lps_mm` and `boxes_vox` (along the scan's own axes, half-open), with `scores` and `labels`,
        which count in `classes`.

        Args:
            scan: a path, an array (i, j, k) or (C, i, j, k), or an image of nibabel or SimpleITK; see `as_volume`. Its
                values have the unit of the training data, HU for CT.
            affine_lps: of an array, (4, 4) from voxel index to LPS mm.
            spacing_mm: or of an array whose axes grow to superior, posterior and left, the distance of its voxels.
            case: id in the result; of a path its name without ending, else `scan`.
            with_masks: whether objects are segmented too (`instances`), by a detector that can.
            series: of a folder with several DICOM series, which one.
            straighten: whether slices that a tilted gantry shifted are moved back.
            regions: masks or boxes by which candidates are restricted; that of the scan is found by its id.

        Raises:
            UserError: what `as_volume` refuses, other channels than in training, masks of a detector without any, or a
                region that is missing or empty.
        """
        volume = as_volume(scan, affine_lps, spacing_mm, self.predictor.unit, series, straighten)
        path = Path(scan) if isinstance(scan, str | Path) else None
        name = case or (volume_stem(path).removesuffix("_0000") if path else "scan")
        started = self.predictor.start(volume, name, None if regions is None else regions.near(name))
        return self.predictor.predict(started, name, path.name if path else "", with_masks=with_masks)


def predict(bundle: str | Path | Detector, scan: ScanLike, **options: Any) -> Prediction:
    """Return the boxes that a bundle finds in a scan. For several scans make a `Detector` once, which loads it once.

    Args:
        bundle: a folder, a hub's `owner/name`, or a `Detector`.
        scan: see `Detector.predict`.
        options: of `Detector.predict`, and those of `Detector.from_pretrained` that are `device` and `precision`.

    Raises:
        UserError: as these, another option, or one of a `Detector` that is made.
    """
    made_of = {name: options.pop(name) for name in ("device", "precision") if name in options}
    known = list(inspect.signature(Detector.predict).parameters)[2:]
    if unknown := [name for name in options if name not in known]:
        raise UserError(
            f"predict: got {', '.join(unknown)}, wanted options out of {', '.join([*known, 'device', 'precision'])}; "
            "settings of inference are given to Detector.from_pretrained"
        )
    if made_of and isinstance(bundle, Detector):
        raise UserError(
            f"predict: got {', '.join(made_of)} with a Detector, which has its own; give them to "
            "Detector.from_pretrained"
        )
    detector = bundle if isinstance(bundle, Detector) else Detector.from_pretrained(bundle, **made_of)
    return detector.predict(scan, **options)


def _folder(source: str | Path) -> Path:
    path = locate(source)
    if not (path / "bundle.json").is_file():
        raise UserError(
            f"{source}: holds no bundle.json, so it is no detector; give the folder `bundle` of a fine-tuning run, or "
            "load_encoder if it is an encoder"
        )
    return path

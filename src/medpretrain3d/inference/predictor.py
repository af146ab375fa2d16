"""Detector bundles at work: a scan in, boxes in the scan's own coordinates out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medpretrain3d.boxes import Detections
from medpretrain3d.channels_last import to_channels_last
from medpretrain3d.detection.base import Detector
from medpretrain3d.errors import UserError
from medpretrain3d.graph_compilation import CompileMode, compile_parts
from medpretrain3d.inference.box_masks import box_instance_map, mask_head_of
from medpretrain3d.inference.bundle import Bundle, check_members
from medpretrain3d.inference.config import InferenceConfig
from medpretrain3d.inference.inputs import ScanPath
from medpretrain3d.inference.instances import Segmenter, instance_map, to_file_order
from medpretrain3d.inference.merging import merge_raw_detections
from medpretrain3d.inference.prediction import Prediction
from medpretrain3d.inference.raw_detections import RawDetections
from medpretrain3d.inference.region import Near
from medpretrain3d.inference.scan import ScanTiles
from medpretrain3d.inference.second_stage import rescored
from medpretrain3d.inference.sliding_window import Progress
from medpretrain3d.inference.started_scan import StartedScan
from medpretrain3d.inference.voxel_reader import VoxelReader
from medpretrain3d.precision.choice import precision_of
from medpretrain3d.precision.names import Precision
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.unit import Unit


class Predictor:
    """Finds boxes in scans with one bundle, or with several as an ensemble.

    Each member reads the scan at its own spacing, window and patch and in its own views. What all of them saw is merged
    in the scan's own grid as if it were one detector's, in the way of the first member: an object that some members
    miss loses score where boxes are clustered (`wbc`). What was merged gets the scores of both stages where members
    have a second one (`rescored`).

    Args:
        bundles: what `load_bundle` gave, any number: folds, seeds, other detectors. They move to `device`.
        device: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, ...
        changes: fields of `InferenceConfig` in which every member shall differ from its bundle.
        batch_size: tiles per forward pass; `None` is what suits the device (`detect_tiles`).
        precision: of the networks; `None` is what suits the device, see `choose_precision`.
        channels_last: keep the channels of a voxel beside each other, which suits convolutions on tensor cores.
        compile: the networks' parts with `torch.compile`, in this mode.

    Raises:
        UserError: no bundle, members of other classes, a device that does not exist here, no name of a precision, or a
            change out of range.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.detection import FCOS
        >>> from medpretrain3d.inference import Bundle, InferenceConfig, Predictor
        >>> from medpretrain3d.store import Grid, Preprocessing, Volume
        >>> detector = FCOS(ResEnc("XXS"), num_classes=1, fpn_channels=16, head_convs=1)
        >>> bundle = Bundle(detector, ("nodule",), Preprocessing(patch=(16, 16, 16)), InferenceConfig(), {}, sha256="")
        >>> grid = Grid((16, 16, 16), np.diag([1.0, 1, 1, 1]))
        >>> hu = np.random.default_rng(0).integers(-100, 100, (1, 16, 16, 16), dtype=np.int16)
        >>> prediction = Predictor(bundle, device="cpu").predict(Volume(hu, grid, grid), case="scan")
        >>> prediction.boxes_lps_mm.shape[1], prediction.case
        (6, 'scan')
    """

    def __init__(
        self,
        bundles: Bundle | Sequence[Bundle],
        device: str = "auto",
        changes: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        precision: Precision | None = None,
        channels_last: bool = False,
        compile: CompileMode | None = None,
    ) -> None:
        self.bundles = [bundles] if isinstance(bundles, Bundle) else list(bundles)
        check_members(self.bundles)
        self.classes = self.bundles[0].classes
        self.configs = [dataclasses.replace(bundle.inference, **(changes or {})) for bundle in self.bundles]
        self.batch_size = batch_size
        self.device = device_named(device)
        self.precision: Precision = precision_of(precision, self.device)
        for bundle in self.bundles:
            bundle.detector.to(self.device).eval()
            if channels_last:
                to_channels_last(bundle.detector)
            if compile is not None:
                compile_parts(bundle.detector.compiled_parts(), compile)
            if bundle.rescorer is not None:
                bundle.rescorer.to(self.device).eval()

    @property
    def config(self) -> InferenceConfig:
        """Inference settings for merging boxes: the first member's."""
        return self.configs[0]

    @property
    def unit(self) -> Unit:
        """Intensity unit of the scans to read: that of the first member's training images."""
        return self.bundles[0].preprocessing.unit

    @property
    def segmenter(self) -> tuple[int, Segmenter | Detector]:
        """The first member with a segmentation or a mask head, and which one it is.

        Raises:
            UserError: there is none.
        """
        for member, bundle in enumerate(self.bundles):
            if isinstance(bundle.detector, Segmenter) or mask_head_of(bundle.detector):
                return member, bundle.detector
        names = ", ".join(sorted({type(bundle.detector).__name__ for bundle in self.bundles}))
        raise UserError(f"masks: {names} has no segmentation head; leave masks out, or train a RetinaUNet or `masks`")

    def start(self, scan: VoxelReader, case: str, region: Near | None = None) -> StartedScan:
        """Begin to read a scan's tiles, in a thread, while another is predicted.

        Args:
            scan: see `predict`.
            case: name of the scan in an error.
            region: where to look, and what candidates are kept; None is everywhere.

        Returns:
            What `predict` and `detect_raw` take in place of the scan and close; to be closed where they do not get it.

        Raises:
            UserError: the scan does not have the channels or the intensity unit that a member was trained with, or the
                region lies outside of it.
        """
        for bundle in self.bundles:
            _check_channels(scan, bundle, case)
            _check_unit(scan, bundle, case)
        return StartedScan(scan, self.bundles, self.configs, self.batch_size, self.precision, region)

    def predict(
        self,
        scan: VoxelReader | StartedScan,
        case: str,
        file: str = "",
        progress: Progress | None = None,
        with_masks: bool = False,
    ) -> Prediction:
        """Return boxes in a scan, in voxels of its file and in LPS millimetres, best score first.

        Args:
            scan: a `Volume` as `read_volume` gives it, or a `Case` of a store; intensities in the unit of the training
                data (HU for CT). Or what `start` made of one.
            case: id of the scan in the result.
            file: name of the scan's file in the result.
            progress: called with (tiles done, tiles in all), over all members.
            with_masks: whether the objects are segmented too, by the first member that can.

        Raises:
            UserError: the scan does not have the channels or the intensity unit that a member was trained with, or
                masks are asked for and no member has a segmentation or a mask head.
        """
        with closing(self._started(scan, file or case)) as started:
            merged = merge_raw_detections(started.detect(progress), self.config, started.scan.grid.spacing_mm)
            second = [
                (bundle.rescorer, tiles)
                for bundle, tiles in zip(self.bundles, started.tiles, strict=True)
                if bundle.rescorer is not None
            ]
            grids, region = (started.scan.grid, started.scan.source_grid), started.region
            kept = merged if region is None else merged[_inside(region, merged, grids[0])]
            detections = rescored(kept, grids[0], second, self.device, self.precision)
            prediction = Prediction.of(case, detections, *grids, file, self.config.keeps_centers)
            prediction = dataclasses.replace(prediction, classes=tuple(self.classes))
            if region is not None:
                prediction = dataclasses.replace(prediction, num_outside=len(merged) - len(kept))
            return self._with_masks(prediction, started.tiles) if with_masks else prediction

    def detect_raw(self, scan: VoxelReader | StartedScan, case: str, progress: Progress | None = None) -> RawDetections:
        """Run all members on a scan and return their detections, not merged, in voxels of the scan.

        Raises:
            UserError: the scan does not have the channels or the intensity unit that a member was trained with.
        """
        with closing(self._started(scan, case)) as started:
            return started.detect(progress)

    def predict_file(self, path: Path, progress: Progress | None = None) -> Prediction:
        """Return boxes in a file; the case id is its name without its ending and without nnU-Net's `_0000`.

        Raises:
            UserError: the file cannot be read, or has other channels than the training data.
        """
        scan = ScanPath(Path(path))
        return self.predict(scan.open(self.unit), scan.case, scan.file, progress)

    def _started(self, scan: VoxelReader | StartedScan, name: str) -> StartedScan:
        return scan if isinstance(scan, StartedScan) else self.start(scan, name)

    def _with_masks(self, prediction: Prediction, readers: Sequence[ScanTiles]) -> Prediction:
        member, segmenter = self.segmenter
        tiles, patch = readers[member], self.bundles[member].preprocessing.patch
        boxes = prediction.grid.map_boxes(prediction.boxes_vox, tiles.grid)
        how = patch, self.configs[member].overlap, self.precision
        if isinstance(segmenter, Segmenter):
            instances = instance_map(segmenter, tiles, boxes, prediction.labels, *how)
        else:
            instances = box_instance_map(segmenter, tiles, boxes, *how)
        return dataclasses.replace(prediction, instances=to_file_order(instances, tiles.grid, prediction.grid))


def _inside(region: Near, found: Detections, grid: Grid) -> Tensor:
    return torch.from_numpy(region.holds(grid.boxes_to_lps_mm(found.boxes.double().numpy())))


def _check_channels(scan: VoxelReader, bundle: Bundle, name: str) -> None:
    wanted = bundle.preprocessing.num_channels
    if scan.num_channels != wanted:
        raise UserError(
            f"{name}: has {scan.num_channels} channels, the bundle was trained on {wanted}; "
            "give scans with the channels of the training data"
        )


def _check_unit(scan: VoxelReader, bundle: Bundle, name: str) -> None:
    wanted = bundle.preprocessing.unit
    if scan.unit != wanted:
        how = {"hu": "in HU", "any": "not in HU"}
        raise UserError(
            f"{name}: its values are {how[scan.unit]}, the bundle was trained on scans {how[wanted]}; give scans as "
            f"in training, or a store prepared with --intensity {wanted}"
        )


def device_named(name: str) -> torch.device:
    """Return the device of a name; `auto` is a GPU if there is one.

    Raises:
        UserError: it does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device '{name}' cannot be used here ({reason}); use auto or cpu") from error
    return device

"""The label maps of a case: one of a file of voxels, or as many as it takes where regions may overlap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from medpretrain3d.ingest.contours import fill_contours
from medpretrain3d.ingest.cut_out import CutOut, cut_out
from medpretrain3d.ingest.importers.base import ANATOMY, RawCase
from medpretrain3d.ingest.segmentation_object import read_segments
from medpretrain3d.ingest.structure_set import read_contours
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.readers import is_dicom
from medpretrain3d.store.readers.dicom_header import RTSTRUCT, SEGMENTATIONS, read_header, sop_class
from medpretrain3d.store.skipped_cases import InvalidCaseError
from medpretrain3d.store.volume import Volume, check_same_place, labels_on_grid, read_labels

_EMPTY = "regions without a voxel in the scan, which are no objects"


@dataclass(frozen=True)
class LabelLayers:
    """Label maps on one grid, in which a value may not be in two.

    Args:
        maps: one, or as many as regions that overlap need.
        class_of_value: as of `RawCase`.
        remarks: how often something was done that no file says.
    """

    maps: tuple[Volume, ...]
    class_of_value: Mapping[int, int] | None
    remarks: Counter[str] = field(default_factory=Counter)


def read_label_layers(path: Path, case: RawCase, image: Volume, is_straightened: bool = False) -> LabelLayers:
    """Read the labels of a case on its scan's grid: a label map, a DICOM structure set or a segmentation object.

    Of a case with the latter two, of which there may be several files, the classes are of the numbers of regions or
    segments, which may overlap.

    Args:
        path: the first file.
        case: whose labels they are.
        image: its scan.
        is_straightened: whether slices of a tilted gantry were moved back, which segmentations on them follow.

    Raises:
        MissingLibrary: pydicom.
        InvalidCaseError: the file cannot be read, lies elsewhere than the scan, or none of its regions is in it.
    """
    if not _is_annotation(path):
        labels = read_labels(path)
        check_same_place(path, labels.grid, case.images[0], image.grid)
        # Its header may round otherwise than that of its image, by less than a voxel; what is resampled goes by one.
        on_image = replace(labels, grid=image.grid, source_grid=image.source_grid)
        return LabelLayers((on_image,), case.class_of_value)
    masks: list[CutOut] = []
    classes: list[int] = []
    remarks = Counter[str]()
    for file, class_of_region in ((path, case.class_of_value or {}), *case.more_labels):
        wanted = [number for number, label in class_of_region.items() if label != ANATOMY]
        found, its_remarks = _masks(file, wanted, image.source_grid, is_straightened)
        remarks += its_remarks
        if not found:
            raise InvalidCaseError(
                f"{file}: none of its regions has a voxel in {case.images[0].name}; is it of another scan?", "mask"
            )
        masks += found.values()
        classes += [class_of_region[number] for number in found]
    # Numbers of regions may be 0 or larger than a label map holds: values count from 1.
    layers = _stacked(enumerate(masks, start=1), image.source_grid.shape)
    maps = tuple(labels_on_grid(path, layer, image.source_grid) for layer in layers)
    return LabelLayers(maps, dict(enumerate(classes, start=1)), remarks)


def _is_annotation(path: Path) -> bool:
    return path.is_file() and is_dicom(path) and sop_class(path) in (RTSTRUCT, *SEGMENTATIONS)


def _masks(
    path: Path, wanted: Sequence[int], grid: Grid, is_straightened: bool
) -> tuple[dict[int, CutOut], Counter[str]]:
    if sop_class(path) == RTSTRUCT:
        return _regions(path, wanted, grid)
    return read_segments(path, grid, is_straightened, frozenset(wanted))


def _regions(path: Path, wanted: Sequence[int], grid: Grid) -> tuple[dict[int, CutOut], Counter[str]]:
    header = read_header(path)
    masks, remarks = {}, Counter[str]()
    for number in wanted:
        contours, left_out = read_contours(path, number, header)
        remarks += left_out
        if not contours:
            continue
        filled = fill_contours(contours, grid)
        remarks += filled.remarks
        mask = cut_out(filled.mask)
        if mask is None:
            remarks[_EMPTY] += 1
        else:
            masks[number] = mask
    return masks, remarks


def _stacked(masks: Iterable[tuple[int, CutOut]], shape: tuple[int, int, int]) -> list[np.ndarray]:
    """Return as few label maps as hold every mask whole, each in the first map in which it overlaps none."""
    layers: list[np.ndarray] = []
    for number, mask in masks:
        layer = next((layer for layer in layers if not layer[mask.region][mask.mask].any()), None)
        if layer is None:
            layer = np.zeros(shape, dtype=np.uint16)
            layers.append(layer)
        layer[mask.region][mask.mask] = number
    return layers

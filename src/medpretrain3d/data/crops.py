"""From a store to training samples: which case, which place, which transform, all drawn from (seed, position)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from medpretrain3d.boxes import Targets
from medpretrain3d.data.augment import IntensityAugment, Patch, Placement, SpatialAugment, place, place_boxes
from medpretrain3d.data.batches import generator_at, shuffled
from medpretrain3d.data.intensity import Normalisation
from medpretrain3d.data.store import Case, Store


@dataclass(frozen=True)
class CaseRef:
    """A case of one of the stores in use."""

    store: Store
    case_id: str

    @property
    def voxels(self) -> str:
        """Hash of the scan's voxels, the same for copies under other names; from the index."""
        return str(self.store.entries[self.case_id]["voxels"])

    def open(self) -> Case:
        """Read the sidecar; voxels stay on disk."""
        return self.store.case(self.case_id)


class ImageCrops(Dataset[dict[str, Tensor]]):
    """Random crops of images alone, for pretraining.

    Item `position` is `{"image": (C, D, H, W) float32, "seed": () int64}`; every case is visited once per pass.

    Args:
        cases: where to crop.
        patch: size (D, H, W) in voxels.
        window: HU to [-1, 1].
        seed: of all random choices.
        spatial: rotation, zoom, mirroring; None leaves crops as they are.
        num_positions: length of the data set; the order never ends, so this is for samplers that ask.
    """

    def __init__(
        self,
        cases: Sequence[CaseRef],
        patch: Patch,
        window: Normalisation,
        seed: int,
        spatial: SpatialAugment | None = None,
        num_positions: int = 2**31,
    ) -> None:
        self.cases = list(cases)
        self.patch = patch
        self.window = window
        self.seed = seed
        self.spatial = spatial
        self.num_positions = num_positions

    def __len__(self) -> int:
        return self.num_positions

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        random = generator_at(self.seed, position)
        case = self.cases[shuffled(self.seed, position, len(self.cases))].open()
        placement = self.spatial.draw(random) if self.spatial else _AS_IT_IS
        start = uniform_start(case.grid.shape, self.patch, random)
        image = _read_image(case, start, placement, self.patch, self.window)
        return {"image": torch.from_numpy(image), "seed": torch.tensor(_seed(random))}


class ObjectCrops(Dataset[tuple[Tensor, Targets]]):
    """Random crops with the objects in them, for training detectors.

    Item `position` is `(image (C, D, H, W) float32, Targets)`. A whole object keeps its box, moved as the image is. A
    cut or rotated object gets the hull of its visible part from the instance mask, and where there is no mask the moved
    box, cut.

    Args:
        cases: where to crop.
        patch: size (D, H, W) in voxels.
        window: HU to [-1, 1].
        seed: of all random choices.
        object_share: share of crops that are placed on an object (a random place elsewhere in cases without one).
        spatial: rotation, zoom, mirroring; None for none.
        intensity: noise, blur, brightness, contrast, gamma; None for none.
        min_visible: objects of which less than this share of the box volume is inside the crop are no target.
        num_positions: length of the data set; the order never ends, so this is for samplers that ask.
    """

    def __init__(
        self,
        cases: Sequence[CaseRef],
        patch: Patch,
        window: Normalisation,
        seed: int,
        object_share: float = 0.5,
        spatial: SpatialAugment | None = None,
        intensity: IntensityAugment | None = None,
        min_visible: float = 0.1,
        num_positions: int = 2**31,
    ) -> None:
        self.cases = list(cases)
        self.patch = patch
        self.window = window
        self.seed = seed
        self.object_share = object_share
        self.spatial = spatial
        self.intensity = intensity
        self.min_visible = min_visible
        self.num_positions = num_positions

    def __len__(self) -> int:
        return self.num_positions

    def __getitem__(self, position: int) -> tuple[Tensor, Targets]:
        random = generator_at(self.seed, position)
        case = self.cases[shuffled(self.seed, position, len(self.cases))].open()
        placement = self.spatial.draw(random) if self.spatial else _AS_IT_IS
        on_object = random.random() < self.object_share
        if on_object and len(case.boxes):
            start = object_start(case, self.patch, random)
        else:
            start = uniform_start(case.grid.shape, self.patch, random)
        image = _read_image(case, start, placement, self.patch, self.window)
        if self.intensity:
            image = self.intensity(image, random)
        return torch.from_numpy(image), self._targets(case, start, placement)

    def _targets(self, case: Case, start: Patch, placement: Placement) -> Targets:
        source_start, source_size = _source(start, placement, self.patch)
        boxes = case.boxes.astype(np.float64) - np.tile(source_start, 2)
        boxes = place_boxes(boxes, placement, self.patch, source_size)
        visible = np.concatenate([np.maximum(boxes[:, :3], 0), np.minimum(boxes[:, 3:], self.patch)], axis=1)
        mask = None
        if case.has_mask:
            instances = case.read_instances(source_start, source_size)
            instances = place(instances[None].astype(np.float32), placement, self.patch, nearest=True)[0].astype(
                np.int64
            )
            hulls = _hulls(instances, case.instance_ids, visible)
            # The hull of a resampled mask is rounded to whole voxels: on OpenKBP at 4 mm its faces are 0.26 voxels off
            # on average and its IoU with the exact box is 0.87. So a whole object keeps its exact box; a cut or rotated
            # one has only its mask to go by.
            is_whole = (visible == boxes).all(axis=1) & (not placement.is_rotated)
            visible = np.where(is_whole[:, None], boxes, hulls)
            mask = torch.from_numpy(case.label_of_instance[instances])
        share = _volume(visible) / np.maximum(_volume(boxes), 1e-6)
        keep = share >= self.min_visible
        return Targets(
            torch.from_numpy(visible[keep].astype(np.float32)),
            torch.from_numpy(case.labels[keep].astype(np.int64)),
            mask,
        )


def collate_objects(samples: list[tuple[Tensor, Targets]]) -> tuple[Tensor, list[Targets]]:
    """Samples to a batch: images stacked (B, C, D, H, W), targets as a list."""
    images, targets = zip(*samples, strict=True)
    return torch.stack(images), list(targets)


def uniform_start(shape: tuple[int, int, int], patch: Patch, random: np.random.Generator) -> Patch:
    """Lowest corner of a crop that lies inside the volume, or covers it where the volume is smaller."""
    d, h, w = (
        int(random.integers(min(0, size - edge), max(0, size - edge) + 1))
        for size, edge in zip(shape, patch, strict=True)
    )
    return (d, h, w)


def object_start(case: Case, patch: Patch, random: np.random.Generator) -> Patch:
    """Lowest corner of a crop around a random point of a random object; every class of the case is equally likely."""
    label = random.choice(np.unique(case.labels))
    box = case.boxes[random.choice(np.flatnonzero(case.labels == label))]
    point = random.uniform(box[:3], box[3:])
    # The point falls anywhere in the middle half of the crop, so objects are seen off centre as well.
    start = np.floor(point - np.array(patch) * random.uniform(0.25, 0.75, size=3)).astype(int)
    room = np.array(case.grid.shape) - patch
    d, h, w = (int(value) for value in np.clip(start, np.minimum(room, 0), np.maximum(room, 0)))
    return (d, h, w)


_AS_IT_IS = Placement(np.eye(3))


def _source(start: Patch, placement: Placement, patch: Patch) -> tuple[Patch, Patch]:
    size = placement.source_size(patch)
    d, h, w = (s - (edge - p) // 2 for s, edge, p in zip(start, size, patch, strict=True))
    return (d, h, w), size


def _read_image(case: Case, start: Patch, placement: Placement, patch: Patch, window: Normalisation) -> np.ndarray:
    source_start, source_size = _source(start, placement, patch)
    normalised = window.fitted(case.statistics)(case.read_image(source_start, source_size))
    return place(normalised, placement, patch)


def _hulls(instances: np.ndarray, ids: np.ndarray, fallback: np.ndarray) -> np.ndarray:
    """Half-open hull (N, 6) of each instance id in a map; an empty box where it is not in the crop.

    An object whose id never made it into the mask at this spacing keeps its transformed box (`fallback`).
    """
    from scipy.ndimage import find_objects

    boxes = fallback.copy()
    slices = find_objects(instances, max_label=int(ids.max(initial=0)))
    for row, instance in enumerate(ids):
        if instance == 0:
            continue
        found = slices[instance - 1]
        boxes[row] = 0.0 if found is None else [s.start for s in found] + [s.stop for s in found]
    return boxes


def _volume(boxes: np.ndarray) -> np.ndarray:
    return np.maximum(boxes[:, 3:] - boxes[:, :3], 0).prod(axis=1)


def _seed(random: np.random.Generator) -> int:
    return int(random.integers(0, 2**63 - 1))

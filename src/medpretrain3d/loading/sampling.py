"""Sampling of the case at a position of the run, and of the crop's place in the case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medpretrain3d.configurable import Configurable
from medpretrain3d.errors import UserError
from medpretrain3d.loading.batches import generator_at, shuffled
from medpretrain3d.loading.spatial_transform import IDENTITY, Patch, SpatialTransform, place_boxes
from medpretrain3d.store.arrays import CHUNK_VOX
from medpretrain3d.store.case import Case
from medpretrain3d.store.corpus import CaseRef
from medpretrain3d.values import Finite, Share

CropTarget = Literal["object", "foreground", "anywhere"]

TRIES = 12
"""Places looked at before the best of them is taken for foreground."""


class CaseOrder:
    """Sampling order of the cases: the case at a position, a function of (seed, position) alone.

    Args:
        cases: of one or more data sets.
        seed: of the order.
        dataset_balance: a case of a data set of n cases is shown with weight `n ** -dataset_balance`. 0 shows every
            case once per pass, 0.5 is MultiTalent's 1/sqrt(n) (Ulrich et al., 2023), 1 shows every data set alike.

    Raises:
        UserError: no case, or a balance outside [0, 1].
    """

    def __init__(self, cases: Sequence[CaseRef], seed: int, dataset_balance: float = 0.0) -> None:
        if not cases or not 0 <= dataset_balance <= 1:
            raise UserError(
                f"order of {len(cases)} cases with dataset_balance {dataset_balance}: wanted at least one case and a "
                "balance from 0 (every case alike) to 1 (every data set alike)"
            )
        self.cases = list(cases)
        self.seed = seed
        self.dataset_balance = dataset_balance
        _, dataset_of, sizes = np.unique([c.dataset for c in cases], return_inverse=True, return_counts=True)
        weight = sizes[dataset_of] ** -float(dataset_balance)
        self._upper = np.cumsum(weight) / weight.sum()
        self._with_class: dict[int, list[int]] | None = None

    def index_at(self, position: int) -> int:
        """Return the index of the case at a position."""
        if self.dataset_balance == 0:
            return shuffled(self.seed, position, len(self.cases))
        # Its own stream: the sample at the position draws from (seed, position) itself.
        chance = generator_at(self.seed, (3 << 62) + position).random()
        return min(int(np.searchsorted(self._upper, chance, side="right")), len(self.cases) - 1)

    def at(self, position: int) -> CaseRef:
        """Return the case shown at a position."""
        return self.cases[self.index_at(position)]

    def other_than(self, index: int, random: np.random.Generator) -> CaseRef:
        """Return any other case, each with the same chance."""
        return self.cases[(index + int(random.integers(1, len(self.cases)))) % len(self.cases)]

    def of_random_class(self, random: np.random.Generator) -> tuple[CaseRef, int] | None:
        """A random case with an object of a random class, and that class, out of those that have objects at all."""
        if self._with_class is None:
            self._with_class = {}
            for index, case in enumerate(self.cases):
                for label in np.flatnonzero(case.counts):
                    self._with_class.setdefault(int(label), []).append(index)
        if not self._with_class:
            return None
        chosen = int(random.choice(sorted(self._with_class)))
        return self.cases[int(random.choice(self._with_class[chosen]))], chosen


@dataclass(frozen=True)
class CropSampler(Configurable):
    """Crop sampling: on objects, on foreground, and otherwise anywhere, without reading more than a block.

    Args:
        object_share: share of crops around a random point of a random object, every class of the case equally likely.
            In a case without objects such a crop goes to foreground if any does, and anywhere if not.
        foreground_share: share of crops whose middle holds tissue.
        foreground_hu: what is above is tissue; where values are not HU, what is above the mean of all but the lowest.
        min_foreground: share of tissue in the stored block at the crop's centre that makes it foreground; vessels
            make lungs pass, air outside the body does not.

    Raises:
        UserError: shares that are no shares.
    """

    object_share: Share = 0.0
    foreground_share: Share = 0.0
    foreground_hu: Finite = -500.0
    min_foreground: Share = 0.02

    def __post_init__(self) -> None:
        if min(self.object_share, self.foreground_share) < 0 or self.object_share + self.foreground_share > 1:
            raise UserError(
                f"object_share {self.object_share} and foreground_share {self.foreground_share}: wanted two shares "
                "from 0 to 1 with a sum of at most 1"
            )

    def draw(
        self, case: Case, patch: Patch, random: np.random.Generator, spatial_transform: SpatialTransform = IDENTITY
    ) -> Patch:
        """Return lowest corner of a crop; see `locate`."""
        return self.locate(self.choose(random), case, patch, random, spatial_transform)

    def choose(self, random: np.random.Generator) -> CropTarget:
        """Draw the kind of site for the next crop."""
        chance = random.random() if self.object_share or self.foreground_share else 1.0
        if chance < self.object_share:
            return "object"
        return "foreground" if chance < self.object_share + self.foreground_share else "anywhere"

    def locate(
        self,
        kind: CropTarget,
        case: Case,
        patch: Patch,
        random: np.random.Generator,
        spatial_transform: SpatialTransform = IDENTITY,
    ) -> Patch:
        """Return lowest corner of a crop on a site of this kind.

        It lies inside the volume, or covers it where the volume is smaller, unless it could not show its object there.

        Args:
            kind: of the site.
            case: with its objects.
            patch: size of the crop in voxels.
            random: is advanced.
            spatial_transform: through which the crop will be seen.
        """
        if kind == "object" and len(case.boxes):
            return object_start(case, patch, random, spatial_transform=spatial_transform)
        if kind == "foreground" or (kind == "object" and self.foreground_share):
            tissue = self.foreground_hu if case.unit == "hu" else case.statistics[0].mean
            return foreground_start(case, patch, random, tissue, self.min_foreground)
        return uniform_start(case.grid.shape, patch, random)


def uniform_start(shape: Patch, patch: Patch, random: np.random.Generator) -> Patch:
    """Return lowest corner of a crop that lies inside the volume, or covers it where the volume is smaller."""
    d, h, w = (
        int(random.integers(min(0, size - edge), max(0, size - edge) + 1))
        for size, edge in zip(shape, patch, strict=True)
    )
    return (d, h, w)


def object_start(
    case: Case,
    patch: Patch,
    random: np.random.Generator,
    label: int | None = None,
    spatial_transform: SpatialTransform = IDENTITY,
) -> Patch:
    """Return lowest corner of a crop around a random point of a random object.

    Args:
        case: with at least one object.
        patch: size of the crop in voxels.
        random: is advanced.
        label: class of the object; None for every class of the case equally likely.
        spatial_transform: through which the crop will be seen.
    """
    if label is None:
        label = random.choice(np.unique(case.labels))
    box = case.boxes[random.choice(np.flatnonzero(case.labels == label))]
    return box_start(box, case.grid.shape, patch, random, spatial_transform)


def box_start(
    box: np.ndarray,
    shape: Patch,
    patch: Patch,
    random: np.random.Generator,
    spatial_transform: SpatialTransform = IDENTITY,
) -> Patch:
    """Return lowest corner of a crop around a random point of a box (6,) of a volume of this shape."""
    point = random.uniform(box[:3], box[3:])
    # The point falls anywhere in the middle half of the crop, so objects are seen off centre as well.
    start = np.floor(point - np.array(patch) * random.uniform(0.25, 0.75, size=3)).astype(int)
    # Kept inside the volume, a zoomed or rotated crop loses what is in a corner. Such a one reaches beyond the volume;
    # if even that is not enough, the point is in its middle.
    for place in (inside(start, shape, patch), _as_patch(start)):
        if _shows(box, place, patch, spatial_transform):
            return place
    return _as_patch(np.floor(point - np.array(patch) / 2))


def _shows(box: np.ndarray, start: Patch, patch: Patch, spatial_transform: SpatialTransform) -> bool:
    """Whether a crop shows all of a box along each axis, or as much as one around a point of it does if not turned."""
    source_start, source_size = spatial_transform.source(start, patch)
    moved = box[None].astype(np.float64) - np.tile(source_start, 2)
    low, high = np.split(place_boxes(moved, spatial_transform, patch, source_size)[0], 2)
    visible = np.minimum(high, patch) - np.maximum(low, 0)
    least = np.minimum(high - low, np.array(patch) / 4 - 1)  # less a voxel, by which places are rounded
    return bool(np.all(visible >= least - 1e-6))


def foreground_start(
    case: Case, patch: Patch, random: np.random.Generator, foreground_hu: Finite, min_foreground: Share
) -> Patch:
    """Lowest corner of a crop whose centre lies in a stored chunk with tissue; the best of a dozen where none does.

    One try decompresses one chunk of 32^3 voxels, and never more of the volume. The centre of a crop that covers a far
    smaller volume may lie outside of it; then the chunk nearest to it is looked at.
    """
    best, best_share = (0, 0, 0), -1.0
    for _ in range(TRIES):
        start = uniform_start(case.grid.shape, patch, random)
        center = [
            min(max(first + edge // 2, 0), size - 1)
            for first, edge, size in zip(start, patch, case.grid.shape, strict=True)
        ]
        chunk = [c // CHUNK_VOX * CHUNK_VOX for c in center]
        room = [min(CHUNK_VOX, size - first) for size, first in zip(case.grid.shape, chunk, strict=True)]
        share = float((case.read_image(chunk, room)[0] > foreground_hu).mean())
        if share > best_share:
            best, best_share = start, share
        if share >= min_foreground:
            break
    return best


def inside(start: np.ndarray, shape: Patch, patch: Patch) -> Patch:
    """Return the nearest lowest corner of a crop inside the volume, or covering it where the volume is smaller."""
    room = np.array(shape) - patch
    return _as_patch(np.clip(start, np.minimum(room, 0), np.maximum(room, 0)))


def _as_patch(values: np.ndarray) -> Patch:
    d, h, w = (int(value) for value in values)
    return (d, h, w)

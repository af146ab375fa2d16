"""Views that an objective asks for in each sample: one crop, two that overlap, a grid, a pair of volumes, labels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from medpretrain3d.configurable import Configurable
from medpretrain3d.errors import UserError
from medpretrain3d.loading.crops import CropReader
from medpretrain3d.loading.sampling import CaseOrder, inside, uniform_start
from medpretrain3d.loading.spatial_transform import Patch
from medpretrain3d.store.corpus import CaseRef, Corpus
from medpretrain3d.values import Counts, Share, Steps

Sample = dict[str, Any]
"""Tensors, crops yet to be finished, and lists of such crops."""

Unlabeled = Literal["error", "skip"]
"""What to do about cases without the labels that a view shows."""


class Views(Configurable):
    """Views that make up a sample; named in a recipe as `data.views`.

    `draw` reads the crops of one sample, `collate` makes a batch of finished samples. The data set adds `seed`.
    """

    unlabeled: Unlabeled = "error"
    has_static_shapes: bool = True
    """Whether all batches of as many samples have the same shape."""

    def classes(self, corpus: Corpus) -> tuple[tuple[str, ...], ...]:
        """Return names of the classes that labels stand for, of each data set on its own."""
        return corpus.classes

    @property
    def fingerprint(self) -> str | None:
        """Hash of what is shown and is not in the stores, as labels of a table; None where there is nothing."""
        return None

    def is_labeled(self, ref: CaseRef) -> bool:
        """Whether a case has the labels that are shown; with `unlabeled: skip`, cases that have none are left out."""
        return True

    def check_cases(self, cases: Sequence[CaseRef]) -> None:
        """Refuse cases of the stores, used or not, that the views would take for each other.

        Raises:
            UserError: names the first of them.
        """

    def check(self, reader: CropReader, order: CaseOrder) -> None:
        """Refuse settings under which the views would not be what they promise.

        Raises:
            UserError: says which setting, and what to use.
        """

    def sizes(self, patch: Patch) -> tuple[Patch, ...]:
        """Return the sizes (D, H, W) in voxels of the crops that a network is shown, given that of the recipe."""
        return (patch,)

    def draw(self, reader: CropReader, order: CaseOrder, position: int, random: np.random.Generator) -> Sample:
        """Return the sample at a position."""
        raise NotImplementedError("a Views subclass implements draw")

    def collate(self, samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Finished samples to a batch, stacked along a new first axis (B)."""
        batch: dict[str, Tensor] = default_collate(list(samples))
        return batch


class OneView(Views):
    """One crop: `image` (C, D, H, W)."""

    def draw(self, reader: CropReader, order: CaseOrder, position: int, random: np.random.Generator) -> Sample:
        """Return a crop of the case at the position."""
        case = order.at(position).open()
        spatial_transform = reader.draw_placement(case, random)
        start = reader.crop_sampler.draw(case, reader.patch, random, spatial_transform)
        return {"image": reader.image(case, start, spatial_transform, random)}


class LabeledView(Views):
    """One crop with its labels, for supervised pretraining on several data sets (MultiTalent).

    `image` (C, D, H, W); `label_map` (D, H, W) int64, 0 for background and `label + 1` inside objects; `dataset` ()
    int64, which of `data.store` the case is of, to whose classes alone the labels belong.

    Args:
        unlabeled: what to do about cases without a mask: `error`, or `skip` them, which is said.
    """

    def __init__(self, unlabeled: Unlabeled = "error") -> None:
        self.unlabeled: Unlabeled = unlabeled

    def is_labeled(self, ref: CaseRef) -> bool:
        """Return whether the case has a mask."""
        return ref.has_mask

    def check(self, reader: CropReader, order: CaseOrder) -> None:
        """Every case needs a mask."""
        for ref in order.cases:
            if not ref.has_mask:
                raise UserError(
                    f"LabeledView: case {ref.case_id} of {ref.store.place} has no mask; use labelled cases, or set "
                    "data.views.init_args.unlabeled to skip"
                )

    def draw(self, reader: CropReader, order: CaseOrder, position: int, random: np.random.Generator) -> Sample:
        """Return a crop of the case at the position, with what is in it."""
        ref = order.at(position)
        case = ref.open()
        spatial_transform = reader.draw_placement(case, random)
        start = reader.crop_sampler.draw(case, reader.patch, random, spatial_transform)
        return {
            "image": reader.image(case, start, spatial_transform, random),
            "label_map": reader.labels(case, start, spatial_transform),
            "dataset": torch.tensor(ref.dataset),
        }


class TwoViews(Views):
    """Two overlapping crops of one volume, each with its own transform (SimCLR, consistent views).

    `image` (2, C, D, H, W). `affine` (2, 3, 4) float32 takes places in a view to a frame that both share, in voxels
    with the centre of voxel `i` at `i + 0.5`: the place of view 0 at `x` is seen by view 1 at `inv(A1) A0 x`. `overlap`
    (2, 6) float32 is the box, in each view's own voxels, of what both see (its hull, where a view is rotated).

    Args:
        max_shift: largest distance of the two crops along each axis, as a share of the patch.

    Raises:
        UserError: a shift outside [0, 1).
    """

    def __init__(self, max_shift: Share = 0.5) -> None:
        if not 0 <= max_shift < 1:
            raise UserError(f"TwoViews: max_shift {max_shift}, wanted a share of the patch from 0 to below 1")
        self.max_shift = max_shift

    def check(self, reader: CropReader, order: CaseOrder) -> None:
        """An elastic deformation has no affine."""
        if reader.spatial is not None and reader.spatial.elastic_p:
            raise UserError("TwoViews: elastic deformation leaves no exact geometry; set elastic_p to 0")

    def draw(self, reader: CropReader, order: CaseOrder, position: int, random: np.random.Generator) -> Sample:
        """Return two crops of the case at the position."""
        case, patch = order.at(position).open(), reader.patch
        placements = [reader.draw_placement(case, random) for _ in range(2)]
        first = reader.crop_sampler.draw(case, patch, random, placements[0])
        reach = np.floor(np.array(patch) * self.max_shift).astype(int)
        shifted = np.array(first) + random.integers(-reach, reach + 1)
        second = inside(shifted, case.grid.shape, patch)
        crops = [
            reader.image(case, start, spatial_transform, random)
            for start, spatial_transform in zip((first, second), placements, strict=True)
        ]
        shift: Patch = (second[0] - first[0], second[1] - first[1], second[2] - first[2])
        affines = [placements[0].affine((0, 0, 0), patch), placements[1].affine(shift, patch)]
        overlap = [shared_hull(affines[0], affines[1], patch), shared_hull(affines[1], affines[0], patch)]
        return {
            "image": crops,
            "affine": torch.from_numpy(np.stack(affines).astype(np.float32)),
            "overlap": torch.from_numpy(np.stack(overlap).astype(np.float32)),
        }


class GridAndTargets(Views):
    """A grid of crops that tile a region, and random crops inside it (VoCo, Wu et al., 2024).

    `base` (G, C, D, H, W) in the order (D, H, W) of the `grid` (3,) int64. A sample has a random number of targets, so
    a batch joins those of its samples: `target` (T, C, D, H, W), `target_of` (T,) int64, the sample each is of, and
    `share` (T, G) float32, which share of a target's volume each base crop of its sample holds; a row sums to 1.

    Args:
        grid: base crops along (D, H, W).
        num_targets: smallest and largest number of targets.

    Raises:
        UserError: an empty grid or no targets.
    """

    has_static_shapes = False

    def __init__(self, grid: Steps = (1, 4, 4), num_targets: Counts = (2, 8)) -> None:
        if min(grid) < 1 or not 1 <= num_targets[0] <= num_targets[1]:
            raise UserError(
                f"GridAndTargets: grid {tuple(grid)} and num_targets {tuple(num_targets)}, wanted three positive "
                "numbers and a range such as [2, 8]"
            )
        self.grid = grid
        self.num_targets = num_targets

    def check(self, reader: CropReader, order: CaseOrder) -> None:
        """Rotated or zoomed crops no longer cover what the shares say."""
        spatial = reader.spatial
        if spatial is not None and (spatial.rotation_p or spatial.zoom_p or spatial.elastic_p):
            raise UserError(
                "GridAndTargets: only mirroring keeps shares of volume exact; set rotation_p and zoom_p to 0"
            )

    def draw(self, reader: CropReader, order: CaseOrder, position: int, random: np.random.Generator) -> Sample:
        """Return one region of the case at the position."""
        case, patch = order.at(position).open(), reader.patch
        d, h, w = (count * edge for count, edge in zip(self.grid, patch, strict=True))
        region: Patch = (d, h, w)
        voxels = case.read_image(reader.crop_sampler.draw(case, region, random), region)
        bases = np.array(list(product(*map(range, self.grid)))) * patch  # (G, 3)
        count = int(random.integers(self.num_targets[0], self.num_targets[1] + 1))
        targets = np.array([uniform_start(region, patch, random) for _ in range(count)])  # (T, 3)

        def cut(start: np.ndarray) -> Any:
            d, h, w = (slice(first, first + edge) for first, edge in zip(start, patch, strict=True))
            return reader.crop(case, voxels[:, d, h, w].copy(), reader.draw_placement(case, random), random)

        return {
            "base": [cut(start) for start in bases],
            "target": [cut(start) for start in targets],
            "grid": torch.tensor(self.grid),
            "share": torch.from_numpy(shared_volume(targets, bases, patch).astype(np.float32)),
        }

    def collate(self, samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Base crops stacked, targets joined."""
        counts = torch.tensor([len(sample["target"]) for sample in samples])
        joined = {name: torch.cat([sample[name] for sample in samples]) for name in ("target", "share")}
        rest = [{name: value for name, value in sample.items() if name not in joined} for sample in samples]
        target_of = torch.arange(len(samples)).repeat_interleave(counts)
        target_of = target_of.to(joined["share"].device, non_blocking=True)  # where crops were finished
        return {**super().collate(rest), **joined, "target_of": target_of}


class VolumePairs(Views):
    """Crops of two different volumes: `image` (2, C, D, H, W) (VolumeFusion)."""

    def check(self, reader: CropReader, order: CaseOrder) -> None:
        """A pair takes two volumes."""
        if len(order.cases) < 2:
            raise UserError("VolumePairs: one case alone makes no pair; give a store (and num_val_cases) of 2 or more")

    def draw(self, reader: CropReader, order: CaseOrder, position: int, random: np.random.Generator) -> Sample:
        """Return a crop of the case at the position, and one of any other case."""
        index = order.index_at(position)
        crops = []
        for ref in (order.cases[index], order.other_than(index, random)):
            case = ref.open()
            spatial_transform = reader.draw_placement(case, random)
            start = reader.crop_sampler.draw(case, reader.patch, random, spatial_transform)
            crops.append(reader.image(case, start, spatial_transform, random))
        return {"image": crops}


def shared_volume(targets: np.ndarray, bases: np.ndarray, patch: Patch) -> np.ndarray:
    """Return share (T, G) of each target's volume inside each base crop; all crops have the size of the patch.

    `targets` (T, 3) and `bases` (G, 3) are lowest corners in voxels.
    """
    length = np.array(patch) - np.abs(targets[:, None] - bases[None])
    return np.asarray(np.maximum(length, 0).prod(axis=2) / np.prod(patch))


def shared_hull(own: np.ndarray, other: np.ndarray, patch: Patch) -> np.ndarray:
    """Return box (6,), in voxels of a view, of what another view of the same size sees too; exact for any affine.

    The two views are the half-spaces of their twelve faces; the corners of what they share are found among the
    crossings of every three faces. `own` and `other` are (3, 4), from places in a view to the shared frame.
    """
    to_other = np.linalg.inv(other[:, :3]) @ np.concatenate([own[:, :3], own[:, 3:] - other[:, 3:]], axis=1)
    matrix, offset = to_other[:, :3], to_other[:, 3]
    normals = np.concatenate([np.eye(3), -np.eye(3), matrix, -matrix])
    bounds = np.concatenate([patch, np.zeros(3), np.array(patch) - offset, offset])
    triples = np.array(list(combinations(range(12), 3)))
    triples = triples[np.abs(np.linalg.det(normals[triples])) > 1e-9]
    corners = np.linalg.solve(normals[triples], bounds[triples][..., None])[..., 0]
    corners = corners[(corners @ normals.T <= bounds + 1e-6).all(axis=1)]
    if len(corners) == 0:
        return np.zeros(6)
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)]).clip(0, np.tile(patch, 2))

"""Matchers that assign ground-truth objects to anchors.

A matcher is called with targets (N, 6), anchors (A, 6), the number of anchors on each level and of each cell. It
returns for every anchor the index of its object: (A,) int64, `BACKGROUND` (-1) for none, `IGNORED` (-2) for neither.
Anchors come in the order of `AnchorGrid`: by level, then cell, and the anchors of one cell share their centre.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from medpretrain3d.boxes import box_center, box_iou, box_volume, generalized_box_iou, paired_iou
from medpretrain3d.configurable import Configurable
from medpretrain3d.detection.labels import BACKGROUND, IGNORED
from medpretrain3d.errors import UserError
from medpretrain3d.values import Layers, Share


class Matcher(Configurable):
    """Assigns objects to anchors. Subclasses implement the call.

    Example:
        >>> import torch
        >>> from medpretrain3d.detection import Matcher
        >>> class First(Matcher):
        ...     def __call__(self, targets, anchors, anchors_per_level, anchors_per_location):
        ...         matched = torch.full((len(anchors),), -1)
        ...         matched[: len(targets)] = torch.arange(len(targets))
        ...         return matched
        >>> First()(torch.rand(1, 6), torch.rand(3, 6), [3], 1)
        tensor([ 0, -1, -1])
    """

    def __call__(
        self, targets: Tensor, anchors: Tensor, anchors_per_level: Sequence[int], anchors_per_location: int
    ) -> Tensor:
        """Return index of the matched target per anchor: (A,) int64; see the module."""
        raise NotImplementedError("a Matcher subclass implements the call")

    def match_images(
        self,
        targets: Sequence[Tensor],
        anchors: Tensor,
        anchors_per_level: Sequence[int],
        anchors_per_location: int,
    ) -> Tensor:
        """Return for each image what the call says of its targets (N, 6): (B, A) int64. All is on the CPU."""
        return torch.stack([self(boxes, anchors, anchors_per_level, anchors_per_location) for boxes in targets])


class ATSSMatcher(Matcher):
    """Adaptive training sample selection (Zhang et al., 2020), in the variant of nnDetection.

    Candidates of an object are all anchors of its `num_candidates` nearest cells on every level. Those whose IoU
    reaches the mean plus the (unbiased) standard deviation of the candidates' IoUs are positive. An anchor claimed by
    several objects goes to the one with the higher IoU.

    Args:
        num_candidates: nearest cells per object and level.
        guarantee_match: give every object an anchor. False stops at the above and reproduces nnDetection, which has
            two gaps. An object that touches none of its candidates makes all of them positive, because the threshold
            is 0. An object none of whose candidates reaches the threshold, or whose candidates all went to others, is
            never learnt. True closes both: an anchor that does not touch the object is not positive, and an object left
            without anchor gets its best candidate alone; if it touches no candidate, the best of all anchors, and only
            if it touches no anchor at all, the nearest candidate. What is another object's only anchor is passed over:
            where all that it touches are, the nearest that is left. Only more objects than anchors leave one without.

    Raises:
        UserError: when called with levels that do not add up to the anchors.

    Example:
        >>> import torch
        >>> from medpretrain3d.detection import ATSSMatcher, AnchorGrid
        >>> grid = AnchorGrid([[(4, 4, 4)]])
        >>> shapes = [(1, 1, 4)]
        >>> anchors = grid(shapes, strides=[(4, 4, 4)], device="cpu")
        >>> targets = torch.tensor([[0.0, 0, 0, 4, 4, 4]])
        >>> ATSSMatcher(num_candidates=2)(targets, anchors, grid.per_level(shapes), grid.per_cell)
        tensor([ 0, -1, -1, -1])
    """

    def __init__(self, num_candidates: Layers = 4, guarantee_match: bool = True) -> None:
        self.num_candidates = num_candidates
        self.guarantee_match = guarantee_match

    def __call__(
        self, targets: Tensor, anchors: Tensor, anchors_per_level: Sequence[int], anchors_per_location: int
    ) -> Tensor:
        """Return index of the matched target per anchor: (A,) int64, or `BACKGROUND`."""
        return self.match_images([targets], anchors, anchors_per_level, anchors_per_location)[0]

    def match_images(
        self,
        targets: Sequence[Tensor],
        anchors: Tensor,
        anchors_per_level: Sequence[int],
        anchors_per_location: int,
    ) -> Tensor:
        """Return (B, A) int64: the objects of all images are asked at once, each about the anchors of its own."""
        if sum(anchors_per_level) != len(anchors):
            raise UserError(
                f"anchors_per_level {list(anchors_per_level)} for {len(anchors)} anchors: give the number of anchors "
                "on each level, all anchors of a cell counted"
            )
        counts = [len(boxes) for boxes in targets]
        matched = torch.full((len(counts), len(anchors)), BACKGROUND, device=anchors.device)
        if sum(counts):
            image = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(anchors.device)
            objects = torch.cat(list(targets)).float()
            self._match(matched.view(-1), objects, image, anchors.float(), anchors_per_level, anchors_per_location)
        for row, first_object in zip(matched, accumulate(counts, initial=0), strict=False):
            if first_object:  # they were counted through the batch
                row -= first_object * (row >= 0)
        return matched

    def _match(
        self,
        matched: Tensor,
        objects: Tensor,
        image: Tensor,
        anchors: Tensor,
        anchors_per_level: Sequence[int],
        anchors_per_location: int,
    ) -> None:
        """Enter the objects (N, 6) of images (N,) in `matched` (B * A,), that is `BACKGROUND`."""
        candidates = self._candidates(objects, anchors, anchors_per_level, anchors_per_location)  # (N, M)
        iou = paired_iou(objects[:, None], anchors[candidates])  # (N, M); the full (N, A) matrix is never built
        deviation = iou.std(dim=1, correction=min(1, iou.shape[1] - 1), keepdim=True)  # a single candidate has none
        positive = iou >= iou.mean(dim=1, keepdim=True) + deviation
        if self.guarantee_match:
            positive &= iou > 0

        first_anchor = image * len(anchors)
        claimants, columns = torch.nonzero(positive, as_tuple=True)
        for_anchor = candidates[claimants, columns] + first_anchor[claimants]
        # By anchor, then falling IoU, then object: the first of each anchor has it.
        order = iou[claimants, columns].argsort(descending=True, stable=True)
        order = order[for_anchor[order].argsort(stable=True)]
        claimants, for_anchor = claimants[order], for_anchor[order]
        wins = torch.ones_like(for_anchor, dtype=torch.bool)
        wins[1:] = for_anchor[1:] != for_anchor[:-1]
        matched[for_anchor[wins]] = claimants[wins]
        if self.guarantee_match:
            won = torch.bincount(claimants[wins], minlength=len(objects)).tolist()
            for index in _best_first([index for index, count in enumerate(won) if count == 0], iou):
                for choice in self._choices(objects[index, None], anchors, candidates[index], iou[index]):
                    if self._serve(index, choice + first_anchor[index], matched, won):
                        break

    @staticmethod
    def _choices(target: Tensor, anchors: Tensor, candidates: Tensor, iou: Tensor) -> Iterator[Tensor]:
        """Yield anchors that an object (1, 6) left without one may have, the best first; later ones are for want."""
        yield _closest(candidates[iou > 0], iou[iou > 0])
        every, of_all = torch.arange(len(anchors), device=anchors.device), box_iou(target, anchors)[0]
        yield _closest(every[of_all > 0], of_all[of_all > 0])  # perhaps it touches others
        for choice in (candidates, every):  # it touches none that is left; GIoU still tells near from far
            yield _closest(choice, generalized_box_iou(target, anchors[choice])[0])

    @staticmethod
    def _serve(index: int, choice: Tensor, matched: Tensor, won: list[int]) -> bool:
        """Give an object the first anchor of its choice that is not another object's only one; return if there is."""
        for anchor, owner in zip(choice.tolist(), matched[choice].tolist(), strict=True):
            if owner == BACKGROUND or won[owner] > 1:
                if owner != BACKGROUND:
                    won[owner] -= 1
                matched[anchor], won[index] = index, 1
                return True
        return False

    def _candidates(
        self, targets: Tensor, anchors: Tensor, anchors_per_level: Sequence[int], anchors_per_location: int
    ) -> Tensor:
        """Anchors of the nearest cells of every level: (N, M) int64. Looks at cells, not at their many anchors."""
        target_center, cells = box_center(targets), anchors[::anchors_per_location]
        of_cell = torch.arange(anchors_per_location, device=anchors.device)
        candidates, start = [], 0
        for num_anchors in anchors_per_level:
            end = start + num_anchors // anchors_per_location
            nearest = nearest_cells(target_center, cells[start:end], self.num_candidates) + start
            candidates.append((nearest[:, :, None] * anchors_per_location + of_cell).flatten(1))
            start = end
        return torch.cat(candidates, dim=1)


class IoUMatcher(Matcher):
    """Fixed thresholds (Ren et al., 2015): from `high` on an object, below `low` background, ignored in between.

    Args:
        low: IoU below which an anchor is background.
        high: IoU from which an anchor belongs to its best object.
        allow_low_quality: the best anchors of an object belong to it also below `high`, if they touch it; one that is
            the best of several objects belongs to that with the higher IoU.

    Raises:
        UserError: `low` is above `high`.

    Example:
        >>> import torch
        >>> from medpretrain3d.detection import AnchorGrid, IoUMatcher
        >>> grid = AnchorGrid([[(4, 4, 4)]])
        >>> shapes = [(1, 1, 4)]
        >>> anchors = grid(shapes, strides=[(4, 4, 4)], device="cpu")
        >>> targets = torch.tensor([[0.0, 0, 0, 4, 4, 4]])
        >>> IoUMatcher(low=0.4, high=0.5)(targets, anchors, grid.per_level(shapes), grid.per_cell)
        tensor([ 0, -1, -1, -1])
    """

    def __init__(self, low: Share = 0.4, high: Share = 0.5, allow_low_quality: bool = True) -> None:
        if low > high:
            raise UserError(
                f"IoUMatcher: got low {low} and high {high}, between which anchors are ignored; give a low of at most "
                f"{high}"
            )
        self.low = low
        self.high = high
        self.allow_low_quality = allow_low_quality

    def __call__(
        self, targets: Tensor, anchors: Tensor, anchors_per_level: Sequence[int], anchors_per_location: int
    ) -> Tensor:
        """Return index of the matched target per anchor: (A,) int64, `BACKGROUND` or `IGNORED`."""
        best_iou = anchors.new_full((len(anchors),), -1.0, dtype=torch.float32)
        best_target = torch.full((len(anchors),), BACKGROUND, device=anchors.device)
        low_quality, low_quality_iou = best_target.clone(), torch.zeros_like(best_iou)
        # One object at a time: a row of the (N, A) matrix is all that is ever needed.
        for index in range(len(targets)):
            iou = box_iou(targets[index : index + 1], anchors)[0]
            better = iou > best_iou
            best_target[better] = index
            best_iou = torch.maximum(best_iou, iou)
            if self.allow_low_quality:
                claimed = (iou == iou.max()) & (iou > low_quality_iou)
                low_quality[claimed] = index
                low_quality_iou[claimed] = iou[claimed]
        matched = torch.where(best_iou >= self.high, best_target, IGNORED)
        matched[best_iou < self.low] = BACKGROUND
        return torch.where((low_quality >= 0) & (matched < 0), low_quality, matched)


def _closest(anchors: Tensor, closeness: Tensor) -> Tensor:
    """Return anchors (N,) by falling closeness (N,)."""
    return anchors[closeness.argsort(descending=True, stable=True)]


def _best_first(objects: list[int], iou: Tensor) -> list[int]:
    """Sort objects by the highest IoU (N, M) of any of their candidates."""
    if not objects:
        return []
    return sorted(objects, key=iou.amax(dim=1).tolist().__getitem__, reverse=True)


def nearest_cells(centers_vox: Tensor, cells: Tensor, count: int, block: int = 128) -> Tensor:
    """Return the `count` cells nearest to each centre, nearest first, the first of equals: (N, count) int64.

    Cells that follow each other lie close together, so a block of them has a small hull, and the distance to the hull
    bounds the distances to its cells: of 300,000 cells each centre looks at about a thousand.

    Args:
        centers_vox: (N, 3).
        cells: boxes (A, 6) around the cells' centres.
        count: at most A are returned.
        block: cells per block.
    """
    if cells.device.type == "cpu":
        return _nearest_cells_compiled(centers_vox, cells, min(count, len(cells)), block)
    return nearest_cells_on_device(centers_vox, cells, count, block)


def _nearest_cells_compiled(centers_vox: Tensor, cells: Tensor, count: int, block: int) -> Tensor:
    from medpretrain3d.detection.nearest_kernel import nearest_in_blocks  # numba takes half a second to import

    nearest = torch.empty(len(centers_vox), count, dtype=torch.int64)
    nearest_in_blocks((2 * centers_vox).float().numpy(), cells.float().numpy(), block, nearest.numpy())
    return nearest


def nearest_cells_on_device(centers_vox: Tensor, cells: Tensor, count: int, block: int = 128) -> Tensor:
    """Return `nearest_cells` in plain torch, for any device."""
    count = min(count, len(cells))
    bounds = _squared_distance_to_hulls(centers_vox, cells, block)  # (N, blocks)
    within = torch.arange(block, device=cells.device)

    def nearest_in(num_blocks: int) -> tuple[Tensor, Tensor]:
        """The nearest cells in as many blocks with the smallest bounds, and their distances: (N, count), (N, count)."""
        blocks = bounds.topk(min(num_blocks, bounds.shape[1]), dim=1, largest=False).indices.sort(dim=1).values
        among = (blocks[:, :, None] * block + within).flatten(1)
        squared = _squared_distance(centers_vox, cells[among.clamp(max=len(cells) - 1)])
        squared, order = squared.masked_fill_(among >= len(cells), torch.inf).sort(dim=1, stable=True)
        return among.gather(1, order[:, :count]), squared[:, :count]

    # Enough blocks to hold `count` cells, even if one is the last and not full, give a radius; then all within it.
    radius = nearest_in(1 + -(-count // block))[1][:, -1:]
    return nearest_in(int((bounds <= radius * (1 + 1e-5)).sum(dim=1).max()))[0]  # rounding may lift a bound


def _squared_distance(centers_vox: Tensor, cells: Tensor) -> Tensor:
    """Return four times that of centres (N, 3) from the centres of boxes (N, M, 6): (N, M)."""
    # By axis, and not the product form of cdist: that one loses the order of near ties at large coordinates.
    twice = 2 * centers_vox
    d, h, w = (cells[:, :, axis] + cells[:, :, axis + 3] - twice[:, axis, None] for axis in range(3))
    return d.square_().addcmul_(h, h).addcmul_(w, w)


def _squared_distance_to_hulls(centers_vox: Tensor, cells: Tensor, block: int) -> Tensor:
    """Four times that of centres (N, 3) from the hull of the centres of each block of boxes (A, 6): (N, A / block)."""
    missing = -len(cells) % block
    squared = centers_vox.new_zeros(len(centers_vox), -(-len(cells) // block))
    for axis in range(3):
        center = cells[:, axis] + cells[:, axis + 3]
        center = torch.cat([center, center[-1:].expand(missing)]).view(-1, block)
        low, high = center.amin(dim=1), center.amax(dim=1)  # aminmax takes ten times as long
        twice = 2 * centers_vox[:, axis, None]
        gap = torch.maximum(low - twice, twice - high).clamp_(min=0)
        squared.addcmul_(gap, gap)
    return squared


def ignore_background(
    matched: Tensor, anchors: Tensor, regions: Tensor, as_objects: Tensor, min_share: float = 0.5
) -> Tensor:
    """Return `matched` (A,) with the background anchors that speak of an ignore region set to `IGNORED`.

    The rule: an anchor matched to an object stays so. A background anchor is ignored if its centre lies
    in a region, or at least `min_share` of its volume does (the IoF of COCO's crowds), or if the matcher would have
    given it to the region as to an object: regions smaller than a cell may hold no centre at all.

    Args:
        matched: (A,) from the matcher.
        anchors: (A, 6).
        regions: (M, 6).
        as_objects: (A,) what the matcher says of the regions.
        min_share: of an anchor's volume.
    """
    center, volume = box_center(anchors), box_volume(anchors)
    ignored = as_objects >= 0
    for region in regions.float():  # one at a time: a row of the (M, A) matrix is all that is needed
        inside = ((center >= region[:3]) & (center < region[3:])).all(dim=1)
        shared = torch.ones_like(volume)
        for axis in range(3):
            edge = anchors[:, axis + 3].clamp(max=region[axis + 3]) - anchors[:, axis].clamp(min=region[axis])
            shared *= edge.clamp(min=0)
        ignored |= inside | (shared >= min_share * volume)
    return torch.where(ignored & (matched == BACKGROUND), IGNORED, matched)

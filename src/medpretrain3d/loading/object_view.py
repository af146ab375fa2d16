"""A crop with the objects in it, for objectives that train a detector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from medpretrain3d.boxes import Targets
from medpretrain3d.errors import UserError
from medpretrain3d.loading.crops import CropReader
from medpretrain3d.loading.object_crops import read_objects
from medpretrain3d.loading.sampling import CaseOrder
from medpretrain3d.loading.views import Sample, Views
from medpretrain3d.values import Share


class ObjectView(Views):
    """One crop with its objects, such as those of `medpretrain3d pseudo` (DetectorPretraining).

    `image` (B, C, D, H, W). Samples hold different numbers of objects, so a batch joins them: `boxes` (N, 6) float32 in
    voxels of the crop, half-open; `labels` (N,) int64; `box_of` (N,) int64, the sample each is of. `label_map`
    (B, D, H, W) uint8, 0 for background and `label + 1` inside objects, where all cases of the batch have masks.
    `ignore` (M, 6) and `ignore_of` (M,) are regions in which finding something is ignored.

    Args:
        min_visible: objects of which less than this share is inside the crop are ignore regions; see `ObjectCrops`.
    """

    has_static_shapes = False

    def __init__(self, min_visible: Share = 0.1) -> None:
        self.min_visible = min_visible

    def check(self, reader: CropReader, order: CaseOrder) -> None:
        """Objects have classes, the same in every store."""
        stores = {ref.store.place: ref.store for ref in order.cases}
        for place, store in stores.items():
            if not store.classes:
                raise UserError(
                    f"ObjectView: {place} holds no objects; find some with `medpretrain3d pseudo {place}` and name the "
                    "store that it writes in data.store"
                )
        if len({store.classes for store in stores.values()}) > 1:
            named = "; ".join(f"{place}: {', '.join(store.classes)}" for place, store in stores.items())
            raise UserError(f"ObjectView: stores of different classes ({named}); name stores of the same kinds")

    def draw(self, reader: CropReader, order: CaseOrder, position: int, random: np.random.Generator) -> Sample:
        """Return a crop of the case at the position, with what is in it."""
        case = order.at(position).open()
        spatial_transform = reader.draw_placement(case, random)
        start = reader.crop_sampler.draw(case, reader.patch, random, spatial_transform)
        return {"objects": read_objects(reader, case, start, spatial_transform, random, self.min_visible)}

    def collate(self, samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Crops and label maps stacked, objects joined."""
        found: list[tuple[Tensor, Targets]] = [sample["objects"] for sample in samples]  # type: ignore[misc]  # finished
        rest = [{name: value for name, value in sample.items() if name != "objects"} for sample in samples]
        images, targets = zip(*found, strict=True)
        regions = [image.new_zeros(0, 6) if one.ignore is None else one.ignore for image, one in found]
        batch: dict[str, Tensor] = {
            **default_collate(rest),
            "image": torch.stack(images),
            "boxes": torch.cat([one.boxes for one in targets]),
            "labels": torch.cat([one.labels for one in targets]),
            "box_of": _owners([len(one.labels) for one in targets], images[0].device),
            "ignore": torch.cat(regions),
            "ignore_of": _owners([len(one) for one in regions], images[0].device),
        }
        masks = [one.mask for one in targets if one.mask is not None]
        return {**batch, "label_map": torch.stack(masks)} if len(masks) == len(targets) else batch


def _owners(counts: list[int], device: torch.device) -> Tensor:
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(device, non_blocking=True)

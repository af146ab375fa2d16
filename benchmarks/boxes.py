"""Box arithmetic against MONAI."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from monai.data import box_utils

from benchmarks.timing import Row, race
from medpretrain3d.boxes import box_iou, generalized_box_iou, nms


def rows() -> Iterator[Row]:
    random = torch.Generator().manual_seed(0)

    def boxes(count: int, space_vox: float = 400) -> torch.Tensor:
        corner = torch.rand(count, 3, generator=random) * space_vox
        return torch.cat([corner, corner + 4 + torch.rand(count, 3, generator=random) * 20], dim=1)

    a, b = boxes(10_000), boxes(1_000)
    for name, ours, theirs in (
        ("IoU", box_iou, box_utils.box_iou),
        ("generalized IoU", generalized_box_iou, box_utils.box_giou),
    ):
        torch.testing.assert_close(ours(a, b), theirs(a, b), atol=1e-5, rtol=1e-4)
        peer = f"monai {theirs.__name__}"
        yield race(
            f"{name} of 10,000 x 1,000 boxes",
            peer,
            partial(theirs, a, b),
            partial(ours, a, b),
            bar=15,
        )
    for name, some, rounds in (("sparse", a, 2), ("crowded", boxes(2_000, 40), 3)):
        scores = torch.rand(len(some), generator=random)
        assert nms(some, scores, 0.3).tolist() == box_utils.non_max_suppression(some, scores, 0.3).tolist()
        yield race(
            f"NMS of {len(some):,} {name} boxes",
            "monai non_max_suppression",
            partial(box_utils.non_max_suppression, some, scores, 0.3),
            partial(nms, some, scores, 0.3),
            rounds,
            bar=15,
        )

"""Box arithmetic against MONAI."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from monai.data import box_utils

from benchmarks.timing import Row, race
from medpretrain3d.boxes import box_iou, nms


def rows() -> Iterator[Row]:
    random = torch.Generator().manual_seed(0)

    def boxes(count: int) -> torch.Tensor:
        corner = torch.rand(count, 3, generator=random) * 400
        return torch.cat([corner, corner + 4 + torch.rand(count, 3, generator=random) * 20], dim=1)

    a, b = boxes(10_000), boxes(1_000)
    torch.testing.assert_close(box_iou(a, b), box_utils.box_iou(a, b), atol=1e-5, rtol=1e-4)
    yield race("IoU of 10,000 x 1,000 boxes", "monai box_iou", lambda: box_utils.box_iou(a, b), lambda: box_iou(a, b))
    some, scores = a[:2_000], torch.rand(2_000, generator=random)
    ours, theirs = nms(some, scores, 0.3), box_utils.non_max_suppression(some, scores, 0.3)
    assert ours.tolist() == theirs.tolist()
    yield race(
        "NMS of 2,000 sparse boxes",
        "monai non_max_suppression",
        lambda: box_utils.non_max_suppression(some, scores, 0.3),
        lambda: nms(some, scores, 0.3),
        rounds=3,
    )

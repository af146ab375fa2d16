"""What stays in fp32 under bf16 autocast, asked of every objective and detector; of backbones in test_backbones.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from medpretrain3d.boxes import Targets
from medpretrain3d.precision.mixed import autocast
from medpretrain3d.precision.split_weights import join_weights, split_weights
from tests.half_precision import in_both
from tests.tiny_detectors import TINY_DETECTORS, tiny_detector
from tests.tiny_objectives import TINY_OBJECTIVES, tiny_objective


def with_split_weights(network: nn.Module, run: Callable[[], Any]) -> Any:
    """What a network gives whose weights are in bf16."""
    split_weights(network)
    with torch.no_grad(), autocast(torch.device("cpu"), "bf16-true"):
        return run()


@pytest.mark.parametrize("cls", TINY_OBJECTIVES)
def test_losses_of_objectives(cls):
    objective, batch = tiny_objective(cls), TINY_OBJECTIVES[cls].batch("ResEnc", 5)
    exact, found = in_both(lambda: objective(batch).loss)
    assert exact.dtype == found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=0.01, atol=0)
    # Weights that are trained in bf16 are those that autocast would make of the others.
    of_split_weights = with_split_weights(objective, lambda: objective(batch).loss)
    torch.testing.assert_close(of_split_weights, found, rtol=0.005, atol=0)


@pytest.mark.parametrize("cls", TINY_DETECTORS)
def test_losses_and_boxes_of_detectors(cls):
    detector = tiny_detector(cls)
    # Of this image the queries that a fresh DETR takes from its proposals are no tie that rounding would decide.
    image = torch.rand(2, 1, 24, 24, 24, generator=torch.Generator().manual_seed(2)) * 2 - 1
    mask = torch.zeros(24, 24, 24, dtype=torch.long)
    mask[2:9, 3:9, 4:9] = 2
    some = Targets(torch.tensor([[2.0, 3, 4, 9, 9, 9]]), torch.tensor([1]), mask)
    targets = [some, Targets(torch.zeros(0, 6), torch.zeros(0, dtype=torch.long))]
    exact, found = in_both(lambda: detector.losses(image, targets))
    assert {loss.dtype for loss in found.values()} == {torch.float32}
    for name, loss in found.items():
        torch.testing.assert_close(loss, exact[name], rtol=0.02, atol=1e-3, msg=name)
    of_split_weights = with_split_weights(detector, lambda: detector.losses(image, targets))
    for name, loss in of_split_weights.items():
        torch.testing.assert_close(loss, found[name], rtol=0.01, atol=1e-3, msg=name)
    join_weights(detector)
    exact, found = in_both(lambda: detector.eval().detect(image))
    assert {one.boxes.dtype for one in found} | {one.scores.dtype for one in found} == {torch.float32}

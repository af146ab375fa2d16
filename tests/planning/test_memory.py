from __future__ import annotations

from dataclasses import replace

import pytest

from medpretrain3d.planning.memory import MemoryEstimate, Shown, estimate, planned_memory
from medpretrain3d.planning.plan import Plan
from medpretrain3d.planning.setup import CPU
from medpretrain3d.planning.topology import plan_topology
from medpretrain3d.planning.training_memory import GIB

TOPOLOGY = plan_topology((1.0, 1.0, 1.0), (32, 32, 32), 4)
PLAN = Plan((1.0, 1.0, 1.0), (32, 32, 32), 2, "XXS", TOPOLOGY.strides, TOPOLOGY.kernel_sizes)


def test_batches_by_hand():
    memory = MemoryEstimate(fixed=GIB, per_sample=2 * GIB)
    assert memory.gib(3) == 1 + 1 + 6
    assert memory.largest_batch(8.5) == 3
    assert memory.largest_batch(3.5) == 0


@pytest.mark.parametrize("have_masks", [True, False])
def test_a_small_patch_tells_what_a_large_one_takes(have_masks):
    plan = replace(PLAN, patch=(64, 48, 48), first_level=1, anchors=(((4.0, 4.0, 4.0),) * 2,) * 3)
    shown = Shown(num_classes=3, num_channels=2, have_masks=have_masks)
    exact = planned_memory(plan, shown, CPU)
    taken = estimate(plan, shown, CPU).gib(plan.batch_size) - 1
    assert taken == pytest.approx(exact.num_bytes / GIB, rel=0.06)
    assert exact.optimizer == 2 * exact.gradients  # of AdamW
    assert exact.averaged_weights == exact.weights


def test_an_encoder_alone_takes_less_than_with_a_detector():
    detector = replace(PLAN, first_level=1, anchors=(((4.0, 4.0, 4.0),),) * 2)
    assert planned_memory(PLAN).gib < planned_memory(detector).gib

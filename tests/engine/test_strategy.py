"""What DDP is told."""

from __future__ import annotations

import pytest
from lightning.pytorch.strategies import DDPStrategy

from medpretrain3d.engine.strategy import strategy_used

CPU = {"accelerator": "cpu"}


@pytest.mark.parametrize(
    ("options", "start"),
    [
        ({"strategy": "ddp", "devices": 2}, "popen"),
        ({"strategy": "auto", "devices": 2}, "popen"),
        ({"num_nodes": 2}, "popen"),
        ({"strategy": "ddp_fork", "devices": 2}, "fork"),
        ({"strategy": "ddp_spawn", "devices": 2}, "spawn"),
    ],
)
def test_gradients_lie_in_the_buckets_that_are_sent(options, start):
    found = strategy_used({**CPU, **options})
    assert isinstance(found, DDPStrategy)
    assert found._ddp_kwargs["gradient_as_bucket_view"] is True
    assert not found._ddp_kwargs.get("find_unused_parameters", False)
    assert found._start_method == start


def test_one_process_and_strategies_of_the_user_stay_as_they_are():
    assert strategy_used(CPU) == "auto"
    assert strategy_used({**CPU, "devices": 1, "strategy": "auto"}) == "auto"
    assert strategy_used({**CPU, "devices": 2, "strategy": "fsdp"}) == "fsdp"
    own = DDPStrategy(static_graph=True)
    assert strategy_used({**CPU, "devices": 2, "strategy": own}) is own

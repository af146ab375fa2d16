"""When weights are kept on the way of a run, by its hours over all sittings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from medpretrain3d.engine.run import RunConfig
from medpretrain3d.engine.snapshots import Snapshots


def trainer_at(step: int) -> Any:
    strategy = SimpleNamespace(lightning_module_state_dict=dict)
    return SimpleNamespace(global_step=step, callbacks=[], strategy=strategy, is_global_zero=False)


def snapshots(every_hours: float, now: dict[str, float]) -> Snapshots:
    run = RunConfig(group="g", name="n", snapshot_every_hours=every_hours)
    return Snapshots(run, lambda trainer, folder, state: None, lambda: now["hours"])


@pytest.mark.parametrize(("every_hours", "due_at"), [(1.0, 11.0), (4.0, 12.0), (24.0, 24.0)])
def test_a_sitting_with_other_intervals_keeps_the_next_at_the_next_of_them(every_hours: float, due_at: float) -> None:
    now = {"hours": 10.2}
    one = snapshots(1.0, now)
    one.save(trainer_at(99))
    then = snapshots(every_hours, now)
    then.load_state_dict(one.state_dict())
    assert not then.is_due(step=100)
    now["hours"] = due_at - 0.01
    assert not then.is_due(step=101)
    now["hours"] = due_at + 0.01
    assert then.is_due(step=102)


def test_a_checkpoint_of_an_earlier_version_counts_intervals() -> None:
    now = {"hours": 10.2}
    one = snapshots(2.0, now)
    one.load_state_dict({"num_by_hours": 5})
    assert not one.is_due(step=100)
    now["hours"] = 12.1
    assert one.is_due(step=101)
    coarser = snapshots(24.0, now)
    coarser.load_state_dict({"num_by_hours": 10})  # 10 intervals of an hour are no 240 hours of this run
    now["hours"] = 24.1
    assert coarser.is_due(step=102)

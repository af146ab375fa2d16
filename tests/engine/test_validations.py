"""How much a validation looks at, and what waits for one."""

from __future__ import annotations

import pytest
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor

from medpretrain3d.engine.validations import check_awaited, limit_as_number, limited
from medpretrain3d.errors import UserError


@pytest.mark.parametrize(("limit", "count"), [(None, 7), (1.0, 7), (9, 7), (3, 3), (0.5, 3), (0, 0), (0.0, 0)])
def test_a_limit_is_a_number_of_all_batches(limit, count):
    number = limit_as_number(limit, 7)
    assert isinstance(number, int) or number in (None, 1.0)  # which mean the same on any number of processes
    assert limited(7, 1.0 if number is None else number) == count


def test_a_share_that_is_none_is_refused():
    with pytest.raises(UserError, match=r"limit_val_batches 0.1 of 7 .*; wanted a share of at least 0.14"):
        limit_as_number(0.1, 7)


def test_a_run_that_never_validates_cannot_stop_by_it():
    with pytest.raises(UserError, match="EarlyStopping goes by val/loss, but nothing is validated"):
        check_awaited([LearningRateMonitor(), EarlyStopping("val/loss")], is_validated=False)
    check_awaited([EarlyStopping("val/loss")], is_validated=True)
    check_awaited([EarlyStopping("train/loss")], is_validated=False)

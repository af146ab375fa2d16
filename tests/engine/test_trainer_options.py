from __future__ import annotations

import pytest

from medpretrain3d.engine.trainer_options import check_options
from medpretrain3d.errors import UserError


def check(**trainer):
    check_options({"seed_everything": 0, "trainer": {"max_steps": 2, **trainer}})


@pytest.mark.parametrize("limit", [1, 0, 0.5, 3])
def test_a_test_of_some_cases_only_is_refused(limit):
    with pytest.raises(UserError, match=r"limit_test_batches .*, wanted none: a run is tested on all"):
        check(limit_test_batches=limit)


def test_defaults_are_taken():
    check(limit_test_batches=None, fast_dev_run=False)
    check(limit_test_batches=1.0)


def test_validations_of_every_second_epoch_are_refused():
    """A run is one epoch."""
    with pytest.raises(UserError, match="check_val_every_n_epoch 2, so that nothing is ever validated: a run is one"):
        check(check_val_every_n_epoch=2)
    check(check_val_every_n_epoch=1)
    check(check_val_every_n_epoch=None)


def test_an_interval_beyond_the_last_step_is_refused_and_taken_where_nothing_is_to_be_validated():
    with pytest.raises(UserError, match="val_check_interval 300 and max_steps 2, so that nothing is ever validated"):
        check(val_check_interval=300)
    check(val_check_interval=300, limit_val_batches=0)
    check(check_val_every_n_epoch=2, limit_val_batches=0)

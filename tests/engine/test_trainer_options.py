from __future__ import annotations

import pytest

from medpretrain3d.command_line.trainer import check_trainer
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


@pytest.mark.parametrize("devices", ["two", "2.0", "null", "1e3", "[0", "", "0 1"])
def test_devices_that_are_no_number_are_refused_in_one_line(devices):
    with pytest.raises(UserError, match=r"trainer: got devices '.*', wanted a number >= 1, numbers of GPUs"):
        check(devices=devices)


@pytest.mark.parametrize("devices", [1, "1", "auto", "-1", "0,", "0, 1", [0]])
def test_devices_in_every_form_of_lightning_are_taken(devices):
    check(devices=devices, accelerator="cpu")


@pytest.mark.parametrize(
    ("accelerator", "advice"), [("gpus", "did you mean 'gpu'"), ("cuda:1", "set trainer.accelerator to cuda"), ("", "")]
)
def test_an_accelerator_that_there_is_not_is_refused_in_one_line(accelerator, advice):
    with pytest.raises(UserError, match=f"trainer: got accelerator '{accelerator}', wanted .*cpu.*{advice}"):
        check(accelerator=accelerator)


def test_accelerators_of_lightning_are_taken():
    for accelerator in (None, "auto", "cpu", "gpu", "cuda"):
        check(accelerator=accelerator)


@pytest.mark.parametrize("logger", [False, {"class_path": "CSVLogger"}, [{"class_path": "CSVLogger"}]])
def test_loggers_that_no_run_would_tell_are_refused(logger):
    with pytest.raises(UserError, match=r"trainer.logger: .* run.wandb, run.tensorboard and run.mlflow"):
        check(logger=logger)
    with pytest.raises(UserError, match=r"trainer.logger: "):
        check_trainer({"max_steps": 2, "logger.class_path": "CSVLogger"})  # as a study flattens its options
    check(logger=None)
    check(logger=True)

"""The precision of a run: what is typed wins, what began goes on, all processes have that of the first."""

from __future__ import annotations

import json
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch.utils.data import DataLoader

from medpretrain3d.engine import precision as of_runs
from medpretrain3d.engine.bf16_weights import BF16Weights
from medpretrain3d.engine.precision import (
    MixedPrecisionOnCPU,
    SamePrecision,
    device_of,
    precision_begun_with,
    precision_of_run,
    precision_plugin,
)
from medpretrain3d.engine.run import RunConfig, RunFile
from medpretrain3d.engine.trainer_options import check_options
from medpretrain3d.errors import UserError
from medpretrain3d.precision.choice import PrecisionChoice
from medpretrain3d.run_metadata import RunMetadata

CPU = {"accelerator": "cpu"}


@pytest.fixture
def run(tmp_path):
    return RunConfig(root=str(tmp_path))


@pytest.fixture
def suited(monkeypatch):
    """Say what suits the machine."""

    def say(name):
        monkeypatch.setattr(of_runs, "choose_precision", lambda _: PrecisionChoice(name, "as measured", 1.7))

    say("bf16-mixed")
    return say


def begin(run: RunConfig, config: str = "trainer: {precision: null}\n", **metadata) -> None:
    RunFile(run.folder).path.parent.mkdir(parents=True)
    RunFile(run.folder).update(RunMetadata(finished=True, **metadata))
    (run.folder / "config.yaml").write_text(config)


def test_what_suits_the_machine_is_taken_where_nothing_is_typed(run, suited):
    found = precision_of_run(CPU, run)
    assert (found.precision, found.bf16_speed_ratio) == ("bf16-mixed", 1.7)
    assert str(found) == "precision bf16-mixed: as measured"


@pytest.mark.parametrize("typed", ["32-true", "bf16-mixed", "16-mixed", "32", 16])
def test_what_is_typed_wins(run, suited, typed):
    suited("bf16-mixed" if typed in ("32-true", "32") else "32-true")
    begin(run, precision="bf16-mixed")
    found = precision_of_run({**CPU, "precision": typed}, run)
    assert found.precision.startswith(str(typed))
    assert "as trainer.precision says" in found.reason
    assert ("fp16 is emulated on CPUs" in found.reason) == (found.precision == "16-mixed")


def test_a_run_goes_on_in_the_precision_it_began_with_and_says_what_this_machine_would_take(run, suited):
    begin(run, precision="32-true", bf16_speed_ratio=0.4)
    assert str(precision_of_run(CPU, run)) == (
        "precision 32-true: as this run began; a run that began here would take bf16-mixed: as measured"
    )
    suited("32-true")
    assert str(precision_of_run(CPU, run)) == "precision 32-true: as this run began"
    again = RunConfig(root=run.root, restart=True)
    suited("bf16-mixed")
    assert precision_of_run(CPU, again).precision == "bf16-mixed"


def test_a_run_that_has_made_no_checkpoint_begins_anew(run, suited):
    begin(run, precision="32-true")
    RunFile(run.folder).update(RunMetadata(finished=False))
    assert precision_begun_with(run) is None
    assert precision_of_run(CPU, run).precision == "bf16-mixed"
    run.checkpoints.mkdir()
    torch.save({"global_step": 3}, run.checkpoints / "step=3.ckpt")
    (run.checkpoints / "last.ckpt").symlink_to("step=3.ckpt")
    assert precision_of_run(CPU, run).precision == "32-true"


@pytest.mark.parametrize(
    ("config", "machine", "precision"),
    [
        ("trainer: {precision: null}\n", "2 cores, x86_64, no GPU", "32-true"),
        ("trainer: {precision: null}\n", "2 x NVIDIA H100", "bf16-mixed"),
        ("trainer: {precision: 16-mixed}\n", "2 x NVIDIA H100", "16-mixed"),
        ("trainer: {precision: bf16}\n", "2 cores, x86_64, no GPU", "bf16-mixed"),
        ("[", "2 cores, x86_64, no GPU", "32-true"),
    ],
)
def test_runs_of_earlier_versions_go_on_as_they_began(run, config, machine, precision):
    begin(run, config, machine=machine)
    document = json.loads(RunFile(run.folder).path.read_text())
    del document["precision"], document["bf16_speed_ratio"]
    RunFile(run.folder).path.write_text(json.dumps(document))
    assert precision_begun_with(run) == precision


def test_the_device_is_the_one_that_is_asked_for_whatever_else_is_there(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert device_of({}).type == device_of({"accelerator": "gpu"}).type == device_of({"accelerator": "cuda"}).type
    assert device_of({}).type == "cuda"
    assert device_of(CPU).type == "cpu"  # bf16 used to be taken there, because there is a GPU
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device_of({"accelerator": "auto"}).type == "cpu"


@pytest.mark.parametrize("name", ["64-true", "16-true", "transformer-engine"])
def test_precisions_in_which_boxes_would_not_be_fp32_are_refused(name):
    with pytest.raises(UserError, match=f"got precision '?{name}'?, wanted one of 32-true, bf16-mixed, 16-mixed"):
        check_options({"seed_everything": 0, "trainer": {"max_steps": 2, "precision": name}})


def test_plugins_are_of_the_device():
    assert isinstance(precision_plugin("bf16-mixed", "cpu"), MixedPrecisionOnCPU)
    on_gpu = precision_plugin("bf16-mixed", "cuda")
    assert (type(on_gpu), on_gpu.precision, on_gpu.device) == (MixedPrecision, "bf16-mixed", "cuda")
    assert precision_plugin("32-true", "cpu").precision == "32-true"
    assert isinstance(precision_plugin("bf16-true", "cpu"), BF16Weights)


class Probe(L.LightningModule):
    """Notes in which type a step computed, in a file per process."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.layer, self.folder = torch.nn.Linear(2, 1), folder

    def training_step(self, batch, batch_idx):
        found = self.layer(batch)
        (self.folder / str(self.global_rank)).write_text(f"{found.dtype} {self.trainer.precision}")
        return found.float().sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class OtherMachine(L.Callback):
    """Gives the second process what another machine would choose."""

    def setup(self, trainer, module, stage):
        if trainer.global_rank == 1:
            trainer.strategy.precision_plugin = precision_plugin("32-true", "cpu")


def test_the_first_process_decides_for_all(tmp_path):
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        max_steps=1,
        plugins=[precision_plugin("bf16-mixed", "cpu")],
        callbacks=[OtherMachine(), SamePrecision()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Probe(tmp_path), DataLoader(torch.ones(4, 2), batch_size=1))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "0": "torch.bfloat16 bf16-mixed",
        "1": "torch.bfloat16 bf16-mixed",
    }

"""How often the host waits for a GPU in a training step with all that a stage has Lightning do around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.utils.data import DataLoader

from finetune.module import FinetuneModule
from medpretrain3d.engine.distributed import numbers_to_log
from medpretrain3d.engine.divergence import Divergence
from medpretrain3d.engine.progress_lines import ProgressLines
from medpretrain3d.engine.throughput import Throughput
from medpretrain3d.objectives import MAE
from medpretrain3d.objectives.base import with_host_copies
from pretrain.module import PretrainModule
from tests.detection.test_host_waits import WAITS, a_batch
from tests.host_waits import DEVICE, CountingDevice
from tests.tiny_detectors import tiny_detector
from tests.tiny_objectives import tiny_batch, tiny_objective


class OnNoDevice(Accelerator):
    """What Lightning asks of an accelerator, for the device that is none."""

    def setup_device(self, device: torch.device) -> None: ...

    def teardown(self) -> None: ...

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [DEVICE]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return DEVICE.type


class WithoutData:
    def setup(self, stage: str) -> None: ...

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters())  # the stage's fused one has no kernel for no device


class Pretrain(WithoutData, PretrainModule):
    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return with_host_copies(super().transfer_batch_to_device(batch, device, dataloader_idx), batch)


class Finetune(WithoutData, FinetuneModule): ...


class WaitsOfSteps(L.Callback):
    """Notes what was waited for between the starts of two steps."""

    def __init__(self, device: CountingDevice) -> None:
        self.device = device
        self.found: list[list[str]] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.found.append(self.device.waits)
        self.device.reset()


def waits_of_steps(module: L.LightningModule, batch: Any, device: CountingDevice, folder: Path) -> list[list[str]]:
    """What each of five steps waits for.

    The first one is said, the second one ends the window of the throughput, the third one is logged.
    """
    steps, throughput = WaitsOfSteps(device), Throughput(2)
    trainer = L.Trainer(
        strategy=SingleDeviceStrategy(device=DEVICE, accelerator=OnNoDevice()),
        max_steps=5,
        log_every_n_steps=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[steps, Divergence(folder), throughput, ProgressLines(throughput, every_s=3600)],
    )
    trainer.fit(module, DataLoader([batch] * 5, batch_size=None))
    assert trainer.progress_bar_metrics.keys() == {"train/loss"}
    return steps.found[1:]


def files(waits: list[str]) -> set[str]:
    return {wait.split(":")[0].rpartition("/")[2] for wait in waits}


def test_only_a_step_of_pretraining_that_is_logged_waits(tmp_path):
    with CountingDevice() as device:
        found = waits_of_steps(Pretrain(tiny_objective(MAE)), tiny_batch("ResEnc"), device, tmp_path)
    assert [len(waits) for waits in found] == [1, 0, 2, 0], found
    assert files(found[0]) == {"progress_lines.py"}
    assert files(found[2]) == {"divergence.py", "distributed.py"}


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("detector", WAITS)
def test_a_step_of_fine_tuning_waits_as_often_as_its_detector(detector, size, tmp_path):
    with CountingDevice() as device:
        found = waits_of_steps(Finetune(tiny_detector(detector)), a_batch(size), device, tmp_path)
    own = WAITS[detector]
    assert [len(waits) for waits in found] == [own + 1, own, own + 2, own], found
    assert files(found[2]) - files(found[3]) == {"divergence.py", "distributed.py"}


def test_numbers_are_logged_as_they_are():
    module = L.LightningModule()
    assert {name: value.item() for name, value in numbers_to_log(module, {"lr": 0.25, "n": 3}).items()} == {
        "lr": 0.25,
        "n": 3,
    }

"""Compute cost of a run: device hours and FLOPs."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import lightning as L
from torch import Tensor, get_num_threads
from torch.utils.flop_counter import FlopCounterMode

from medpretrain3d.engine.energy import EnergyMeter, energy_meter
from medpretrain3d.engine.run import RunFile
from medpretrain3d.run_metadata import RunMetadata

MEASURED_EVERY = 50
"""Steps from one count of the arithmetic to the next; counting slows a step down."""
KEPT_EVERY_S = 2.0
"""Seconds of a run that a kill may leave out of `run.json`."""

Measured = dict[str, tuple[int, int]]
"""Floating point operations of the measured batches of each shape, and their number."""


class ComputeMeter(L.Callback):
    """Keeps what the run has cost so far in `run.json`, sittings that were killed and steps that they lost included.

    `flop` are the floating point operations of all batches trained on, forward and backward pass; convolutions, matrix
    products and attention are counted, a multiplication with its addition as two. A batch is measured when it is the
    first of its shape, and in every 50th step; the others cost what the measured ones of their shape cost on average,
    which is exact unless an objective draws how much it computes. Of several processes the first stands for all.

    `compute_hours` are the hours of all devices, validation and test included, and `compute_device` what one is: a GPU,
    or a CPU core for each thread of a process.

    `energy_kwh` is what the devices took, where they tell, see `energy_meter`. Of several GPUs that of the first
    process stands for all. It is unknown of a run once it is of one of its sittings.

    Args:
        run_file: `run.json` of the run; its minutes are the hours.
    """

    def __init__(self, run_file: RunFile) -> None:
        self._run_file = run_file
        earlier = run_file.read()
        self._earlier_flop = int(earlier.flop or 0)
        self._earlier_hours = earlier.compute_hours or 0.0
        self._earlier_minutes = run_file.minutes
        self._earlier_kwh = 0.0 if earlier.compute_hours is None else earlier.energy_kwh
        self._earlier_energy_of = earlier.energy_of
        self._energy: EnergyMeter | None = None
        self._flop = 0
        """Of this process in this sitting."""
        self._measured: Measured = {}
        self._at_last_step: Measured = {}
        self._counter: FlopCounterMode | None = None
        self._kept = time.monotonic()

    # Counting changes the rounding of gradients (torch 2.14), so that a continued run has to measure the same batches.
    def state_dict(self) -> dict[str, Any]:
        """Return the FLOPs measured up to the last whole step, with which an interrupted run goes on."""
        return {"measured": self._at_last_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self._at_last_step = dict(state_dict["measured"])
        self._measured = dict(self._at_last_step)

    def metadata(self, trainer: L.Trainer) -> RunMetadata:
        """Return `flop`, `compute_hours`, `compute_device` and energy of the whole run so far."""
        is_cpu = trainer.strategy.root_device.type == "cpu"
        # Of a CPU the cores that it computes with, not those that there are: other runs may be on the others.
        num_devices = trainer.world_size * (get_num_threads() if is_cpu else 1)
        hours = self._earlier_hours + (self._run_file.minutes - self._earlier_minutes) / 60 * num_devices
        flop = self._earlier_flop + self._flop * trainer.world_size
        kwh = self._kwh(trainer)
        return RunMetadata(
            flop=flop if flop < 2**63 else float(flop),  # larger whole numbers are no JSON to many readers
            compute_hours=float(f"{hours:.6g}"),
            compute_device="CPU core" if is_cpu else "GPU",
            energy_kwh=kwh,
            energy_of=None if kwh is None else self._energy_of(),
        )

    def _kwh(self, trainer: L.Trainer) -> float | None:
        kwh = None if self._energy is None else self._energy.kwh()
        if kwh is None or self._earlier_kwh is None:
            return None
        # Processes of a node read the same counters of its processors.
        is_cpu = trainer.strategy.root_device.type == "cpu"
        return float(f"{self._earlier_kwh + kwh * (trainer.num_nodes if is_cpu else trainer.world_size):.6g}")

    def _energy_of(self) -> str:
        own = None if self._energy is None else self._energy.device
        return ", ".join(dict.fromkeys(one for one in (self._earlier_energy_of, own) if one))

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Begin to count energy, once the device is known."""
        if self._energy is None and trainer.is_global_zero:
            self._energy = energy_meter(trainer.strategy.root_device)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Keep what it took to get here."""
        self._keep(trainer)

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Measure this batch where its turn has come."""
        self._step = trainer.global_step
        is_due = self._step % MEASURED_EVERY == 0 or _shape(batch) not in self._measured
        if is_due and trainer.is_global_zero:
            self._counter = FlopCounterMode(display=False)
            self._counter.__enter__()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count this batch."""
        if not trainer.is_global_zero:
            return
        shape = _shape(batch)
        total, count = self._measured.get(shape, (0, 0))
        if self._counter is None:
            self._flop += round(total / count)
        else:
            measured = self._counter.get_total_flops()
            self._stop()
            self._measured[shape] = (total + measured, count + 1)
            self._flop += measured
        if trainer.global_step > self._step:
            self._at_last_step = dict(self._measured)
        self._keep_now_and_then(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        """Validation of whole volumes takes its time too."""
        self._keep_now_and_then(trainer)

    def on_test_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        """So does the test."""
        self._keep_now_and_then(trainer)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Write the compute cost to run.json before the run is closed, which takes a while."""
        self._keep(trainer)

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """Leave nothing behind that counts on."""
        self._stop()
        self._keep(trainer)

    def _stop(self) -> None:
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self._counter = None

    def _keep_now_and_then(self, trainer: L.Trainer) -> None:
        if time.monotonic() - self._kept >= KEPT_EVERY_S:
            self._keep(trainer)

    def _keep(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero:
            known = self.metadata(trainer)
            # What is not known any more is not what an earlier sitting knew.
            kept = self._run_file.read() | known
            self._run_file.write(replace(kept, energy_kwh=known.energy_kwh, energy_of=known.energy_of))
            self._kept = time.monotonic()


def _shape(batch: Any) -> str:
    """Return shapes of the tensors of a batch; how many objects there are to find is not among them."""
    if isinstance(batch, Tensor):
        return "x".join(map(str, batch.shape))
    if isinstance(batch, dict):
        return ", ".join(f"{key} {_shape(value)}" for key, value in batch.items())
    return ", ".join(map(_shape, batch)) if isinstance(batch, list | tuple) else ""

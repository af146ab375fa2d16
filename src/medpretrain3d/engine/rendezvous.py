"""How the processes of a run find each other: within a bounded time, or with a line that says who did not come.

PyTorch waits up to half an hour for a process that will never come, or that failed before it could say so, and then
tells neither address nor numbers.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import lightning as L
import torch.distributed as dist
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import ParallelStrategy
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # of its documentation, and not of its __all__

from medpretrain3d.errors import UserError

VARIABLE = "MEDPRETRAIN3D_RENDEZVOUS_S"
WAIT_S = 600.0
"""What PyTorch gives NCCL: a hundred processes that import it from one file system take minutes."""
DECLINE_S = 30.0
"""A process that failed before waits this long for the others, to tell them."""
_SLICE = timedelta(seconds=0.5)
"""A wait in C is cut into pieces: signals are handled between them."""


class Declined(Exception):
    """Another process failed before the run began."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass
class Rendezvous:
    """Where the processes of a run meet first.

    The first process has a store of keys that all can reach. Each one that comes writes a key of its number, be it that
    it is ready or why it failed; the first one answers all of them at once.

    Args:
        host: of the first process.
        port: of it; 0 lets the first process choose.
        rank: of this process.
        world_size: processes of the run.
    """

    host: str
    port: int
    rank: int
    world_size: int
    _store: TCPStore | None = None

    @property
    def place(self) -> str:
        """Address, in words."""
        return f"{self.host}:{self.port} (MASTER_ADDR, MASTER_PORT)"

    def meet(self, wait_s: float | None = None) -> None:
        """Wait until all processes are there.

        Args:
            wait_s: at most; by default what `MEDPRETRAIN3D_RENDEZVOUS_S` says, or `WAIT_S`.

        Raises:
            UserError: they were not in time.
            Declined: one of them failed.
        """
        wait_s = rendezvous_s() if wait_s is None else wait_s
        deadline = time.monotonic() + wait_s
        if self.rank == 0:
            self._gather(wait_s, deadline)
            return
        answer = self._answer("", deadline)
        if answer is None:
            raise UserError(
                f"rendezvous: process {self.rank} of {self.world_size} waited {wait_s:.0f} s for process 0 at "
                f"{self.place}; wanted the address of the first node, which this one reaches ({VARIABLE} sets the time)"
            )
        if answer:
            raise Declined(**json.loads(answer))

    def decline(self, code: int, text: str) -> bool:
        """Tell the others that this process failed before they met.

        Args:
            code: with which all end.
            text: what the first process prints.

        Returns:
            Whether the others heard of it, or all of them failed.
        """
        message = json.dumps({"code": code, "text": text})
        if self.rank > 0:
            return self._answer(message, time.monotonic() + DECLINE_S) is not None
        try:
            return self._tell(message, self.world_size - 1)
        except UserError:  # it cannot be opened
            return False

    def _gather(self, wait_s: float, deadline: float) -> None:
        store = self._host()
        missing = list(range(1, self.world_size))
        while missing:
            came = [rank for rank in missing if store.check([f"came/{rank}"])]
            missing = [rank for rank in missing if rank not in came]
            for rank in came:
                if message := store.get(f"came/{rank}").decode():
                    self._tell(message, self.world_size - 1)
                    raise Declined(**json.loads(message))
            if missing and time.monotonic() > deadline:
                numbers = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
                error = (
                    f"rendezvous: waited {wait_s:.0f} s at {self.place} for {len(missing)} of {self.world_size} "
                    f"processes that did not come: {numbers}; look at their lines of the log, and at whether their "
                    f"nodes reach this address ({VARIABLE} sets the time)"
                )
                self._tell(json.dumps({"code": 2, "text": error}), self.world_size - 1 - len(missing))
                raise UserError(error)
            time.sleep(0.05)
        store.set("answer", "")

    def _host(self) -> TCPStore:
        if self._store is None:
            try:
                # Of several tenants: PyTorch asks for a store at the same port, and gets this one.
                self._store = TCPStore(
                    self.host, self.port, self.world_size, is_master=True, wait_for_workers=False, multi_tenant=True
                )
            except (RuntimeError, ValueError) as error:
                raise UserError(
                    f"rendezvous: {self.place} cannot be opened ({str(error).splitlines()[0][:200]}); wanted an "
                    "address of this machine and a free port"
                ) from error
            self.port = self._store.port
        return self._store

    def _tell(self, answer: str, num_readers: int) -> bool:
        """Answer, and stay until it was read; the store ends with this process."""
        store, deadline = self._host(), time.monotonic() + DECLINE_S
        store.set("answer", answer)
        while store.add("read", 0) < num_readers:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def _answer(self, message: str, deadline: float) -> str | None:
        """Come with a message, and return the first process's answer; None where there is none in time."""
        while not self._is_reached():
            if time.monotonic() > deadline:
                return None
            time.sleep(0.2)
        try:
            left = timedelta(seconds=max(1.0, deadline - time.monotonic()))
            store = TCPStore(
                self.host, self.port, self.world_size, is_master=False, timeout=left, wait_for_workers=False
            )
            store.set(f"came/{self.rank}", message)
            while time.monotonic() < deadline:
                try:
                    store.wait(["answer"], _SLICE)
                except dist.DistStoreError:
                    continue
                answer = store.get("answer").decode()
                store.add("read", 1)
                return answer
        except dist.DistError:  # gone again
            pass
        return None

    def _is_reached(self) -> bool:
        """Return whether something listens there; PyTorch would print a line for every attempt."""
        try:
            socket.create_connection((self.host, self.port), timeout=2).close()
        except OSError:
            return False
        return True


def rendezvous_s() -> float:
    """Return how long processes wait for each other.

    Raises:
        UserError: the variable holds no number of seconds.
    """
    text = os.environ.get(VARIABLE, "")
    try:
        seconds = float(text) if text else WAIT_S
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e6:
        raise UserError(f"{VARIABLE}: got '{text}', wanted a number of seconds > 0")
    return seconds


def rendezvous_of(trainer: L.Trainer) -> Rendezvous | None:
    """Return where the processes of a trainer meet; None for one process, and under torchrun, which sees to it."""
    strategy = trainer.strategy
    environment = getattr(strategy, "cluster_environment", None)
    if trainer.world_size == 1 or environment is None or isinstance(environment, TorchElasticEnvironment):
        return None
    return Rendezvous(environment.main_address, environment.main_port, trainer.global_rank, trainer.world_size)


def rendezvous_of_launched(trainer: L.Trainer) -> Rendezvous | None:
    """Return where the processes of a trainer meet that a launcher has started, each with its number."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return rendezvous_of(trainer) if environment is not None and environment.creates_processes_externally else None


def meet_first(trainer: L.Trainer, meet: Callable[[Rendezvous], None]) -> None:
    """Let the processes of a trainer meet before PyTorch connects them.

    Args:
        trainer: made, and not started.
        meet: what is done where they meet.
    """
    strategy = trainer.strategy
    if isinstance(strategy, ParallelStrategy) and trainer.world_size > 1:
        set_up: Any = partial(_set_up, trainer, strategy.setup_environment, meet)
        strategy.setup_environment = set_up  # type: ignore[method-assign]  # of this object, whatever its class


def _set_up(trainer: L.Trainer, set_up: Callable[[], None], meet: Callable[[Rendezvous], None]) -> None:
    strategy: Any = trainer.strategy
    if hasattr(strategy, "set_world_ranks"):
        strategy.set_world_ranks()
    rendezvous = rendezvous_of(trainer)
    if rendezvous is not None and not dist.is_initialized():
        meet(rendezvous)
    set_up()

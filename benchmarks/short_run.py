"""A short fine-tuning from the first import to the last picture, in seconds by phase.

`python -m benchmarks short_run` runs 40 steps of `configs/finetune/openkbp.yaml` with 8 validation and 8 test cases,
in a process of its own; the store is the recipe's (docs/data.md#openkbp). `python -m benchmarks.short_run --data.store
STORE ...` takes further options of the stage.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

STORE = Path("runs/openkbp/openkbp_4mm")
OPTIONS = [
    *("--config", "configs/finetune/openkbp.yaml", "--trainer.max_steps", "40", "--trainer.val_check_interval", "40"),
    *("--model.optim.warmup_steps", "10", "--run.name", "short_run", "--run.wandb", "disabled"),
]
PHASES = ("imports", "data", "training", "validation", "closing", "test", "pictures", "wandb", "rest")


class Clock:
    """Seconds and CPU seconds of this process by phase; a phase within another one stops the other."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.cpu_seconds: Counter[str] = Counter()
        self._phases = ["rest"]
        self._since = time.perf_counter(), time.process_time()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What happens inside is of a phase."""
        self._stop()
        self._phases.append(name)
        try:
            yield
        finally:
            self._stop()
            self._phases.pop()

    def measure(self, owner: Any, name: str, phase: str, when: Callable[..., bool] = lambda *_: True) -> None:
        """Count the calls of a function or method to a phase."""
        function = getattr(owner, name)

        @wraps(function)
        def measured(*args: Any, **kwargs: Any) -> Any:
            if not when(*args):
                return function(*args, **kwargs)
            with self.phase(phase):
                return function(*args, **kwargs)

        setattr(owner, name, measured)

    def _stop(self) -> None:
        now = time.perf_counter(), time.process_time()
        self.seconds[self._phases[-1]] += now[0] - self._since[0]
        self.cpu_seconds[self._phases[-1]] += now[1] - self._since[1]
        self._since = now

    def lines(self) -> Iterator[str]:
        """Return a line per phase, and the sum."""
        self._stop()
        for name in PHASES:
            yield f"short run: {name:<47}{self.seconds[name]:>10.1f} s{self.cpu_seconds[name]:>10.1f} s of CPU"
        total = self.seconds.total(), self.cpu_seconds.total()
        yield f"short run: {'all':<47}{total[0]:>10.1f} s{total[1]:>10.1f} s of CPU"


def report() -> None:
    """Run it in a new process, and print a line per phase.

    Raises:
        SystemExit: it failed.
    """
    if not (STORE / "store.json").is_file():
        print(f"short run: left out, there is no store {STORE}; docs/data.md#openkbp says how to make it")
        return
    with tempfile.TemporaryDirectory() as root:
        command = [sys.executable, "-m", "benchmarks.short_run", "--run.root", root]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"error: the short run failed: {done.stderr.strip()[-500:]}")
    print(*(line for line in done.stdout.splitlines() if line.startswith("short run: ")), sep="\n")


def measure_phases(clock: Clock) -> None:
    """Count the parts of a fine-tuning to their phases, from their import on."""
    with clock.phase("imports"):
        import lightning as L
        from lightning.pytorch.loops import _EvaluationLoop

        from finetune import datamodule, finalize
        from medpretrain3d.engine import stage_cli
    clock.measure(datamodule.FinetuneData, "__init__", "data")
    clock.measure(L.Trainer, "fit", "training")
    clock.measure(_EvaluationLoop, "run", "validation", lambda loop, *_: loop.trainer.state.fn == "fit")
    clock.measure(finalize, "write_bundle", "closing")
    clock.measure(finalize, "complete_raw_detections", "closing")
    clock.measure(L.Trainer, "test", "test")
    clock.measure(finalize, "_draw", "pictures")
    clock.measure(stage_cli, "trackers", "wandb")


def run(words: list[str]) -> None:
    """Run the stage with its options, and print a line per phase."""
    clock = Clock()
    with clock.phase("imports"):
        from finetune import cli
        from medpretrain3d.memory import keep_freed_memory
    measure_phases(clock)
    keep_freed_memory()
    cli.train(["fit", *OPTIONS, *words])
    print(*clock.lines(), sep="\n")


if __name__ == "__main__":
    run(sys.argv[1:])

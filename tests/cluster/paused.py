"""`python -m tests.cluster.paused COMMAND ...`: medpretrain3d that waits at a point of its program to be ended there.

`PAUSE_AT` has a point for each time that SLURM starts the job (`training:4 validation:6`: where so many steps were made
at least; `prepare:1`: where so many cases were); after those it goes to its end. The process of number `PAUSE_RANK`, or
the task of an array, writes its pid into `paused.<restarts>` in the working directory, and goes no further for two
minutes. `{node}` in an argument is the name of the node, as a disk of its own would be called the same on every node.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medpretrain3d.interruption import signals

METHODS = {"training": "training_step", "validation": "validation_step", "test": "test_step"}


def main() -> None:
    """Run the command."""
    sys.argv[1:] = [word.replace("{node}", os.environ.get("SLURMD_NODENAME", "")) for word in sys.argv[1:]]
    command, restarts = sys.argv[1], int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    points = os.environ.get("PAUSE_AT", "").split()
    number = os.environ.get("SLURM_ARRAY_TASK_ID", os.environ.get("SLURM_PROCID"))
    if restarts < len(points) and number == os.environ.get("PAUSE_RANK", "0"):
        point, _, count = points[restarts].partition(":")
        owner: Any
        if point == "prepare":
            owner, name = importlib.import_module("medpretrain3d.ingest.prepare"), "prepare_case"
            prepared: list[int] = []
            pause_in(owner, name, lambda *_: len(prepared.append(0) or prepared) > int(count), restarts)
        else:
            module = importlib.import_module(f"{command}.module")
            owner = module.PretrainModule if command == "pretrain" else module.FinetuneModule
            pause_in(owner, METHODS[point], lambda it, *_: it.trainer.global_step >= int(count), restarts)
    if command in ("pretrain", "finetune"):
        program = importlib.import_module(f"{sys.argv.pop(1)}.__main__")
        importlib.import_module("medpretrain3d.engine.stage").run_stage(program.main)
    else:
        raise SystemExit(importlib.import_module("medpretrain3d.cli").main())


def pause_in(owner: Any, name: str, is_there: Callable[..., bool], restarts: int) -> None:
    """Let a function wait before it does anything, the first time that something is so."""
    original, mark = getattr(owner, name), Path(f"paused.{restarts}").absolute()

    def paused(*args: Any, **kwargs: Any) -> Any:
        if not mark.exists() and is_there(*args):
            unfinished = mark.with_suffix(".unfinished")
            unfinished.write_text(str(os.getpid()), encoding="utf-8")
            unfinished.rename(mark)
            deadline = time.monotonic() + 120
            while signals.received is None and time.monotonic() < deadline:
                time.sleep(0.02)
        return original(*args, **kwargs)

    setattr(owner, name, paused)


if __name__ == "__main__":
    main()

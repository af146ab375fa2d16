"""Runs a stage in sittings that are cut at exact moments, each in a process of its own that really dies there.

`python -m tests.recipes.sittings PLAN` imports everything once and forks for every sitting, which saves the seconds
that a program takes to start. Several processes of one sitting find each other as those of `torchrun` do.

A plan is a list of sittings: `{"stage": "pretrain", "arguments": [...], "num_processes": 2, "cut": {"point": "forward",
"step": 7, "nth": 0, "signal": 9}}`. Without `cut` a sitting goes to its end; with `cut_rank` one process is struck.
Printed is a list of exit codes.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
POINTS = ("forward", "optimizer", "checkpoint", "logged", "validation", "validated")
"""In a training step; after the weights moved; with half a checkpoint written; after a row of the curves; in a
validation; before its end is kept."""


def sit(plan: Sequence[Mapping[str, Any]], folder: Path) -> list[list[int]]:
    """Exit codes of the processes of every sitting, minus the signal for those that died of one."""
    path, log = folder / "plan.json", folder / "sittings.log"
    path.write_text(json.dumps(list(plan)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w") as output:
        command = [sys.executable, "-m", "tests.recipes.sittings", str(path)]
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=output, timeout=600)
    assert done.returncode == 0, log.read_text(encoding="utf-8")[-3000:]
    return [
        json.loads(line.split(" ", 1)[1])
        for line in log.read_text(encoding="utf-8").splitlines()
        if line.startswith("CODES ")
    ]


def main(path: str) -> None:
    """Sit down as often as planned."""
    for stage in ("pretrain", "finetune"):
        importlib.import_module(f"{stage}.cli")
    for sitting in json.loads(Path(path).read_text(encoding="utf-8")):
        print("CODES", json.dumps(_codes(sitting)), flush=True)


def _codes(sitting: Mapping[str, Any]) -> list[int]:
    port, count = _free_port(), sitting.get("num_processes", 1)
    children: list[int] = []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            _run(sitting, rank, count, port)
        children.append(child)
        os.setpgid(child, children[0])
    codes = {}
    deadline = time.monotonic() + 120
    while len(codes) < count:
        child, status = os.waitpid(-children[0], os.WNOHANG)
        if child:
            codes[child] = os.waitstatus_to_exitcode(status)
        elif time.monotonic() > deadline:
            os.killpg(children[0], signal.SIGKILL)
            deadline += 120
            print("HUNG", sitting, flush=True)
        else:
            time.sleep(0.01)
    return [codes[child] for child in children]


def _run(sitting: Mapping[str, Any], rank: int, count: int, port: int) -> None:
    while os.getpgrp() == os.getppid():
        time.sleep(0.001)
    arguments = list(sitting["arguments"])
    if count > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": 0}
        torchrun = {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
        os.environ.update({key: str(value) for key, value in torchrun.items()})
        arguments += ["--trainer.devices", str(count), "--trainer.strategy", sitting.get("strategy", "ddp")]
        arguments += ["--trainer.accelerator", "cpu"]
    os.environ.update(sitting.get("environment", {}))
    code = 1
    try:
        program = importlib.import_module(f"{sitting['stage']}.__main__")
        if "cut" in sitting and sitting.get("cut_rank", rank) == rank:
            _arm(sitting["stage"], **sitting["cut"])
        from medpretrain3d.engine.stage import run_stage

        sys.argv = [sitting["stage"], "fit", *arguments]
        run_stage(program.main)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _arm(stage: str, point: str, step: int, nth: int = 0, signal: int = 9) -> None:
    """Let the process be struck at a point of its program, the n-th time it comes by with `step` or more steps made."""
    import torch

    from medpretrain3d.engine.curves import CurveLogger

    module = importlib.import_module(f"{stage}.module")
    kind = module.PretrainModule if stage == "pretrain" else module.FinetuneModule
    now, seen = {"step": 0}, {"count": 0}

    def strike() -> None:
        if now["step"] < step:
            return
        seen["count"] += 1
        if seen["count"] == nth + 1:
            if signal == 9:
                os.killpg(0, 9)
            os.kill(os.getpid(), signal)

    def wrap(owner: Any, name: str, before: bool, steps: Callable[..., int] | None = None) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if steps is not None:
                now["step"] = steps(*args, **kwargs)
            if before:
                strike()
            result = original(*args, **kwargs)
            if not before:
                strike()
            return result

        setattr(owner, name, wrapped)

    def of_module(one: Any, *_: Any, **__: Any) -> int:
        return int(one.trainer.global_step)

    if point == "forward":
        wrap(kind, "training_step", True, of_module)
    elif point == "optimizer":
        wrap(kind, "optimizer_step", False, of_module)
    elif point == "validation":
        wrap(kind, "validation_step", False, of_module)
    elif point == "validated":
        wrap(kind, "on_validation_epoch_end", False, of_module)
    elif point == "logged":
        wrap(CurveLogger, "log_metrics", False, lambda logger, metrics, step=0: int(step))
    else:
        save = torch.save

        def half(value: Any, file: Any, **options: Any) -> None:
            if not (isinstance(value, dict) and "global_step" in value):  # tensors that processes send each other
                save(value, file, **options)
                return
            now["step"] = int(value["global_step"])
            file.write(b"PK\x03\x04 half a checkpoint")
            file.flush()
            strike()
            file.seek(0)
            save(value, file, **options)

        torch.save = half


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


if __name__ == "__main__":
    main(sys.argv[1])

"""Runs a stage in sittings that are cut at exact moments, each in a process of its own that really dies there.

`python -m tests.recipes.sittings` imports everything once for a worker of pytest and forks for every sitting, which
saves the seconds that a program takes to start. Several processes of a sitting meet as those of `torchrun` do.

A sitting is `{"stage": "pretrain", "arguments": [...], "num_processes": 2, "cut": {"point": "forward", "step": 7,
"nth": 0, "signal": 9}}`. Without `cut` it goes to its end; with `cut_rank` one process is struck; with `file` that
program is run with these arguments instead of the stage. Answered is a list of exit codes.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
POINTS = ("forward", "optimizer", "checkpoint", "logged", "validation", "validated")
"""In a training step; after the weights moved; with half a checkpoint written; after a row of the curves; in a
validation; before its end is kept."""
IMPORTED_LATE = ("finetune.finalize", "nibabel", "numba", "scipy.ndimage")
"""What a run imports on its way, and all need."""


def sit(plan: Sequence[Mapping[str, Any]], folder: Path) -> list[list[int]]:
    """Exit codes of the processes of every sitting, minus the signal for those that died of one.

    What they print is in `sittings.log` of the folder.
    """
    log = folder / "sittings.log"
    log.unlink(missing_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    codes = []
    for sitting in plan:
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        request = {**sitting, "log": str(log), "environment": {**environment, **sitting.get("environment", {})}}
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        assert answer, f"the process that forks has ended: {log.read_text(encoding='utf-8')[-3000:]}"
        codes.append(json.loads(answer))
    return codes


def run_sitting(folder: Path, stage: str, *arguments: str, expect: int = 0, **options: Any) -> str:
    """Sit down once, as `run_program` starts a program; returns what all its processes printed."""
    (codes,) = sit([{"stage": stage, "arguments": arguments, **options}], folder)
    printed = (folder / "sittings.log").read_text(encoding="utf-8")
    assert codes == [expect] * options.get("num_processes", 1), printed[-3000:]
    return printed


@cache
def _server() -> subprocess.Popen[str]:
    """The process that forks; it ends with this one, whose end closes its stdin."""
    command = [sys.executable, "-m", "tests.recipes.sittings"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=environment, encoding="utf-8", start_new_session=True, **pipes)


def main() -> None:
    """Sit down as often as asked."""
    for name in ("pretrain.__main__", "pretrain.cli", "finetune.__main__", "finetune.cli", *IMPORTED_LATE):
        importlib.import_module(name)
    gc.freeze()  # else the first look for garbage in each child copies the pages of all that is imported
    for request in sys.stdin:
        print(json.dumps(_codes(json.loads(request))), flush=True)


def _codes(sitting: Mapping[str, Any]) -> list[int]:
    port, count = _free_port(), sitting.get("num_processes", 1)
    children: list[int] = []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            _redirect(sitting["log"])
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
            with open(sitting["log"], "a", encoding="utf-8") as log:
                log.write(f"HUNG {sitting}\n")
        else:
            time.sleep(0.01)
    return [codes[child] for child in children]


def _redirect(log: str) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    printed = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(printed, number)


def _run(sitting: Mapping[str, Any], rank: int, count: int, port: int) -> None:
    while os.getpgrp() == os.getppid():  # that of the process that forks, which leads its own
        time.sleep(0.001)
    os.environ.clear()
    os.environ.update(sitting["environment"])
    arguments = list(sitting["arguments"])
    if count > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": 0}
        torchrun = {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
        os.environ.update({key: str(value) for key, value in torchrun.items()})
        arguments += ["--trainer.devices", str(count), "--trainer.strategy", sitting.get("strategy", "ddp")]
        arguments += ["--trainer.accelerator", "cpu"]
    code = 1
    try:
        program = importlib.import_module(f"{sitting['stage']}.__main__")
        if "cut" in sitting and sitting.get("cut_rank", rank) == rank:
            _arm(sitting["stage"], **sitting["cut"])
        from medpretrain3d.engine.stage import run_stage

        sys.argv = [sitting["stage"], "fit", *arguments]
        if "file" in sitting:
            runpy.run_path(sitting["file"], run_name="__main__")
        else:
            run_stage(program.main)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
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
    main()

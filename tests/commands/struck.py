"""Runs commands that get a signal at exact moments, each in a process of its own.

`python -m tests.commands.struck PLAN` imports everything once and forks for every call, which saves the seconds that a
command takes to start. A plan is a list of calls: `{"arguments": [...], "signal": 15, "event": "open", "nth": 2}`; an
event is one of Python's audit events that names a path below the plan's folder. Without one a call goes to its end.
Printed for each is its exit code and what it said on stderr.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60.0


def call(plan: Sequence[Mapping[str, Any]], folder: Path) -> list[tuple[int, str]]:
    """Exit code and stderr of every call; -1 for one that had to be killed."""
    path = folder / "plan.json"
    path.write_text(json.dumps(list(plan)))
    command = [sys.executable, "-W", "ignore", "-m", "tests.commands.struck", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return [(code, told) for code, told in json.loads(done.stdout)]


def main(path: Path) -> None:
    """Call as often as planned."""
    import nibabel  # noqa: F401  # what the commands import on their way
    import numba  # noqa: F401

    import medpretrain3d.commands.doctor
    import medpretrain3d.commands.evaluate
    import medpretrain3d.commands.plan
    import medpretrain3d.commands.predict
    import medpretrain3d.commands.tune
    import medpretrain3d.inference.predictor
    import medpretrain3d.inference.sweep  # noqa: F401

    print(json.dumps([_outcome(one, path.parent) for one in json.loads(path.read_text())]))


def _outcome(one: Mapping[str, Any], folder: Path) -> tuple[int, str]:
    told = folder / "stderr.txt"
    child = os.fork()
    if child == 0:
        _run(one, folder, told)
    deadline = time.monotonic() + WAIT_S
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), told.read_text()
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            return -1, told.read_text()
        time.sleep(0.005)


def _run(one: Mapping[str, Any], folder: Path, told: Path) -> None:
    code = 1
    try:
        file = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if "checks" in one:
            from medpretrain3d.commands import doctor

            doctor.CHECKS = one["checks"]
        if "event" in one:
            _arm(one["event"], one["nth"], one["signal"], str(folder))
        from medpretrain3d.cli import main

        code = main(one["arguments"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _arm(event: str, nth: int, signum: int, below: str) -> None:
    seen = 0

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if name == event and isinstance(arguments[0], str) and arguments[0].startswith(below):
            seen += 1
            if seen == nth + 1:
                os.kill(os.getpid(), signum)

    sys.addaudithook(hook)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

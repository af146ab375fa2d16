"""Programs in processes of their own, side by side, that share what takes longest to import.

`python -m medpretrain3d.commands.check_processes` reads a JSON object from standard input: `programs` (Python source by
name), `apart` (names of those that need nothing shared: they run meanwhile, one by one), `alone` (of those that run by
themselves at the end, since they time something), `patience_s`, `num_processes`, and `shared`, which it runs itself.
Then it forks a process for each program, and prints a line of JSON as each one ends. A library that ends its process so
ends one check.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

from medpretrain3d.interruption import end_with_parent

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
POLL_S = 0.02


@dataclass(frozen=True)
class _Running:
    name: str
    folder: Path
    deadline_s: float


def main() -> None:
    """Run what standard input asks for."""
    asked = json.loads(sys.stdin.readline())
    groups: dict[str, dict[str, str]] = {"apart": {}, "others": {}, "alone": {}}
    for name, program in asked["programs"].items():
        groups[next((group for group in ("apart", "alone") if name in asked[group]), "others")][name] = program
    with tempfile.TemporaryDirectory() as folder:
        meanwhile = _begun(groups["apart"], asked["patience_s"], Path(folder, "apart"))  # a fork goes before threads
        # What is wrong about it is said by the checks that use it.
        _executed(lambda: exec(asked["shared"], {"__name__": "__main__"}))
        _run(groups["others"], asked["num_processes"], asked["patience_s"], Path(folder, "others"))
        with meanwhile:
            for line in meanwhile:
                print(line, end="", flush=True)
        _run(groups["alone"], 1, asked["patience_s"], Path(folder, "alone"))


def _begun(programs: dict[str, str], patience_s: float, folder: Path) -> IO[str]:
    """Begin a process that runs programs one by one, and return what it will print."""
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        return os.fdopen(reading)
    try:
        end_with_parent()
        os.close(reading)
        os.dup2(writing, 1)
        os.close(writing)
        _run(programs, 1, patience_s, folder)
    finally:
        os._exit(0)


def _run(programs: dict[str, str], count: int, patience_s: float, folder: Path) -> None:
    waiting = list(programs)
    running: dict[int, _Running] = {}
    with _taken_along(running):
        while waiting or running:
            while waiting and len(running) < count:
                name = waiting.pop(0)
                place = folder / str(len(programs) - len(waiting))
                place.mkdir(parents=True)
                running[_forked(programs[name], place)] = _Running(name, place, time.monotonic() + patience_s)
            for pid, one in list(running.items()):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if not ended and time.monotonic() < one.deadline_s:
                    continue
                if not ended:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                del running[pid]
                _tell(one, os.waitstatus_to_exitcode(status) if ended else None)
            select.select([], [], [], POLL_S)


def _tell(one: _Running, code: int | None) -> None:
    """Print a result; no exit code stands for one that took too long."""
    out, err = ((one.folder / name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err"))
    print(json.dumps({"name": one.name, "code": code, "out": out, "err": err}), flush=True)


def _forked(program: str, folder: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        end_with_parent()
        for signum in ENDING:
            signal.signal(signum, signal.SIG_DFL)
        for name, number in (("out", 1), ("err", 2)):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        code = _executed(lambda: exec(compile(program, "<check>", "exec"), {"__name__": "__main__"}))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return 0


def _executed(call: Callable[[], Any]) -> int:
    """Return the exit code that Python would end with."""
    try:
        call()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


@contextlib.contextmanager
def _taken_along(running: dict[int, _Running]) -> Iterator[None]:
    """Let a signal that ends this process end those that it forked before."""

    def end(signum: int, frame: FrameType | None) -> None:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)

    before = [signal.signal(signum, end) for signum in ENDING]
    try:
        yield
    finally:
        for signum, handler in zip(ENDING, before, strict=True):
            signal.signal(signum, handler)


def asked_for(
    programs: dict[str, str],
    apart: Sequence[str],
    alone: Sequence[str],
    patience_s: float,
    num_processes: int,
    shared: str,
) -> str:
    """Return the line that standard input takes."""
    asked = {"programs": programs, "apart": list(apart), "alone": list(alone), "patience_s": patience_s}
    return json.dumps({**asked, "num_processes": num_processes, "shared": shared})


if __name__ == "__main__":
    main()

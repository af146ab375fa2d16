"""`python -m medpretrain3d.study.launch RECORD`: one job, started by the workflow engine on whatever machine it chose.

The programs of the job write into its log; a signal is passed on to them, and they end with this process.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

from medpretrain3d.atomic import locked
from medpretrain3d.atomic.lock import InUse
from medpretrain3d.errors import UserError, exit_code
from medpretrain3d.failure import death
from medpretrain3d.interruption import GRACE_S, NOTICE, Interrupted, end_with_parent, requeue, signals
from medpretrain3d.lines import print_line
from medpretrain3d.study.record import RECORD, Record, is_complete, write_done, write_failed

INTERRUPTED = {128 + signum for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, NOTICE)}
"""Exit codes of programs that were told to end."""
TAIL = 2**14
"""Bytes of a log that its last error is looked for in."""
TASKS = ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID")
"""Variables of SLURM that say how many processes it started: one; a job with several GPUs starts the others itself."""


class ProgramInterrupted(Interrupted):
    """A program was told to end with this process, and has ended."""

    def __init__(self, signum: int, code: int) -> None:
        super().__init__(signum)
        self.program_code = code


def main(args: Sequence[str] | None = None) -> int:
    """Run a job, unless its result is there already.

    Returns:
        0 once the result is there; otherwise the exit code of the program that failed.
    """
    parser = argparse.ArgumentParser(prog="medpretrain3d.study.launch", description=__doc__)
    parser.add_argument("record", type=Path)
    parser.add_argument(
        "--folder", type=Path, default=Path(), help="the folder that paths of the study are relative to"
    )
    parser.add_argument("--gpus", type=int, default=0, help="how many of the devices the job gets")
    parser.add_argument("--devices", default="", help="devices of this machine, with commas; empty: as they are")
    options = parser.parse_args(args)
    path = options.record.absolute()
    os.chdir(options.folder)
    end_with_parent(signal.SIGTERM)
    signal.signal(NOTICE, signal.SIG_DFL)  # which the engine ignores, so that it outlives it
    signals.take()
    signals.mode, signals.grace_s = "note", GRACE_S + 5
    try:
        record = RECORD.read(path)
        with locked(path.with_suffix(".done")):
            return _run(record, path, environment_with(path.parent, options.gpus, options.devices))
    except Interrupted as ended:
        print_line(f"{path.stem}: interrupted; {_how_it_goes_on(ended)}")
        return 128 + ended.signum
    except UserError as error:
        print_line(f"error: {error}", to_stderr=True)
        if not isinstance(error, InUse):  # whoever is at work at it says how it ends
            with suppress(UserError):  # of a disk that refuses
                write_failed(path.with_suffix(".failed"), exit_code(error), f"it did not begin: {error}")
        return exit_code(error)


def _how_it_goes_on(ended: Interrupted) -> str:
    """Have SLURM queue the job again after its notice, unless the program did, which says so by its exit code."""
    program_code = ended.program_code if isinstance(ended, ProgramInterrupted) else None
    if ended.signum != NOTICE or program_code == 128 + NOTICE:
        return "the next call continues"
    return requeue()


def _run(record: Record, path: Path, environment: dict[str, str]) -> int:
    done, name, folder = path.with_suffix(".done"), record["name"], Path(record["folder"])
    started = time.monotonic()
    if record["kind"] != "prepare" and is_complete(folder, record["kind"], done):
        write_done(done, record["kind"], folder, 0.0)  # it was ended between its last word and ours
        return 0
    print_line(f"{name}: begins, {_shown(path.with_suffix('.log'))}")
    with path.with_suffix(".log").open("ab") as log:
        for words in record["commands"]:
            log.write(f"$ medpretrain3d {shlex.join(words)}\n".encode())
            log.flush()
            code = run_program([sys.executable, "-m", "medpretrain3d", *words], log, environment)
            if code:
                return _failed(record, path, code)
    minutes = (time.monotonic() - started) / 60
    try:
        write_done(done, record["kind"], folder, minutes)
    except UserError as error:
        return _failed(record, path, exit_code(error), str(error))
    if not is_complete(folder, record["kind"], done):
        done.unlink()
        return _failed(record, path, 1, f"ended well and left no whole result in {folder}")
    print_line(f"{name}: done in {_duration(minutes)}")
    return 0


def _failed(record: Record, path: Path, code: int, message: str = "") -> int:
    how = death("its program", code, "lower what its log names, or take a machine with more")
    if said := _last_error(path.with_suffix(".log")):
        how = f"{how} ({said})"
    how = f"it was interrupted (exit code {code})" if code in INTERRUPTED else how
    write_failed(path.with_suffix(".failed"), code, message or how)
    print_line(f"{record['name']}: failed, {message or how}; {_shown(path.with_suffix('.log'))}")
    return code if 0 < code < 256 else 1


def _last_error(log: Path) -> str:
    """Return the error that the last program of a log ended with, which its user would look for there."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        text = file.read().decode(errors="replace")
    of_last = text[text.rfind("\n$ medpretrain3d ") + 1 :].splitlines()
    errors = [line.removeprefix("error: ") for line in of_last if line.startswith("error: ")]
    return errors[-1] if errors else ""


def run_program(words: list[str], log: IO[bytes], environment: dict[str, str] | None = None) -> int:
    """Run a program to its end; it hears of the signals that this one gets, and ends with this one.

    Raises:
        ProgramInterrupted: this process was told to end, and the program has ended.
    """
    program = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        preexec_fn=partial(end_with_parent, signal.SIGTERM),
    )

    def pass_on(signum: int) -> None:
        program.send_signal(signum)

    # The program ends by itself and says how it goes on; only when it does not, this one ends it.
    signals.listeners.append(pass_on)
    signals.before_exit.append(program.kill)
    try:
        if signals.received is not None:  # just before it could be passed on
            pass_on(signals.received)
        code = program.wait()
    finally:
        signals.listeners.remove(pass_on)
        signals.before_exit.remove(program.kill)
    try:
        signals.check()
    except Interrupted as ended:
        raise ProgramInterrupted(ended.signum, code) from None
    return code


def environment_with(folder: Path, count: int, devices: str) -> dict[str, str]:
    """Return the environment of a job, with devices that no other job of this study has until this process ends.

    Raises:
        UserError: fewer of them are free.
    """
    environment = {name: value for name, value in os.environ.items() if name not in TASKS}
    names = [name for name in devices.split(",") if name]
    if not count or not names:
        return environment
    held: list[str] = []
    for name in names:
        descriptor = os.open(folder / f".gpu-{name.replace('/', '_')}", os.O_CREAT | os.O_RDWR)  # MIG-GPU-.../1/0
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        held.append(name)  # the descriptor stays open, and with it the lock
        if len(held) == count:
            return {**environment, "CUDA_VISIBLE_DEVICES": ",".join(held)}
    raise UserError(f"got {len(held)} free of the devices {devices}, wanted {count}; end what else runs on them")


def _shown(path: Path) -> str:
    return os.path.relpath(path)


def _duration(minutes: float) -> str:
    return f"{60 * minutes:.0f} s" if minutes < 2 else f"{minutes:.0f} min"


if __name__ == "__main__":
    raise SystemExit(main())

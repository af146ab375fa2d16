"""A stage's program that was started and is told things while it trains."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from .conftest import ROOT, TINY_FINETUNE, TINY_PRETRAIN

WAIT_S = 120.0
TINY = {"pretrain": TINY_PRETRAIN, "finetune": TINY_FINETUNE}


class Started:
    """A program and all processes that it has started.

    Args:
        stage: `pretrain` or `finetune`.
        store: what it trains on.
        root: of its run.
        arguments: further ones.
        code: instead of `-m <stage>`, a program that is run with the same arguments.
        prefix: what is put before the command, such as another launcher.
    """

    def __init__(
        self,
        stage: str,
        store: Path,
        root: Path,
        *arguments: str,
        code: str | None = None,
        prefix: tuple[str, ...] = (),
    ) -> None:
        place = ["--data.store", str(store), "--run.root", str(root), "--run.group", "g", "--run.name", "r"]
        endless = ["--trainer.max_steps", "100000", "--trainer.log_every_n_steps", "1"]
        self.mark = f"MARK={uuid.uuid4().hex}"
        self.folder = root / "g" / "r"
        root.mkdir(exist_ok=True)
        program = ["-m", stage]
        if code is not None:
            program = [str(root / "program.py")]
            Path(program[0]).write_text(code, encoding="utf-8")
        self.log = root / "log.txt"
        name, _, value = self.mark.partition("=")
        with self.log.open("w") as log:
            self.program = subprocess.Popen(
                [sys.executable, *prefix, *program, "fit", *TINY[stage], *place, *endless, *arguments],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", name: value},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def printed(self) -> list[str]:
        """Lines so far, without those that say how training goes."""
        lines = re.split(r"[\r\n]+", self.log.read_text(encoding="utf-8"))
        return [line for line in lines if line.strip() and not re.match(r"step [\d,]+( of [\d,]+|:) ", line)]

    @property
    def num_steps(self) -> int:
        """Steps that are in the curves."""
        path = self.folder / "metrics.csv"
        steps = re.findall(r"^\d+,(\d+),", path.read_text(encoding="utf-8") if path.exists() else "", re.MULTILINE)
        return int(steps[-1]) if steps else 0

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so; the program must not end before."""
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert self.program.poll() is None, self.printed
            assert time.monotonic() < deadline, self.printed
            time.sleep(0.02)

    def pids(self, of: str = "") -> list[int]:
        """All its processes, or those `of` rank 0 or 1 (`rank 1`), or its `loader` workers."""
        found = dict(_processes(self.mark))
        ranks = {pid for pid in found if "LOCAL_RANK" in _environment(pid) or pid == self.program.pid}
        if of == "loader":
            return [pid for pid, parent in found.items() if parent in ranks and _comm(pid).startswith("pt_data")]
        if of == "rank 1":
            return [
                pid
                for pid in ranks
                if _environment(pid).get("LOCAL_RANK") == "1"
                and found[pid] not in ranks - {self.program.pid}
                and not _comm(pid).startswith("pt_data")
            ]
        return list(found)

    def tell(self, signum: int, pid: int | None = None) -> None:
        """Send a signal to the program, or to one of its processes."""
        os.kill(pid or self.program.pid, signum)

    def end(self, within_s: float = 30.0) -> int:
        """Wait for the end of all processes; returns the exit code of the program."""
        started = time.monotonic()
        try:
            code = self.program.wait(within_s)
            while self.pids():
                assert time.monotonic() - started < within_s, f"left behind: {self.pids()}"
                time.sleep(0.05)
            return code
        finally:
            for pid in self.pids():
                os.kill(pid, 9)


def _processes(mark: str) -> list[tuple[int, int]]:
    """Pid and parent of all processes with an environment variable, in the order of their pids."""
    found = []
    for pid in sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
        try:
            state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z" and mark.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append((pid, int(parent)))
        except OSError:  # gone, or another user's
            continue
    return found


def _environment(pid: int) -> dict[str, str]:
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    except OSError:
        return {}
    return dict(entry.partition("=")[::2] for entry in entries)


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""

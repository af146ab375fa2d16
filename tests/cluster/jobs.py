"""Jobs of SLURM, as someone sees them who submits them: `sbatch`, `scontrol`, `scancel` and the log."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

SETTLE_S = 2.0
WAIT_S = 150.0
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


class Job:
    """A job, or a task of an array.

    Args:
        job_id: as `sbatch` prints it.
        folder: where it works and has its log.
    """

    def __init__(self, job_id: str, folder: Path) -> None:
        self.id = job_id
        self.folder = folder

    @property
    def facts(self) -> dict[str, str]:
        """What SLURM knows of it."""
        return dict(re.findall(r"(\w+)=(\S*)", ask("scontrol", "show", "job", "--oneliner", self.id)))

    @property
    def state(self) -> str:
        """`PENDING`, `RUNNING`, ..."""
        return self.facts.get("JobState", "unknown")

    @property
    def log(self) -> str:
        """What it printed, without the lines that a progress bar overwrites."""
        number = self.id.replace("_", "_[0-9]*_") if "_" in self.id else self.id
        paths = [*self.folder.glob(f"*_{self.id}.log"), *self.folder.glob(f"*_{number}.log")]
        return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in dict.fromkeys(paths))

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so; the job must not end before."""
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert self.state not in ENDED, f"{self.state}\n{self.log}"
            assert time.monotonic() < deadline, f"{self.state}\n{self.log}"
            time.sleep(0.1)

    def paused(self, restarts: int = 0) -> int:
        """Wait until it is where it was told to pause; returns the pid."""
        mark = self.folder / f"paused.{restarts}"
        self.wait_for(mark.exists)
        return int(mark.read_text(encoding="utf-8"))

    def wait_in_queue(self, restarts: int) -> None:
        """Wait until it was queued again so many times, and let it start at once, not in two minutes."""
        self.wait_for(lambda: self.state == "PENDING" and self.facts["Restarts"] == str(restarts))
        # On a busy machine the batch script of before may end only now, and its exit code failed the job begun at once.
        time.sleep(SETTLE_S)
        ask("scontrol", "update", f"JobId={self.id}", "StartTime=now")

    def end(self, within_s: float = WAIT_S) -> tuple[str, int]:
        """Wait for its end; returns its state and exit code."""
        deadline = time.monotonic() + within_s
        while (facts := self.facts)["JobState"] not in ENDED:
            assert time.monotonic() < deadline, f"{facts['JobState']}\n{self.log}"
            time.sleep(0.1)
        return facts["JobState"], int(facts["ExitCode"].partition(":")[0])


def ask(*words: str, cwd: Path | None = None, environment: Mapping[str, str] = os.environ) -> str:
    """Return what a command of SLURM prints."""
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout

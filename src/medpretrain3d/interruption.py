"""SIGTERM, SIGHUP, Ctrl-C and SLURM's notice: how a program ends that is told to."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Literal

from medpretrain3d.command_line.launched import is_first_process
from medpretrain3d.lines import print_line

GRACE_S = 20.0
"""A program that was told to end is over by then; schedulers kill after 30 s."""
SAME_S = 0.5
"""Ctrl-C reaches all processes of a terminal and may be passed on as well: within this time it counts once."""

NOTICE = signal.SIGUSR1
"""What `#SBATCH --signal=USR1@90` sends 90 seconds before the end; without a job of SLURM it has no meaning here."""
NOTICE_S = 40.0
"""After a notice there is so much more time."""

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, NOTICE)
_PR_SET_PDEATHSIG = 1


def requeue() -> str:
    """Ask SLURM to start this job again; to be called by one process, once the state is kept.

    Returns:
        What came of it, as the end of a sentence.
    """
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=30)
        # One that is ended by a signal has told SLURM: it ends with all processes of the job that is queued again.
        reason = " ".join(done.stderr.split())[:200] if done.returncode > 0 else None
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    if reason is not None:
        return f"SLURM did not queue job {job} again ({reason}); submit it, and it continues"
    return f"SLURM queues job {job} again, and it continues"


def farewell_at_start(signum: int) -> str:
    """Return the last line of a program that is told to end while it is still importing what it needs.

    A notice means the same at any moment: the first process of a run has the job queued again, and the others wait for
    it, since a launcher that sees one of them end (`srun --kill-on-bad-exit`) would end it in the middle of that.
    """
    if signum != NOTICE:
        return ""
    if not is_first_process():
        time.sleep(GRACE_S / 2)
        return ""
    return f"interrupted by {signal.Signals(signum).name} before it began; {requeue()}"


class Interrupted(SystemExit):
    """Raised in the main thread of a program that was told to end; its exit code is 128 plus the signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum

    def __str__(self) -> str:
        return signal.Signals(self.signum).name


class Signals:
    """Signal handling of this process.

    A handler alone would not do: Python runs it in the main thread once that is back from C, and a process that waits
    for another one in a collective never is. So a thread reads the signals too (`signal.set_wakeup_fd`), and ends the
    process when `GRACE_S` are over or Ctrl-C comes a second time.

    A forked child starts without it.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Reset all state."""
        self.received: int | None = None
        """The first signal that came."""
        self.mode: Literal["exit", "raise", "note"] = "exit"
        """What the first signal does: end the process at once; raise `Interrupted` in the main thread; or nothing but
        being `received`, for a main thread that asks between two steps (`check`)."""
        self.listeners: list[Callable[[int], None]] = []
        """Told of the first signal, in a thread."""
        self.before_exit: list[Callable[[], None]] = []
        """Called before the process is ended by force: children are ended here."""
        self.farewell: Callable[[int], str] = farewell_at_start
        """The last line of a process that is ended by force; told the signal."""
        self.keep_words: Callable[[str], None] = lambda text: None
        """Told what a process that is ended by force prints last."""
        self.grace_s = GRACE_S
        """From the first signal until the process is ended by force."""
        self._first_s = 0.0
        self._is_raised = False
        self._previous: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._lock = threading.RLock()

    @property
    def are_taken(self) -> bool:
        """Whether `take` was called in this process."""
        return self._pipe is not None

    def take(self) -> None:
        """Handle signals from now on; in another thread than the main one this does nothing."""
        if self.are_taken or threading.current_thread() is not threading.main_thread():
            return
        self._pipe = os.pipe()
        for end in self._pipe:
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        for signum in _ENDING:
            if signum == NOTICE and not is_job():
                continue
            if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup, or a shell's background
                self._previous[signum] = signal.signal(signum, self._handle)
        threading.Thread(target=self._watch, args=(self._pipe[0],), daemon=True, name="signals").start()

    def give_back(self) -> None:
        """Restore what was there before; a process that was told to end keeps watching its time."""
        if self._pipe is None or self.received is not None:
            return
        signal.set_wakeup_fd(-1)
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        os.close(self._pipe[1])  # ends the thread, which closes the other end
        self.reset()

    def check(self) -> None:
        """Raise `Interrupted` if a signal came.

        Raises:
            Interrupted: one did.
        """
        if self.received is not None:
            self._is_raised = True
            raise Interrupted(self.received)

    def receive(self, signum: int) -> None:
        """Do what a signal does, on the word of another process; from any thread."""
        if self.received is None:
            os.kill(os.getpid(), signum)

    def exit(self, code: int, text: str = "") -> None:
        """End the process now, after its children, whatever it is doing."""
        for action in self.before_exit:
            action()
        if text:
            print_line(text, to_stderr=True)
            self.keep_words(text)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # nobody reads it any more
                stream.flush()
        os._exit(code)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal in the main thread, which may come to it much later than the thread below."""
        self._begin(signum)
        if self.mode == "raise" and not self._is_raised:
            self.check()

    def _begin(self, signum: int) -> None:
        with self._lock:
            if self.received is not None:
                return
            self._first_s, self.received = time.monotonic(), signum
        if self.mode == "exit":
            self.exit(128 + signum, self.farewell(signum))

    def _watch(self, pipe: int) -> None:
        while self.received is None:
            select.select([pipe], [], [])
            came = os.read(pipe, 64)
            if not came:
                os.close(pipe)
                return
            for signum in came:
                if signum in self._previous:
                    self._begin(signum)
        for listener in self.listeners:
            listener(self.received)
        deadline_s = self._first_s + self.grace_s + (NOTICE_S if self.received == NOTICE else 0)
        while (left_s := deadline_s - time.monotonic()) > 0:
            if select.select([pipe], [], [], left_s)[0]:
                is_again = signal.SIGINT in os.read(pipe, 64) and self.received == signal.SIGINT
                if is_again and time.monotonic() - self._first_s > SAME_S:
                    break
        self.exit(128 + self.received, self.farewell(self.received))


def is_job() -> bool:
    """Whether this process belongs to a job of SLURM."""
    return "SLURM_JOB_ID" in os.environ


def end_with_parent(signum: int = signal.SIGKILL) -> None:
    """Request a signal from the kernel once this process's parent is dead, however it died; on Linux only."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signum)


signals = Signals()
"""Those of this process."""
_forking = threading.local()


def _hold_back() -> None:
    """Block the signals in the thread that forks: one that came to the child before it started anew would be written
    into its parent's pipe, so that the parent ended and the child went on."""
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)


def _let_through() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _start_anew() -> None:
    """A forked child must not write into its parent's pipe."""
    if signals.are_taken:
        signal.set_wakeup_fd(-1)
        for signum, handler in signals._previous.items():
            signal.signal(signum, handler)
        for end in signals._pipe or ():
            os.close(end)
        signals.reset()
    _let_through()


os.register_at_fork(before=_hold_back, after_in_parent=_let_through, after_in_child=_start_anew)

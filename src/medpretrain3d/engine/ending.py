"""Early termination of a run: all of its processes, soon, with one cause and an exit code that says so."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

import lightning as L
import torch.distributed as dist
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher, subprocess_script
from lightning.pytorch.utilities import rank_zero_only
from torch.multiprocessing.spawn import ProcessExitedException

from medpretrain3d.engine.peers import News, Peers
from medpretrain3d.engine.rendezvous import Declined, Rendezvous
from medpretrain3d.engine.run_log import run_log
from medpretrain3d.errors import UserError, exit_code
from medpretrain3d.failure import death, explain
from medpretrain3d.interruption import GRACE_S, NOTICE, Interrupted, end_with_parent, signals
from medpretrain3d.lines import print_line

SAVES_MEMORY = "lower data.batch_size, data.patch or data.num_workers, or set checkpointing: true in the backbone"
SEQUEL_S = 3.0
"""A process that lost the others waits this long for whoever knows why."""
_LOST_OTHERS = re.compile(
    r"gloo|nccl|Connection (closed|reset|refused)|Broken pipe|TCPStore|ProcessGroup", re.IGNORECASE
)


class Ending:
    """Why and when this process ends; one per process, `ending`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Reset all state, as a forked child does."""
        self._peers: Peers | None = None
        self._children: Sequence[subprocess.Popen[bytes]] = ()
        self._decided = threading.Lock()
        self._is_done = False
        self._code_of_others = 0
        self._first_is_done = threading.Event()
        self._rendezvous: Rendezvous | None = None
        """Where the other processes wait, until all have met."""
        self._is_alone = False
        """Whether the others never came, so that none of them says why this one ends."""

    def begin(self) -> None:
        """Install signal handling and process supervision, first of all in each process of a stage's program."""
        signals.take()
        if "TORCHELASTIC_RUN_ID" in os.environ or _is_launched_child():
            end_with_parent()
        # Lightning's own observer kills every process five seconds after one has failed, whatever they are about.
        subprocess_script._launch_process_observer = self._watch_children  # type: ignore[assignment,attr-defined]  # a method

    def expect(self, rendezvous: Rendezvous | None) -> None:
        """Say where the others of this run will wait, which a launcher has started: a failure before is told there."""
        self._rendezvous = rendezvous

    def meet(self, rendezvous: Rendezvous) -> None:
        """Wait for the other processes of this run, and end with them if one has failed.

        Raises:
            UserError: they did not come.
            SystemExit: another one failed.
        """
        self._rendezvous = None
        try:
            rendezvous.meet()
        except Declined as declined:
            _say(declined.text)
            raise SystemExit(declined.code) from None
        except UserError:
            self._is_alone = True
            raise

    def connect(self, trainer: L.Trainer) -> None:
        """Connect each process of a trainer to the others, once they can reach each other; a collective call."""
        if multiprocessing.parent_process() is not None:  # started by ddp_fork or ddp_spawn, which run no `begin`
            signals.take()
            end_with_parent()
        signals.mode = "raise"
        if trainer.world_size > 1 and self._peers is None:
            self._peers = Peers.connect(trainer, self._hear)
            signals.listeners.append(lambda signum: self._tell(News("signal", trainer.global_rank, signum)))

    @property
    def is_connected(self) -> bool:
        """Whether the other processes hear of what happens here."""
        return self._peers is not None

    @contextmanager
    def launching(self, trainer: L.Trainer) -> Iterator[None]:
        """While a trainer starts processes and only waits for them, signals are theirs."""
        launcher = trainer.strategy.launcher
        if not isinstance(launcher, _MultiProcessingLauncher):
            yield
            return
        launcher._wrapping_function = partial(_in_launched_process, launcher)  # type: ignore[method-assign]  # no hook
        before = signals.mode, signals.grace_s, signals.farewell
        signals.mode, signals.grace_s = "note", GRACE_S + 5
        signals.farewell = lambda signum: ""  # the first of them says it
        signals.listeners.append(launcher.kill)
        signals.before_exit.append(lambda: launcher.kill(signal.SIGKILL))
        try:
            yield
        finally:
            signals.listeners.remove(launcher.kill)
            signals.mode, signals.grace_s, signals.farewell = before
        signals.check()

    def done(self, code: int = 0) -> None:
        """Report normal completion to the other processes; a launcher waits for its children.

        Args:
            code: with which this process ends.
        """
        self._is_done = True
        self._tell(News("done", _rank(), code))
        self._wait_for_children(30.0)

    def interrupted(self, signum: int) -> NoReturn:
        """End in good order after a signal; the first process has the last word.

        Raises:
            SystemExit: with 128 plus the signal.
        """
        # Before the last word, after which nobody listens: the thread that tells the others may come to it later.
        self._tell(News("signal", _rank(), signum))
        if _rank() > 0:
            self.done()
            # A launcher that sees a process end (`srun --kill-on-bad-exit`) ends the first one in the middle of it.
            is_waited_for = self._peers is not None or signum == NOTICE  # which the first one has yet to answer
            self._first_is_done.wait(GRACE_S / 2 if is_waited_for else 0)
            signals.exit(128 + signum)
        _say(signals.farewell(signum))  # at once: SLURM kills a job soon after it was asked to queue it again
        self.done()
        raise SystemExit(128 + signum)

    def fail(self, error: BaseException) -> NoReturn:
        """End this process, and with it all others, after an error; one of them says why.

        Raises:
            SystemExit: with 2 after bad input, else 1.
        """
        sys.unraisablehook = lambda _: None  # what objects complain of while a failed program is torn down is no cause
        code, text = _told(error)
        is_sequel = _is_sequel(error)
        if is_sequel and signals.received is not None:
            self.interrupted(signals.received)
        if is_sequel and self._code_of_others:  # they have said why
            self.done()
            raise SystemExit(self._code_of_others)
        if self._peers is not None:
            news = News("failure", _rank(), code, text, is_sequel)
            if self._peers.rank == 0:
                time.sleep(SEQUEL_S if is_sequel else 0)
                self._decide(news)
            self._tell(news)
            time.sleep(2 * SEQUEL_S)  # ended by what the first process decides
            signals.exit(code, text)
        is_alone = self._is_alone
        if self._rendezvous is not None:
            _say(text)
            is_alone = not self._rendezvous.decline(code, text)
            text = text if is_alone and _rank() > 0 else ""
        elif _rank() > 0 and not is_alone:
            time.sleep(SEQUEL_S)  # the first process is about to say the same, and its launcher ends this one
        if self._children:
            signals.exit(code, text)  # they may wait for this process, and it for them when Python shuts down
        _say(text, is_alone)
        raise SystemExit(code)

    def _hear(self, news: News) -> None:
        """Handle a message from another process, in the thread that listens."""
        if news.kind in ("done", "lost") and news.rank == 0:
            self._first_is_done.set()
        if news.kind == "signal" and signals.received is None:
            self._tell(news, but=news.rank)
            signals.receive(news.code)
        elif news.kind == "done":
            self._code_of_others = news.code
        elif news.kind == "lost" and _rank() == 0:
            self._decide(News("failure", news.rank, 1, self._death(news.rank)))
        elif news.kind == "lost" and not self._is_done:
            # Of several processes that lost the first one, one says so, unless their parent does.
            speaks = _rank() == 1 and multiprocessing.parent_process() is None
            signals.exit(1, death_of_unknown_cause(news.rank) if speaks else "")
        elif news.kind == "failure" and _rank() == 0:
            threading.Timer(SEQUEL_S if news.is_sequel else 0, self._decide, [news]).start()
        elif news.kind == "failure":
            signals.exit(news.code)

    def _decide(self, cause: News) -> None:
        """On the first process: the first cause is said, and ends all."""
        if self._is_done or not self._decided.acquire(blocking=False):
            return
        self._tell(News("failure", cause.rank, cause.code))
        signals.exit(cause.code, cause.text)

    def _tell(self, news: News, but: int | None = None) -> None:
        if self._peers is not None:
            self._peers.tell(news, but)

    def _watch_children(self, children: list[subprocess.Popen[bytes]]) -> None:
        """Watch the child processes of a launcher, the first process of its node, in place of Lightning's observer."""
        self._children = children
        signals.before_exit.append(lambda: self._wait_for_children(5.0))

        def watch() -> None:
            while not self._is_done and signals.received is None:
                for rank, child in enumerate(children, start=1):
                    if child.poll():
                        self._decide(News("failure", rank, max(child.returncode, 1), self._death(rank)))
                time.sleep(0.25)

        threading.Thread(target=watch, daemon=True, name="children").start()

    def _death(self, rank: int) -> str:
        """Return the error message for a dead process, as far as its end is known; empty where it said why itself."""
        if not 0 < rank <= len(self._children):
            return death_of_unknown_cause(rank)
        try:
            code = self._children[rank - 1].wait(1.0)
        except subprocess.TimeoutExpired:
            return death_of_unknown_cause(rank)
        # With an exit code of its own it has said why.
        return f"error: {death(f'process {rank}', code, SAVES_MEMORY)}" if code < 0 else ""

    def _wait_for_children(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for child in self._children:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _in_launched_process(launcher: _MultiProcessingLauncher, *args: Any) -> None:
    """All that a process does that ddp_fork or ddp_spawn has started: it ends as those do that run a program."""
    try:
        _MultiProcessingLauncher._wrapping_function(launcher, *args)
    except Interrupted as interrupted:
        ending.interrupted(interrupted.signum)
    except KeyboardInterrupt:
        ending.interrupted(signal.SIGINT)
    except Exception as error:
        ending.fail(error)
    ending.done()


def death_of_unknown_cause(rank: int) -> str:
    """Return the error message for a process that is gone without a word."""
    return f"error: process {rank} was lost: it was killed, or its machine; if memory ran out, {SAVES_MEMORY}"


def _told(error: BaseException) -> tuple[int, str]:
    """Exit code, and what to print."""
    if isinstance(error, ProcessExitedException):
        if error.exit_code >= 0:  # it has said why
            return max(error.exit_code, 1), ""
        # When another one than the first is killed, the first one says so.
        text = death(f"process {error.error_index}", error.exit_code, SAVES_MEMORY)
        return 1, f"error: {text}" if error.error_index == 0 else ""
    message = explain(error, SAVES_MEMORY)
    if message is not None:
        return exit_code(error) if isinstance(error, UserError) else 1, f"error: {message}"
    return 1, "".join(traceback.format_exception(error)).rstrip()


def _is_sequel(error: BaseException) -> bool:
    is_of_torch = isinstance(error, dist.DistError | RuntimeError | ConnectionError)
    return is_of_torch and not isinstance(error, UserError) and bool(_LOST_OTHERS.search(str(error)))


def _is_launched_child() -> bool:
    """Return whether Lightning's launcher made this process."""
    return os.environ.get("LOCAL_RANK", "0") != "0" and "SLURM_PROCID" not in os.environ


def _rank() -> int:
    return int(getattr(rank_zero_only, "rank", 0) or 0)


def _say(text: str, is_alone: bool = False) -> None:
    if text and (is_alone or _rank() == 0):
        sys.stdout.flush()
        print_line(text, to_stderr=True)
        run_log.keep(text)


ending = Ending()
"""That of this process."""
os.register_at_fork(after_in_child=ending.reset)

"""Processes that work on cases at the same time."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.process import BaseProcess

from medpretrain3d.threads import num_threads, set_threads


@contextmanager
def worker_pool(num_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Start processes that end with this one, and at once when the block ends with an exception.

    They share the cores, see `num_threads`.

    Ctrl-C reaches them too, but means this process: each would print a traceback of its own.
    """
    # spawn: a forked child may inherit locks that threads of the parent hold.
    with ProcessPoolExecutor(
        num_workers, get_context("spawn"), initializer=_begin, initargs=(num_threads(num_workers),)
    ) as pool:
        # A new process inherits which signals are blocked; the first task starts them all.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
        try:
            pool.submit(_nothing)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            yield pool
        except BaseException:  # cases that are begun are not waited for: the next call begins them again
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in active_children():
                worker.kill()
            raise


def exit_code_of_the_dead(workers: Sequence[BaseProcess]) -> int:
    """Exit code, negative for a signal, of the worker that died by itself; the pool ends the others with SIGTERM."""
    deadline = time.monotonic() + 10.0
    while any(worker.exitcode is None for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.02)  # the pool breaks a little earlier than the kernel is done with a process
    codes = (worker.exitcode for worker in workers)
    return next((code for code in codes if code not in (None, 0, -signal.SIGTERM)), -signal.SIGKILL)


def _begin(threads: int) -> None:
    set_threads(threads)
    _end_with_parent()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work forever."""

    def watch() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _nothing() -> None:
    pass

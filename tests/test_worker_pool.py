from __future__ import annotations

import signal
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children

import pytest

from medpretrain3d.worker_pool import exit_code_of_the_dead, worker_pool


def test_a_worker_that_crashed_is_told_from_those_that_were_ended_with_it():
    with worker_pool(2) as pool:
        crash = pool.submit(signal.raise_signal, signal.SIGABRT)
        processes = active_children()
        with pytest.raises(BrokenProcessPool):
            crash.result()
        assert exit_code_of_the_dead(processes) == -signal.SIGABRT

from __future__ import annotations

import errno
import signal

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from medpretrain3d.errors import UserError
from medpretrain3d.failure import death, explain

HELP = "lower --batch-size"


def raised(action):
    with pytest.raises(Exception) as caught:  # noqa: PT011  whatever libraries make of it
        action()
    return caught.value


def test_want_of_memory_names_what_helps():
    on_gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    errors = [raised(lambda: torch.empty(2**55)), raised(lambda: np.empty(2**55)), MemoryError(), on_gpu]
    for error in errors:
        told = explain(error, HELP)
        assert told is not None
        assert told.startswith("out of memory (")
        assert told.endswith(HELP)
        assert "\n" not in told


class Failing(Dataset):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UserError("case 'a': the image is missing; prepare it again"), "case 'a': the image is missing; prepare it"),
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), "no space left"),
        (OSError(errno.EIO, "Input/output error", "/data/x"), "Input/output error"),
        (MemoryError("no more"), "out of memory (no more); lower --batch-size"),
        (ZeroDivisionError("a bug"), None),
    ],
)
def test_what_a_loader_worker_raised_is_read_from_its_text(error, told):
    loader = DataLoader(Failing(error), num_workers=1)
    found = explain(raised(lambda: next(iter(loader))), HELP)
    if told is None:
        assert found is None
    else:
        assert found is not None
        assert told in found
        assert "Traceback" not in found
        assert "\n" not in found


def test_a_full_disk_names_the_file_and_a_bug_stays_one():
    full = explain(OSError(errno.EDQUOT, "Disk quota exceeded", "/data/x"), HELP)
    assert full == "/data/x: no space left; free some and call again"
    assert explain(KeyError("x"), HELP) is None
    assert explain(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), HELP) is None


def test_what_was_exhausted_is_told_where_dealing_with_it_failed_too():
    def fail(first: Exception) -> None:
        try:
            raise first
        finally:
            raise RuntimeError("call iter() first")

    full = raised(lambda: fail(OSError(errno.ENOSPC, "No space left on device")))
    told = explain(full, HELP)
    assert told is not None
    assert "no space left" in told
    assert explain(raised(lambda: fail(KeyError("x"))), HELP) is None
    assert explain(raised(lambda: fail(FileNotFoundError(errno.ENOENT, "x", "y"))), HELP) is None


def test_how_a_process_died_is_told_by_its_signal():
    assert death("process 1", -signal.SIGKILL, HELP).endswith("because memory ran out; lower --batch-size")
    assert "/dev/shm" in death("process 1", -signal.SIGBUS, HELP)
    crash = "process 1 was ended by SIGABRT: a library crashed, perhaps an old one; `medpretrain3d doctor` tells which"
    assert death("process 1", -signal.SIGABRT, HELP) == crash
    crashed = explain(RuntimeError("DataLoader worker (pid 7) is killed by signal: Segmentation fault. "), HELP)
    assert crashed is not None
    assert "loader worker 7 was ended by Segmentation fault: a library crashed" in crashed
    assert death("process 1", 3, HELP) == "process 1 ended with exit code 3"
    killed = explain(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), HELP)
    assert killed is not None
    assert killed.startswith("loader worker 7 was killed (SIGKILL)")
    lost = explain(RuntimeError("DataLoader worker (pid(s) 7, 9) exited unexpectedly"), HELP)
    assert lost is not None
    assert lost.startswith("loader worker 7, 9 died unexpectedly")

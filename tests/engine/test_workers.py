from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medpretrain3d.engine import workers


class Volumes(Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        return torch.full((2, 8), index, dtype=torch.bfloat16)


def batches(dataset: Dataset) -> DataLoader:
    return DataLoader(dataset, 2, num_workers=1, worker_init_fn=workers.begin_worker)


def test_where_shared_memory_is_full_batches_come_through_the_pipe_and_it_is_said_once(monkeypatch, capfd):
    def full(*_, **__):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(Tensor, "share_memory_", full)  # the forked worker has them too
    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", full)
    monkeypatch.setattr(workers, "_is_said", False)
    read = list(batches(Volumes()))
    assert [batch.dtype for batch in read] == [torch.bfloat16] * 2
    assert [batch[:, 0, 0].tolist() for batch in read] == [[0, 1], [2, 3]]
    printed = capfd.readouterr().err
    assert printed.count("docker run --shm-size") == 1
    assert printed.count("\n") == 1


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_ends_by_the_word_of_its_parent_alone(signum):
    is_ready, says_ready = multiprocessing.Pipe(duplex=False)

    def work() -> None:
        workers.begin_worker(0)
        says_ready.send(True)
        time.sleep(60)

    worker = multiprocessing.get_context("fork").Process(target=work, daemon=True)
    worker.start()
    assert is_ready.recv()
    stranger = subprocess.run(["kill", f"-{int(signum)}", str(worker.pid)])
    assert stranger.returncode == 0
    worker.join(0.5)
    assert worker.is_alive()
    os.kill(worker.pid, signum)
    worker.join(20)
    assert worker.exitcode == 0

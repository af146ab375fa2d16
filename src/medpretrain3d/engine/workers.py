"""Processes that read data: they live as long as the process that trains, and no memory is too small for a batch."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.data._utils.collate import collate_tensor_fn, default_collate_fn_map

from medpretrain3d.interruption import end_with_parent
from medpretrain3d.lines import print_line


def begin_worker(worker: int) -> None:
    """Initialize a worker of a data loader (`worker_init_fn`).

    Schedulers and terminals send their signals to every process, but a worker that left a step of the training halfway
    would turn an end in good order into a failure: only its parent ends it.
    """
    end_with_parent()
    ForkingPickler.register(Tensor, _reduce)
    default_collate_fn_map[Tensor] = _stack
    obeyed = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, obeyed)
    threading.Thread(target=_obey_parent, args=(obeyed, os.getppid()), daemon=True).start()


def _obey_parent(obeyed: set[signal.Signals], parent: int) -> None:
    while signal.sigwaitinfo(obeyed).si_pid != parent:
        pass
    os._exit(0)


def _stack(batch: list[Tensor], **options: Any) -> Tensor:
    """Collate tensors in place of PyTorch's function, which makes a worker's batches in shared memory or not at all."""
    try:
        stacked: Tensor = collate_tensor_fn(batch, **options)
        return stacked
    except RuntimeError:  # no space left in /dev/shm; or sizes differ, which is raised again
        return torch.stack(batch)


def _reduce(tensor: Tensor) -> Any:
    """Hand a tensor to the parent in shared memory or, where that is full, through the pipe.

    PyTorch would print the error in a thread of the worker, and the parent wait for this batch for ever.
    """
    try:
        return reduce_tensor(tensor.share_memory_())
    except (RuntimeError, OSError):  # no space left in /dev/shm, or no /dev/shm
        return _from_pipe, (tensor.detach().contiguous().view(torch.uint8).numpy(), tensor.dtype, tuple(tensor.shape))


_is_said = False


def _from_pipe(raw: np.ndarray, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    global _is_said
    if not _is_said:
        _is_said = True
        size = os.statvfs("/dev/shm") if os.path.isdir("/dev/shm") else None
        message = f"/dev/shm has {size.f_bsize * size.f_blocks:,} bytes" if size else "there is no /dev/shm"
        print_line(
            f"{message}, too little for the batches of {shape} that loader workers read; they come through pipes, "
            "which takes longer: give the container more (docker run --shm-size), or lower data.num_workers",
            to_stderr=True,
        )
    return torch.from_numpy(raw).view(dtype).view(shape)

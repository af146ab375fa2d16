"""One check per thing of a machine that a run depends on. Each prints what there is, or `note:` and what to do.

`doctor` calls each in a process of its own. None of these ends a run: what is noted makes it slow, or ends it later.
"""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

GIB = 2**30
LITTLE_SHARED_MEMORY = 2**28
FEW_FILES = 4096
"""A loader worker opens some dozens, a process with its libraries a few hundred, a store of containers one each."""
LITTLE_DISK = 20 * GIB
"""Two checkpoints of ResEnc-L with its optimizer take 3 GiB, a store of a hundred CTs 10."""
LITTLE_TEMPORARY = 1 * GIB
CHECK_S = 2.0
"""That convolutions on a GPU are compared for."""
TOLERANCES = {"float32": 1e-3, "tf32": 1e-2, "bfloat16": 5e-2, "float16": 1e-2}
"""Norm of the difference from float64 on the CPU, relative to its norm."""


def shared_memory() -> None:
    """Enough of it for the batches of loader workers."""
    place = Path("/dev/shm")
    if not place.is_dir() or not os.access(place, os.W_OK):
        print(f"note: no {place}; batches of loader workers go through pipes, which is slower: mount it")
        return
    free = shutil.disk_usage(place).free
    if free < LITTLE_SHARED_MEMORY:
        print(
            f"note: {free / GIB:.2f} GiB free in {place}; large batches go through pipes, which is slower: "
            "docker run --shm-size 8g, or data.num_workers 0"
        )
        return
    print(f"{free / GIB:.1f} GiB free in {place}")


def open_files() -> None:
    """Enough of them for loader workers and containers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < FEW_FILES:
        most = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
        print(
            f"note: {soft} at a time, fewer than {FEW_FILES}; many loader workers may end with 'Too many open files': "
            f"ulimit -n {min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536} (at most {most} here)"
        )
        return
    print("any number at a time" if soft == resource.RLIM_INFINITY else f"{soft} at a time")


def caches() -> None:
    """Places where compiled loops, fonts and downloads are kept can be written."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    places = {
        "NUMBA_CACHE_DIR": Path(os.environ.get("NUMBA_CACHE_DIR") or Path(__file__).parents[1] / "boxes"),
        "MPLCONFIGDIR": Path(os.environ.get("MPLCONFIGDIR") or base / "matplotlib"),
        "HF_HOME": Path(os.environ.get("HF_HOME") or base / "huggingface"),
        "XDG_CACHE_HOME": base / "medpretrain3d",
    }
    if not os.environ.get("NUMBA_CACHE_DIR") and not _is_writable(places["NUMBA_CACHE_DIR"]):
        places["NUMBA_CACHE_DIR"] = base / "numba"  # where numba goes next
    unwritable = {name: place for name, place in places.items() if not _is_writable(place)}
    if unwritable:
        named = ", ".join(f"{place} ({name})" for name, place in unwritable.items())
        print(f"note: cannot write {named}; each process compiles or downloads anew: set these to a folder of your own")
        return
    print(f"writable, below {base}")


def temporary_files() -> None:
    """TMPDIR has room; whether it is a file system of its own decides on nothing but speed."""
    try:
        place = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise SystemExit(f"none can be written ({error}); set TMPDIR to a folder that can be") from error
    free = shutil.disk_usage(place).free
    is_apart = place.stat().st_dev != Path.cwd().stat().st_dev
    where = f"{place} with {free / GIB:.1f} GiB free" + (", another file system than this folder" if is_apart else "")
    if free < LITTLE_TEMPORARY:
        print(f"note: {where}; set TMPDIR to a folder with more")
        return
    print(f"{where}; results are written beside their place and renamed" if is_apart else where)


def free_disk() -> None:
    """Room for stores and runs where this was called."""
    usage = shutil.disk_usage(Path.cwd())
    inodes = os.statvfs(Path.cwd())
    message = f"{usage.free / GIB:.1f} GiB free in this folder"
    if not os.access(Path.cwd(), os.W_OK):
        print(f"note: {message}, which cannot be written; call from another one, or give --run.root")
    elif usage.free < LITTLE_DISK:
        print(f"note: {message}, less than {LITTLE_DISK / GIB:.0f}; put runs and stores elsewhere with --run.root")
    elif inodes.f_files and inodes.f_favail < 100_000:
        print(f"note: {message}, but only {inodes.f_favail} files can be made; prepare with --containers")
    else:
        print(message)


def convolutions() -> None:
    """3D convolutions on the GPU, for two seconds, beside float64 on the CPU: forward and both gradients."""
    import torch

    if not torch.cuda.is_available():
        print("no GPU, not compared")
        return
    kinds = ["float32", "tf32", "float16", *(["bfloat16"] if torch.cuda.is_bf16_supported(False) else [])]
    shapes = [((2, 16, 24, 24, 24), 1), ((2, 32, 17, 24, 31), 2), ((1, 64, 12, 12, 12), 1)]
    worst: dict[str, float] = dict.fromkeys(kinds, 0.0)
    until, turn = time.monotonic() + CHECK_S, 0
    while turn < len(kinds) * len(shapes) or time.monotonic() < until:
        kind = kinds[turn % len(kinds)]
        shape, stride = shapes[turn // len(kinds) % len(shapes)]
        worst[kind] = float(np.maximum(worst[kind], _difference(kind, shape, stride)))  # NaN stays
        turn += 1
    wrong = {kind: value for kind, value in worst.items() if not value <= TOLERANCES[kind]}  # also of NaN
    if wrong:
        named = ", ".join(f"{kind} by {value:.2g}" for kind, value in wrong.items())
        raise SystemExit(
            f"3D convolutions on the GPU are wrong ({named}, relative to float64); update driver, torch and cuDNN, and "
            "train with --trainer.precision 32-true until then"
        )
    print(
        f"{turn} compared with float64 on the CPU: {', '.join(f'{kind} {value:.1g}' for kind, value in worst.items())}"
    )


def _difference(kind: str, shape: tuple[int, ...], stride: int, device: str = "cuda") -> float:
    """Return the largest relative difference of a convolution and its gradients on a device from those in float64."""
    import torch

    generator = torch.Generator().manual_seed(sum(shape))
    image = torch.randn(shape, generator=generator, dtype=torch.float64)
    weight = torch.randn(shape[1], shape[1], 3, 3, 3, generator=generator, dtype=torch.float64) / 10
    torch.backends.cudnn.allow_tf32 = kind == "tf32"
    dtype = torch.float32 if kind == "tf32" else getattr(torch, kind)
    expected = _with_gradients(image, weight, stride)
    found = _with_gradients(image.to(device, dtype), weight.to(device, dtype), stride)
    return max(
        float((one.double().cpu() - other).norm() / other.norm()) for one, other in zip(found, expected, strict=True)
    )


def _with_gradients(image: Tensor, weight: Tensor, stride: int) -> list[Tensor]:
    """Return a convolution, and the gradients of its mean square."""
    import torch

    image, weight = image.requires_grad_(), weight.requires_grad_()
    result = torch.nn.functional.conv3d(image, weight, stride=stride, padding=1)
    return [result.detach(), *torch.autograd.grad(result.square().mean(), [image, weight])]


def _is_writable(place: Path) -> bool:
    """Whether a folder, or the nearest one above it that is there, can be written."""
    there = next(one for one in (place, *place.parents) if one.exists())
    return there.is_dir() and os.access(there, os.W_OK)

"""Peak memory of a worker while it turns and shrinks a 96^3 crop, above the finished crop."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.timing import Row
from medpretrain3d.loading.augment import SpatialAugment
from medpretrain3d.loading.batches import generator_at
from medpretrain3d.loading.crops import DeferredCrop
from medpretrain3d.loading.spatial_transform import SpatialTransform
from medpretrain3d.store.intensity import Window

PATCH = (96, 96, 96)


def rows() -> Iterator[Row]:
    crop_mib, peak_mib = _peak_memory()
    work = "memory of a worker above its batch, turned 96^3 crop"
    yield Row(work, "crop with margin, fp32", crop_mib, peak_mib, unit="MiB")


def _peak_memory() -> tuple[float, float]:
    """MiB of the crop with margin as floats, and of what a process takes at most above the finished crop."""
    told = subprocess.run([sys.executable, "-m", "benchmarks.crop_memory"], capture_output=True, text=True, check=True)
    crop_mib, peak_mib = (float(word) for word in told.stdout.split())
    return crop_mib, peak_mib


def _one_large_crop() -> None:
    """Prints both numbers, from a process in which nothing else has been large."""
    turn = SpatialAugment(rotation_p=1, zoom_p=0).draw(generator_at(0, 3)).matrix / 0.7

    def crop(patch: tuple[int, int, int]) -> tuple[tuple[int, ...], torch.Tensor]:
        spatial_transform = SpatialTransform(turn, (0,))
        size = spatial_transform.source_size(patch)
        source = DeferredCrop(torch.zeros((1, *size), dtype=torch.int16), spatial_transform, patch, Window())
        return size, source.apply()

    crop((16, 16, 16))  # everything is imported and compiled
    before = _status_mib("VmRSS")
    size, finished = crop(PATCH)
    print(np.prod(size) * 4 / 2**20, _status_mib("VmHWM") - before - finished.nbytes / 2**20)


def _status_mib(name: str) -> float:
    with open("/proc/self/status") as file:
        return next(float(line.split()[1]) / 1024 for line in file if line.startswith(name))


if __name__ == "__main__":
    _one_large_crop()

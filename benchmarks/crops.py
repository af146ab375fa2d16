"""Random crops of a full-size CT from a store, against nibabel and zarr; and what the store takes on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks.peers import peer
from benchmarks.timing import Row, race
from medpretrain3d.store.case import IMAGE, CaseData, write_case
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.store import Store, write_index

SHAPE = (300, 512, 512)
CROP = (96, 96, 96)
NOISE_HU = 20
"""Standard deviation inside the body, correlated as a standard kernel leaves it; chest CTs of 1 mm have 15 to 30."""


def rows() -> Iterator[Row]:
    array = chest()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        file = root / "scan.nii.gz"
        nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), np.diag([-1, -1, 1, 1])), file)
        grid = Grid(SHAPE, np.eye(4)[[2, 1, 0, 3]])
        content = CaseData("a", array[None], grid, grid, "a")
        write_index(root / "store", (), None, [write_case(root / "store", content)], {})
        case = Store(root / "store").case("a")
        stored = (case.folder / IMAGE).stat().st_size

        zarr = peer("zarr")
        zarr_file = str(root / "scan.zarr")
        zarr.create_array(zarr_file, data=array, chunks=(64, 64, 64))

        def from_nifti(d: int, h: int, w: int) -> np.ndarray:
            return np.asarray(nibabel.load(file).dataobj[w : w + 96, h : h + 96, d : d + 96]).transpose(2, 1, 0)

        def from_zarr(d: int, h: int, w: int) -> Any:
            return zarr.open_array(zarr_file, mode="r")[d : d + 96, h : h + 96, w : w + 96]

        def ours(d: int, h: int, w: int) -> np.ndarray:
            return case.read_image((d, h, w), CROP)[0]

        for other in (from_nifti, from_zarr):
            for start in _starts(1, count=3):
                np.testing.assert_array_equal(other(*start), ours(*start))
        work = f"10 random 96^3 crops, 512 x 512 x 300, stored at {stored / array.nbytes:.2f}"
        yield race(work, "nibabel .nii.gz", _ten(from_nifti), _ten(ours), keeps_memory=True, bar=15)
        yield race(work, "zarr v3, chunks of 64", _ten(from_zarr), _ten(ours), rounds=15, keeps_memory=True, bar=3)


def chest() -> np.ndarray:
    """A chest CT (D, H, W) int16 as far as compression can tell: body, lungs, correlated noise, padded corners."""
    random = np.random.default_rng(0)
    d, h, w = np.ogrid[-1 : 1 : SHAPE[0] * 1j, -1 : 1 : SHAPE[1] * 1j, -1 : 1 : SHAPE[2] * 1j]
    body = (h / 0.62) ** 2 + (w / 0.85) ** 2 + 0 * d < 1
    lungs = (h / 0.42) ** 2 + ((np.abs(w) - 0.38) / 0.27) ** 2 + (d / 0.9) ** 2 < 1
    hu = np.where(lungs, -850, np.where(body, 40, -1000)).astype(np.float32)
    noise = gaussian_filter(random.standard_normal(SHAPE, dtype=np.float32), (0.5, 0.7, 0.7))
    hu = gaussian_filter(hu, 0.7) + noise * (NOISE_HU / noise.std())
    outside = np.broadcast_to(h**2 + w**2 > 1, SHAPE)
    return np.where(outside, -1024, hu.clip(-1024, 3071)).round().astype(np.int16)


def _starts(seed: int, count: int = 10_000) -> Iterator[tuple[int, int, int]]:
    random = np.random.default_rng(seed)
    for _ in range(count):
        d, h, w = (int(random.integers(0, size - edge + 1)) for size, edge in zip(SHAPE, CROP, strict=True))
        yield d, h, w


def _ten(read: Callable[[int, int, int], Any]) -> Callable[[], None]:
    """Reads ten other places each time; both readers of a race go through the same places."""
    starts = _starts(0)

    def run() -> None:
        for start in islice(starts, 10):
            read(*start)

    return run

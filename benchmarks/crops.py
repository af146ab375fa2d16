"""Reading random crops from a store against reading the NIfTI file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks.timing import Row, race
from medpretrain3d.data.prepare import prepare
from medpretrain3d.data.store import Store

SHAPE = (256, 256, 200)
CROP = (96, 96, 96)


def rows() -> Iterator[Row]:
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        raw, store = Path(folder) / "raw", Path(folder) / "store"
        raw.mkdir()
        noise = gaussian_filter(random.normal(0, 60, SHAPE), 0.7) - 400
        file = raw / "scan.nii.gz"
        nibabel.save(nibabel.Nifti1Image(noise.astype(np.int16), np.eye(4)), file)
        prepare([raw], store, progress=False)
        case = Store(store).case("scan")

        def start(shape: tuple[int, ...]) -> list[int]:
            return [int(random.integers(0, size - edge + 1)) for size, edge in zip(shape, CROP, strict=True)]

        def from_nifti() -> np.ndarray:
            i, j, k = start(SHAPE)
            return np.asarray(nibabel.load(file).dataobj[i : i + 96, j : j + 96, k : k + 96])

        yield race(
            "random 96^3 crop of a 256 x 256 x 200 CT, file opened anew",
            "nibabel .nii.gz",
            from_nifti,
            lambda: case.read_image(start(case.grid.shape), CROP),
        )

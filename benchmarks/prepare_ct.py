"""What `prepare` takes of a core and of memory for one large CT: `make bench ARGS=prepare_ct` prints a table.

A scan of 512 x 512 x 1,200 voxels (`DEPTH=300` for fewer slices) with a label map, prepared by one worker in a process
of its own: as it is, into containers, and resampled from 0.8 x 0.8 x 0.5 mm to 1.5 mm. The peak is that of the whole
process, libraries included, and so what each worker of `--workers N` needs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np

KINDS = {
    "as it is": [],
    "as it is, --containers": ["--containers"],
    "to 1.5 mm": ["--spacing-mm", "1.5", "1.5", "1.5"],
}
MEASURED = """
import sys, time
from medpretrain3d.cli import main
from medpretrain3d.memory import peak_bytes
before = time.process_time()
main(["prepare", *sys.argv[1:]])
print(time.process_time() - before, peak_bytes(), file=sys.stderr)
"""


def report() -> None:
    """Print CPU seconds, cases per core and second, and the peak of memory."""
    depth = int(os.environ.get("DEPTH", "1200"))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _write_raw(root / "raw", depth)
        print(f"| CT of 512 x 512 x {depth:,} and label map, one thread | CPU | cases/s per core | memory per worker |")
        print("|---|---:|---:|---:|")
        for name, options in KINDS.items():
            command = [sys.executable, "-c", MEASURED, str(root / "raw"), str(root / name.replace(" ", "_")), *options]
            threads = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **threads}, check=False)
            if done.returncode:
                raise SystemExit(f"error: prepare ended with {done.returncode}: {done.stderr[-500:]}")
            seconds, peak = map(float, done.stderr.split()[-2:])
            print(f"| {name} | {seconds:.0f} s | {1 / seconds:.3f} | {peak / 2**30:.1f} GiB |", flush=True)


def _write_raw(raw: Path, depth: int) -> None:
    (raw / "imagesTr").mkdir(parents=True)
    (raw / "labelsTr").mkdir()
    (raw / "dataset.json").write_text('{"labels": {"background": 0, "nodule": 1}, "file_ending": ".nii"}')
    random = np.random.default_rng(0)
    scan = np.empty((512, 512, depth), np.int16, order="F")
    labels = np.zeros((512, 512, depth), np.uint8, order="F")
    x, y = np.ogrid[-1:1:512j, -1:1:512j]
    body = np.where((x / 0.85) ** 2 + (y / 0.62) ** 2 < 1, 40, -1000).astype(np.float32)
    for z in range(depth):
        scan[..., z] = body + random.normal(0, 20, body.shape)
    for _ in range(12):
        a, b, c = (int(random.integers(20, size - 20)) for size in scan.shape)
        labels[a : a + 12, b : b + 12, c : c + 12] = 1
    affine = np.diag([0.8, 0.8, 0.5, 1.0])
    nibabel.save(nibabel.Nifti1Image(scan, affine), raw / "imagesTr" / "ct_0000.nii")
    nibabel.save(nibabel.Nifti1Image(labels, affine), raw / "labelsTr" / "ct.nii")

"""Compiled loops work wherever the package lies, also where nothing can be kept or what is kept is damaged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import medpretrain3d

SOURCE = Path(medpretrain3d.__file__).parent
KERNELS = sorted(
    ".".join(("medpretrain3d", *path.relative_to(SOURCE).with_suffix("").parts))
    for path in SOURCE.rglob("*.py")
    if "import compiled" in path.read_text(encoding="utf-8")
)
USE = """
import importlib, resource, sys
import numpy as np
for name in sys.argv[2:]:
    importlib.import_module(name)
if sys.argv[1] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
from medpretrain3d.store.intensity_kernel import scale_and_cut
one, out = np.ones(1, np.float32), np.empty((1, 3), np.float32)
scale_and_cut(np.array([[-5, 1, 9]], np.int16), one, one, -one, one, out)
print(out.tolist())
"""


def use(environment, mode="", modules=KERNELS):
    words = [sys.executable, "-c", USE, mode, *modules]
    done = subprocess.run(words, env={**os.environ, **environment}, capture_output=True, text=True, cwd="/")
    assert (done.returncode, done.stdout) == (0, "[[-1.0, 0.0, 1.0]]\n"), done.stderr
    return done.stderr


def test_every_file_of_compiled_loops_is_found():
    assert len(KERNELS) >= 6
    direct = [path for path in SOURCE.rglob("*.py") if "numba.njit" in path.read_text(encoding="utf-8")]
    assert [path.name for path in direct] == ["compiled.py"]


@pytest.mark.slow
def test_loops_compile_where_neither_the_package_nor_home_can_be_written(tmp_path):
    package = tmp_path / "medpretrain3d"
    shutil.copytree(SOURCE, package, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [package, *(path for path in package.rglob("*") if path.is_dir())]:
        (folder / "__pycache__").write_text("a file, so that no folder can be made, by root neither")
    nowhere = {"HOME": "/proc/nowhere", "XDG_CACHE_HOME": "/proc/nowhere", "PYTHONPATH": str(tmp_path)}
    use({**nowhere, "PYTHONDONTWRITEBYTECODE": "1"})
    use({**nowhere, "PYTHONDONTWRITEBYTECODE": "1", "NUMBA_CACHE_DIR": "/proc/nowhere"}, modules=KERNELS[:1])


@pytest.mark.slow
def test_loops_compile_anew_where_kept_code_is_damaged_or_cannot_be_written(tmp_path):
    place = {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(SOURCE.parent)}
    use(place, "full", modules=[])
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > 200] == []
    use(place, modules=[])
    kept = [path for path in tmp_path.rglob("*.nb*") if path.stat().st_size > 200]
    assert kept
    for path in tmp_path.rglob("*.nbi"):
        path.write_bytes(b"")  # what a power loss leaves
    use(place, modules=[])
    for path in tmp_path.rglob("*.nbc"):
        path.write_bytes(b"\x80\x04garbage")
    use(place, modules=[])


def test_usual_calls_are_those_that_are_compiled_ahead():
    """What the readers, augmentations, matchers and merging call has the types that `make install` compiles for."""
    import numpy as np
    import torch

    from medpretrain3d.boxes import box_iou, generalized_box_iou, nms
    from medpretrain3d.boxes.suppression import covered_by, suppress
    from medpretrain3d.compiled import compile_ahead, kernel_modules
    from medpretrain3d.detection.matching import nearest_cells
    from medpretrain3d.inference.joining import join_pieces
    from medpretrain3d.loading.crops import DeferredLabels
    from medpretrain3d.loading.spatial_transform import SpatialTransform, apply_transform
    from medpretrain3d.objectives.counter_rng import CounterRNG
    from medpretrain3d.objectives.distortions import local_shuffle
    from medpretrain3d.store.intensity import Window

    assert kernel_modules() == KERNELS
    assert compile_ahead() >= len(KERNELS)
    loops = {name: loop for module in KERNELS for name, loop in vars(sys.modules[module]).items() if _is_loop(loop)}
    assert {"suppress", "read_linear", "scale_and_cut", "nearest_in_blocks"} <= set(loops)
    before = {name: loop.signatures for name, loop in loops.items()}

    for voxels in (np.zeros((1, 4, 4, 4), np.int16), np.zeros((1, 4, 4, 4), np.float32)):
        Window()(voxels)
    turned = SpatialTransform(np.diag([1.1, 0.9, 1.0]), flips=(0,), elastic=np.zeros((3, 3, 3, 3)))
    for transform in (turned, SpatialTransform(np.diag([1.1, 0.9, 1.0]))):
        apply_transform(torch.zeros(1, 12, 12, 12, dtype=torch.int16), transform, (8, 8, 8))
        labels = torch.zeros(1, 12, 12, 12, dtype=torch.uint16)
        DeferredLabels(labels, transform, (8, 8, 8), torch.zeros(1, dtype=torch.uint8)).apply()
    corner = torch.arange(900.0).reshape(300, 3)
    boxes, scores = torch.cat([corner, corner + 5], dim=1), torch.rand(300)
    box_iou(boxes, boxes)
    generalized_box_iou(boxes, boxes)
    nms(boxes, scores, 0.5)
    suppress(boxes, scores, 0.5)
    covered_by(boxes, scores, 0.5, 0.5)
    for cells in (boxes, torch.cat([boxes, boxes], dim=1)[:, :6]):
        nearest_cells(corner, cells, 3)
    faces = torch.tensor([[0.0, 0, 0, 16, 16, 16], [12, 0, 0, 28, 16, 16]])
    cut = torch.tensor([[2.0, 2, 2, 16, 8, 8], [12, 2, 2, 20, 8, 8]])
    touches = torch.tensor([[False] * 3 + [True, False, False], [True] + [False] * 5])
    join_pieces(cut, torch.tensor([0.9, 0.8]), touches, faces)
    local_shuffle(torch.zeros(1, 8, 8, 8), CounterRNG(torch.tensor(3)), 4)

    assert {name: loop.signatures for name, loop in loops.items()} == before


def _is_loop(value):
    return hasattr(value, "py_func") and value.py_func.__module__ in KERNELS and hasattr(value, "signatures")


def test_loops_are_compiled_in_several_processes_into_the_cache_that_is_named(tmp_path):
    place = {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(SOURCE.parent)}
    code = (
        "import sys\nfrom medpretrain3d import compiled\n"
        "names = ['objectives.shuffle_kernel', 'store.intensity_kernel']\n"
        "compiled.kernel_modules = lambda: [f'medpretrain3d.{name}' for name in names]\n"
        "if __name__ == '__main__':\n    print(compiled.compile_ahead(2))\n"
    )
    file = tmp_path / "ahead.py"
    file.write_text(code)
    done = subprocess.run([sys.executable, str(file)], env={**os.environ, **place}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
    assert len({path.name.split("-")[0] for path in tmp_path.rglob("*.nbi")}) == 2

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

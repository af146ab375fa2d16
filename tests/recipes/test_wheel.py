"""What is installed from the wheel works as the checkout does, from any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The unpacked wheel: what pip would put into site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("src", "pretrain", "finetune", "configs"):
        skipped = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, source / name, ignore=skipped)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    code = "import setuptools.build_meta as backend; print(backend.build_wheel('..'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    shutil.rmtree(source)
    return folder / "site"


def run(installed: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "medpretrain3d.cli", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, encoding="utf-8", timeout=300)


def test_the_wheel_holds_stages_and_recipes_below_the_package(installed):
    tops = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == {"medpretrain3d"}, "nothing else may lie at the top of site-packages"
    programs = installed / "medpretrain3d" / "programs"
    for pattern in ("pretrain/*.py", "finetune/*.py", "configs/*/*"):
        wanted = {path.relative_to(ROOT) for path in ROOT.glob(pattern) if path.is_file()}
        assert {path.relative_to(programs) for path in programs.glob(pattern)} == wanted


def test_a_recipe_is_found_by_name_and_answered_soon(installed, tmp_path):
    done = run(installed, tmp_path, "finetune", "--config", "openkpb")
    assert done.returncode == 2
    assert "did you mean 'openkbp'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_stage_trains_from_any_folder(installed, tmp_path, cube_store):
    words = ["pretrain", "--config", "smoke", "--data.store", str(cube_store), "--data.patch", "[16,16,16]"]
    done = run(installed, tmp_path, *words, "--run.wandb", "disabled", "--data.num-workers", "0")
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "runs/smoke/mae/encoder/encoder.json").is_file()
    config = (tmp_path / "runs/smoke/mae/config.yaml").read_text()
    assert "max_steps: 6" in config
    assert "base" not in config, "the run's own configuration is whole"

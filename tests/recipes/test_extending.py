"""The example package of docs/extending.md, used as its reader would use a package of his own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "my_package"
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
QUICK = ["--run.wandb", "disabled", "--data.num_workers", "0"]


def call(place: Path, *command: str, expect: int = 0, **environment: str) -> str:
    """Run Python in a folder that knows the package and the stages; returns what it printed."""
    path = os.pathsep.join([str(EXAMPLE), str(ROOT / "src"), str(ROOT)])
    known = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MEDPRETRAIN3D_PLUGINS": "", **environment}
    done = subprocess.run(
        [sys.executable, *command], cwd=place, env=known, capture_output=True, encoding="utf-8", timeout=300
    )
    assert done.returncode == expect, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


def commands(*calls: str) -> list[str]:
    """Several commands in one process, which is quicker; their exit codes come out one per line."""
    code = "from medpretrain3d.cli import main"
    return ["-c", "\n".join([code, *(f"print('exit code', main({one.split()}))" for one in calls)])]


def write_scans(raw: Path) -> None:
    for number in range(5):
        random = np.random.default_rng(number)
        image = random.normal(-800, 30, (24, 24, 24)).astype(np.int16)
        labels = np.zeros(image.shape, np.uint8)
        place = tuple(slice(start, start + 8) for start in random.integers(2, 14, 3).tolist())
        image[place], labels[place] = 100, 1
        for folder, array in (("ct", image), ("nodules", labels)):
            (raw / folder).mkdir(parents=True, exist_ok=True)
            affine = np.diag([-2.0, -2.0, 2.0, 1.0])
            nib.save(nib.Nifti1Image(array, affine), raw / folder / f"scan{number}.nii.gz")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a prepared store, a pretrained encoder and a fine-tuned bundle, all of the example package."""
    place = tmp_path_factory.mktemp("extending")
    write_scans(place / "raw")
    told = call(place, *commands("datasets --plugins my_package", "prepare --plugins my_package raw data/my_scans"))
    assert "plugin my_package 0.1.0" in told
    assert "layout my_scans" in told
    call(place, "-m", "pretrain", "fit", "--config", str(EXAMPLE / "pretrain.yaml"), *QUICK)
    encoder = "runs/my_scans/denoising/encoder"
    call(
        *(place, "-m", "finetune", "fit", "--config", str(EXAMPLE / "finetune.yaml"), "--model.init_from", encoder),
        *("--model.inference.score_threshold", "0.0", *QUICK),
    )
    return place


@pytest.mark.slow
def test_files_name_the_package_and_its_version(place):
    ours = {"module": "my_package", "distribution": "my_package", "version": "0.1.0"}
    runs = place / "runs" / "my_scans"
    encoder = json.loads((runs / "denoising" / "encoder" / "encoder.json").read_text())
    assert encoder["plugins"] == encoder["pretraining"]["plugins"] == [ours]
    assert json.loads((runs / "center_net" / "bundle" / "bundle.json").read_text())["plugins"] == [ours]
    for run in ("denoising", "center_net"):
        assert "plugins:\n- my_package\n" in (runs / run / "config.yaml").read_text()


@pytest.mark.slow
def test_without_the_package_one_line_says_what_to_name(place):
    bundle, encoder = "runs/my_scans/center_net/bundle", "runs/my_scans/denoising"
    told = call(
        place,
        *commands(
            f"predict {bundle} raw/ct -o without",
            f"export {encoder} -o without_export",
            f"inspect {encoder}/checkpoints/last.ckpt",
            f"predict --plugins nowhere {bundle} raw/ct -o without",
        ),
    )
    assert told.count("exit code 2") == 4
    assert told.count("needs the plugin my_package 0.1.0, which is not loaded; give --plugins my_package") == 3
    assert "plugin nowhere: not found" in told
    assert "Traceback" not in told


@pytest.mark.slow
def test_with_the_package_it_predicts_writes_exports_and_reads(place):
    bundle, encoder = "runs/my_scans/center_net/bundle", "runs/my_scans/denoising/encoder"
    told = call(
        place,
        *commands(
            f"predict {bundle} raw/ct -o out --format json lines",
            f"export {encoder} -o lab --format my_lab",
            "inspect lab/my_lab.pt",
            "export lab/my_lab.pt -o again",
            "inspect runs/my_scans/denoising/checkpoints/last.ckpt",
        ),
        MEDPRETRAIN3D_PLUGINS="my_package",
    )
    assert told.count("exit code 0") == 5
    lines = (place / "out" / "predictions.txt").read_text().splitlines()
    found = json.loads((place / "out" / "predictions.json").read_text())
    assert len(lines) - 1 == sum(len(case["boxes"]) for case in found["predictions"]) > 0
    assert "checkpoint of my lab" in told
    weights = [(place / one / "encoder.safetensors").read_bytes() for one in (encoder, "again")]
    assert weights[0] == weights[1]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_what_no_file_could_name_is_refused_before_training(place, tmp_path, stage):
    recipe = (EXAMPLE / f"{stage}.yaml").read_text().replace("plugins: [my_package]\n", "")
    for name, module in (("PlainNet", "network"), ("Denoising", "objective"), ("CenterNet", "detector")):
        recipe = recipe.replace(f"class_path: {name}", f"class_path: my_package.{module}.{name}")
    (tmp_path / "recipe.yaml").write_text(recipe.replace("data/my_scans", str(place / "data" / "my_scans")))
    told = call(tmp_path, "-m", stage, "fit", "--config", "recipe.yaml", *QUICK, expect=2)
    assert "give --plugins my_package" in told
    assert "Traceback" not in told
    assert not (tmp_path / "runs").exists()


def test_the_page_names_what_is_there():
    for name in re.findall(r"^  (\S+\.(?:py|toml|yaml))", PAGE, re.M):
        assert (EXAMPLE / name).is_file(), name
    for path in sorted((EXAMPLE / "my_package").glob("*.py")):
        assert path.name in PAGE

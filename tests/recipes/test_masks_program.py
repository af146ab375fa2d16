"""Masks of FCOS through the real entry points: learnt with its boxes, predicted, and on the disk at the scan's grid."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from finetune import __main__ as program
from medpretrain3d import cli

FCOS_MASKS = [
    *("--config", "configs/finetune/phantom_fcos_masks.yaml", "--data.patch", "[16,16,16]", "--data.num_workers", "0"),
    *("--data.batch_size", "2", "--trainer.max_steps", "2", "--trainer.val_check_interval", "2"),
    *("--trainer.log_every_n_steps", "1"),
    *("--model.optim.warmup_steps", "1", "--run.wandb", "disabled", "--model.inference.score_threshold", "0.0"),
    *("--model.inference.max_per_class", "5"),
]


def test_masks_are_learnt_and_predicted(cube_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--data.store", str(cube_store), "--run.root", str(tmp_path), "--run.group", "g", "--run.name", "run"]
    program.main(["fit", *FCOS_MASKS, *place])
    curves = (tmp_path / "g" / "run" / "metrics.csv").read_text(encoding="utf-8").splitlines()[0]
    assert "mask_dice" in curves
    out = tmp_path / "out"
    scans = [str(tmp_path / "g" / "run" / "bundle"), str(cube_store), "--split", "test", "-o", str(out)]
    assert cli.main(["predict", *scans, "--format", "json", "masks"]) == 0
    capsys.readouterr()
    predictions = json.loads((out / "predictions.json").read_text(encoding="utf-8"))["predictions"]
    assert len(predictions) == 2
    num_masks = 0
    for one in predictions:
        instances = nibabel.Nifti1Image.from_filename(out / "masks" / f"{one['case']}.nii.gz").get_fdata().astype(int)
        assert instances.shape == tuple(one["grid"]["shape"])
        assert instances.max() <= len(one["boxes_vox"])
        for number in np.unique(instances[instances > 0]):
            middles, box = np.argwhere(instances == number) + 0.5, np.array(one["boxes_vox"][number - 1])
            assert (middles >= box[:3] - 1e-3).all()
            assert (middles <= box[3:] + 1e-3).all()
            num_masks += 1
    assert num_masks > 0

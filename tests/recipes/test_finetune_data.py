"""What the data of a fine-tuning run say before it begins."""

from __future__ import annotations

import shutil

import pytest

from finetune.datamodule import FinetuneData
from medpretrain3d import cli


@pytest.mark.parametrize(
    ("patch", "told"),
    [
        ((16, 16, 16), None),  # cubes have edges of 8
        ((16, 12, 16), "4 of 4 training objects (100%) are longer than half of the patch of 16 x 12 x 16 voxels"),
        ((4, 12, 16), "4 (100%) are longer than all of it and never seen whole: 4 along D (longest 8); take a larger"),
    ],
)
def test_objects_too_long_for_the_patch_are_said(cube_store, capsys, patch, told):
    FinetuneData(str(cube_store), patch, 1)
    printed = capsys.readouterr().out
    assert told in printed if told else "longer than" not in printed


def test_the_first_fold_is_another_fact_than_no_fold(cube_store, tmp_path):
    store = shutil.copytree(cube_store, tmp_path / "store")
    assert cli.main(["split", str(store), "--folds", "2"]) == 0
    folds = [FinetuneData(str(store), (16, 16, 16), 1, fold=fold).metadata().fold for fold in (None, 0, 1)]
    assert folds == [None, 0, 1]

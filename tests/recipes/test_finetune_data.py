"""What the data of a fine-tuning run say before it begins."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
import torch

from finetune.board import table_csv
from finetune.datamodule import FinetuneData
from medpretrain3d import cli
from medpretrain3d.engine.results_board import Table
from pretrain.datamodule import PretrainData

from .conftest import write_cubes


def on_process(data, rank, world_size, limit):
    """Give a data module the trainer of one of several processes."""
    data.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        limit_val_batches=limit,
        **{"max_steps": 9, "global_step": 0, "accumulate_grad_batches": 1},
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    return data


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


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 9, 1.0])
def test_a_limited_validation_looks_at_the_same_cases_on_any_number_of_processes(tmp_path, limit):
    store = write_cubes(tmp_path / "store", {"train": 1, "val": 4})
    data = FinetuneData(str(store), (16, 16, 16), 1)
    for world_size in (1, 2, 3):
        seen = []
        for rank in range(world_size):
            turns = on_process(data, rank, world_size, limit).val_dataloader()
            assert isinstance(limit, float) or len(turns) <= limit  # or Lightning would leave out the rest
            seen += [case.id for case in turns if case is not None]
        assert sorted(seen) == [f"val_{number}" for number in range(4 if isinstance(limit, float) else min(limit, 4))]


@pytest.mark.parametrize(("limit", "num_crops"), [(0, 0), (2, 2), (4, 4), (1.0, 4)])
def test_a_limited_validation_of_pretraining_takes_the_same_crops_on_any_number_of_processes(
    cube_store, limit, num_crops
):
    data = PretrainData(str(cube_store), (16, 16, 16), 1, num_val_cases=4, split="all")
    for world_size in (1, 2):
        loaders = [on_process(data, rank, world_size, limit).val_dataloader() for rank in range(world_size)]
        positions = sorted(one for loader in loaders if loader for batch in loader.batch_sampler for one in batch)
        assert positions == list(range(num_crops))


def test_no_name_in_the_tables_of_a_test_is_a_formula():
    keys = Table(("dashboard",), [["1a2b"], ["3c4d"]])
    cases = Table(("case", "score"), [["=1+1", -0.5], ["-scan", None]])
    assert table_csv([keys, cases]) == "dashboard,case,score\n1a2b,'=1+1,-0.5\n3c4d,'-scan,\n"

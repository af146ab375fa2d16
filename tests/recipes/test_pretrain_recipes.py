"""Every recipe of stage 1 that trains on a CPU, through its real entry point, with its own options but in miniature."""

from __future__ import annotations

import csv
import json
import math

import pytest
import torch

from medpretrain3d.backbones import ResEnc, read_encoder, save_encoder
from medpretrain3d.store.store import Store
from pretrain import __main__ as program

from .conftest import ROOT

FOLDER = ROOT / "configs" / "pretrain"
RECIPES = sorted(path.stem for pattern in ("openkbp*.yaml", "phantom*.yaml") for path in FOLDER.glob(pattern))
MINIATURE = [
    *("--data.patch", "[16,16,16]", "--data.batch_size", "2", "--data.num_workers", "0", "--data.num_val_cases", "2"),
    *("--model.optim.warmup_steps", "1"),
    *("--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--trainer.log_every_n_steps", "1"),
    *("--run.wandb", "disabled", "--run.name", "run"),
]


def encoder_for(recipe, folder):
    """An encoder for the recipe that keeps one as it is."""
    if recipe != "openkbp_detector_embedding":
        return "null"
    save_encoder(folder / "before", ResEnc("XXS"), {})
    return str(folder / "before")


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_steps_draws_and_ends_with_its_encoder(recipe, cube_store, tmp_path):
    stores = json.dumps([str(cube_store)] * (2 if recipe == "openkbp_multitalent" else 1))
    probes = [{"class_path": "pretrain.probes.Probes", "init_args": {"store": str(cube_store), "num_crops": 4}}]
    place = ["--data.store", stores, "--run.root", str(tmp_path), "--trainer.callbacks", json.dumps(probes)]
    if recipe == "phantom_classification":
        table = tmp_path / "cases.csv"
        labels = [f"{case},{'even' if int(case[-1]) % 2 == 0 else 'odd'}\n" for case in Store(cube_store).case_ids]
        table.write_text("case,label\n" + "".join(labels))
        place += ["--data.views.init_args.table", str(table)]
    task = "--model.objective.init_args"
    if "detector" in recipe:  # which holds the backbone; the cubes are of one kind
        task += ".detector.init_args"
        place += [f"{task}.num_classes", "1", "--model.init_from", encoder_for(recipe, tmp_path)]
    small = [f"{task}.backbone.init_args.preset", "XXS"]
    if recipe == "openkbp_dinov2":  # a transformer without presets, and crops of two sizes
        sizes = {"width": 48, "depth": 2, "heads": 2}
        small = [text for name, size in sizes.items() for text in (f"{task}.backbone.init_args.{name}", str(size))]
        small += ["--data.views.init_args.local_patch", "[8,8,8]"]
    if recipe == "phantom_multitalent_batch_norm":  # small as it is
        small = []
    program.main(["fit", "--config", str(FOLDER / f"{recipe}.yaml"), *MINIATURE, *small, *place])
    (folder,) = tmp_path.glob("*/run")
    encoder = read_encoder(folder / "encoder")
    of_checkpoint = read_encoder(folder / "checkpoints" / "last.ckpt")
    assert encoder.weights.keys() == of_checkpoint.weights.keys()
    assert all(torch.equal(of_checkpoint.weights[name], value) for name, value in encoder.weights.items())
    card = encoder.card["pretraining"]
    assert card["steps"] == 2
    assert card["objective"]["class_path"].startswith("medpretrain3d.objectives.")
    assert (folder / "previews" / "step_0000002.png").stat().st_size > 0
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for curve in ("train/loss", "val/loss", "probe/effective_rank", "probe/knn"):
        assert math.isfinite(float(rows[-1][curve])), curve

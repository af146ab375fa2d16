"""Results of a cross-validation that the tests write: bright cubes are objects, dark ones look like them to no one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medpretrain3d.backbones import ResEnc, save_encoder
from medpretrain3d.boxes import Detections
from medpretrain3d.detection import FCOS
from medpretrain3d.inference import InferenceConfig, Prediction, predictions_json, save_bundle, save_ensemble
from medpretrain3d.store import Grid, Preprocessing
from medpretrain3d.store.case import CaseData, Instance
from medpretrain3d.store.store import Store, write_case, write_index

SHAPE = (24, 24, 24)
NUM_CASES = 6
IDS = [f"c{number}" for number in range(NUM_CASES)]
GRID = Grid(SHAPE, np.diag([2.0, 2, 2, 1]))
BRIGHT = (3.0, 4.0, 4.0, 8.0, 9.0, 9.0)
DARK = (14.0, 13.0, 13.0, 19.0, 18.0, 18.0)
FOLDS = [{"train": tuple(IDS[k ^ 1 :: 2]), "val": tuple(IDS[k::2])} for k in range(2)]


def write_store(folder: Path) -> Store:
    """Six cases in two folds, each with a bright cube, which is an object, and a dark one."""
    random, rows = np.random.default_rng(0), []
    for number, name in enumerate(IDS):
        image = random.integers(-60, 60, (1, *SHAPE)).astype(np.int16)
        for box, value in ((BRIGHT, 400), (DARK, -400)):
            d0, h0, w0, d1, h1, w1 = map(int, box)
            image[0, d0:d1, h0:h1, w0:w1] += value
        one = CaseData(name, image, GRID, GRID, f"{name}.nii.gz", [Instance(0, 0, BRIGHT)], voxels=f"{number:064x}")
        rows.append(write_case(folder, one))
    write_index(folder, ["lesion"], None, rows, {"train": IDS}, folds=FOLDS)
    return Store(folder)


def write_result(
    folder: Path, detectors: list[dict[str, Any]] | None = None, spacing_mm: tuple[float, float, float] | None = None
) -> Path:
    """What cross-validate leaves: both cubes of every case, the dark one with the higher score, and an ensemble."""
    predictions = []
    for number, name in enumerate(IDS):
        scores = torch.tensor([0.6 + number / 100, 0.5 + number / 100])
        found = Detections(torch.tensor([DARK, BRIGHT]), scores, torch.zeros(2, dtype=torch.long))
        predictions.append(Prediction.of(name, found, GRID, GRID))
    document = predictions_json(["lesion"], predictions)
    stated = [{"fold": k, "cases": fold["val"], "train_cases": fold["train"]} for k, fold in enumerate(FOLDS)]
    folder.mkdir()
    (folder / "predictions.json").write_text(json.dumps({**document, "detectors": detectors or stated}))
    members = {}
    for k in range(2):
        torch.manual_seed(k)
        detector = FCOS(ResEnc("XXS"), num_classes=1, fpn_channels=16, head_convs=1)
        members[f"fold_{k}"] = folder / f"bundle_{k}"
        save_bundle(members[f"fold_{k}"], detector, ["lesion"], Preprocessing(patch=SHAPE, spacing_mm=spacing_mm))
    config = InferenceConfig(score_threshold=0.0, max_per_class=5)
    save_ensemble(folder / "ensemble", members, config, {})
    return folder


def write_encoder(folder: Path, card: dict[str, Any] | None = None) -> Path:
    """The smallest encoder, with random weights."""
    torch.manual_seed(0)
    save_encoder(folder, ResEnc("XXS"), card=card or {})
    return folder

"""Runs of all folds that the tests write: what their detectors saw, and no training."""

from __future__ import annotations

import numpy as np
import torch
import yaml

from medpretrain3d.backbones import ResEnc
from medpretrain3d.boxes import Detections
from medpretrain3d.detection import FCOS
from medpretrain3d.inference import InferenceConfig, RawDetections, save_bundle
from medpretrain3d.inference.cached_detections import CachedCase, CachedDetections
from medpretrain3d.run_metadata import RUN_DOCUMENT, RunMetadata
from medpretrain3d.store import Grid, Preprocessing
from medpretrain3d.store.case import CaseData, Instance
from medpretrain3d.store.store import Store, write_case, write_index

NUM_FOLDS, NUM_CASES = 3, 9
SHAPE = (24, 24, 24)
FOLDS = [
    {
        "train": [f"c{n}" for n in range(NUM_CASES) if n % NUM_FOLDS != k],
        "val": [f"c{n}" for n in range(k, NUM_CASES, NUM_FOLDS)],
    }
    for k in range(NUM_FOLDS)
]


def box(number):
    d = 2.0 + number
    return (d, 4.0, 4.0, d + 4, 8.0, 8.0)


def write_store(folder):
    """Nine cases of one object, in voxels of 2 mm, in three folds."""
    grid, rows = Grid(SHAPE, np.diag([2.0, 2, 2, 1])), []
    for number in range(NUM_CASES):
        image = np.full((1, *SHAPE), number, np.int16)
        one = CaseData(f"c{number}", image, grid, grid, f"c{number}.nii.gz", [Instance(0, 0, box(number))])
        rows.append(write_case(folder, one))
    write_index(folder, ["nodule"], None, rows, {"train": [row["id"] for row in rows]}, folds=FOLDS)
    return Store(folder)


def seen_in(case, extra=()):
    """What a detector saw: the object with score 0.9, and boxes with scores of their own."""
    boxes, scores = [case.boxes[0].tolist(), *(list(one) for one, _ in extra)], [0.9, *(score for _, score in extra)]
    found = Detections(torch.tensor(boxes), torch.tensor(scores), torch.zeros(len(boxes), dtype=torch.long))
    return CachedCase.of(case, RawDetections.in_tile(found, (0, 0, 0), SHAPE, SHAPE))


def write_run(folder, store, fold, extra=(), config=None, **facts):
    metadata = RunMetadata(
        stage="finetune", name=folder.name, group="cv", fold=fold, finished=True, dataset="store", steps=8,
        data_fingerprint=store.fingerprint, method="scratch", paradigm="scratch", num_val_cases_seen=0,
        global_batch_size=4,
    )  # fmt: skip
    folder.mkdir(parents=True)
    RUN_DOCUMENT.write(folder / "run.json", (metadata | RunMetadata(**facts)).to_json())
    document = {"seed_everything": fold, "data": {"store": str(store.path), "fold": fold, "patch": [24, 24, 24]}}
    (folder / "config.yaml").write_text(yaml.safe_dump({**document, **(config or {})}))
    cases = tuple(seen_in(store.case(case_id), extra) for case_id in FOLDS[fold]["val"])
    CachedDetections(("nodule",), InferenceConfig(), cases).save(folder / "validation" / "sightings.safetensors")
    torch.manual_seed(fold)
    detector = FCOS(ResEnc("XXS"), num_classes=1, fpn_channels=16, head_convs=1)
    save_bundle(folder / "bundle", detector, ["nodule"], Preprocessing(patch=SHAPE))
    return folder

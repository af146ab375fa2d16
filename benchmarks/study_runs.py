"""Run folders of a study that never ran: what `medpretrain3d report` reads, of any size, in a minute or two.

    python -m benchmarks.study_runs runs/synthetic --runs 240

Detections are simulated and scored by `evaluate`, as a fine-tuning run does it. 240 runs are four ways to begin on
three data sets: one with four budgets of labels, one with five folds, one with two detectors.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from medpretrain3d.atomic import write_text
from medpretrain3d.documents import json_text
from medpretrain3d.evaluation import PredictedCase, TargetCase, evaluate
from medpretrain3d.evaluation.size_strata import DIAMETERS_MM
from medpretrain3d.run_metadata import RUN_DOCUMENT, RunMetadata
from medpretrain3d.store.grid import Grid
from medpretrain3d.visualization.slice_stack import SliceStack, slice_stack, write_slices

GRID = Grid((32, 96, 96), np.array([[0, 0, 3.0, -140], [0, 3.0, 0, -150], [5.0, 0, 0, -400], [0, 0, 0, 1]]))
NUM_STEPS, VALIDATE_EVERY = 2000, 200
ARMS = {"scratch": ("scratch", 0.0), "mae": ("reconstruction", 0.5), "simclr": ("contrastive", 0.05)} | {
    "multitalent": ("supervised", 0.9)
}
"""Paradigm of each method, and by how much it raises the skill of a detector."""


@dataclass(frozen=True)
class DataSet:
    """One data set of the study: classes, test scans (of each fold), budgets of labels, and what is run on it."""

    name: str
    classes: tuple[str, ...]
    num_cases: int
    budgets: tuple[int, ...]
    num_seeds: int
    detectors: tuple[str, ...] = ("RetinaUNet",)
    num_folds: int = 1

    def cases(self, fold: int) -> list[TargetCase]:
        """Return the objects of the test scans of a fold."""
        return [self._case(fold * self.num_cases + place) for place in range(self.num_cases)]

    def _case(self, number: int) -> TargetCase:
        generator = np.random.default_rng([len(self.name), number])
        count = max(int(generator.poisson(1.8)), int(number % 5 != 0))  # every fifth scan may hold none
        size = np.exp(generator.normal(2.3, 0.6, (count, 1))).clip(5, 60) * generator.uniform(0.8, 1.2, (count, 3))
        size = np.maximum(size / GRID.spacing_mm, 1.0)
        corner = generator.uniform(0.15, 0.8, (count, 3)) * (np.array(GRID.shape) - size)
        boxes_vox = np.concatenate([corner, corner + size], axis=1)
        labels = generator.integers(0, len(self.classes), count)
        boxes = GRID.boxes_to_lps_mm(boxes_vox)
        return TargetCase(f"{self.name}_{number:03d}", boxes, labels, None, GRID, boxes_vox)


DATA = (
    DataSet("nodules", ("nodule",), 40, (8, 32, 128, 512), 5),
    DataSet("lymph_nodes", ("hilar", "mediastinal", "axillary"), 12, (16, 64), 2, num_folds=5),
    DataSet("liver", ("cyst", "metastasis"), 30, (20, 80), 5, ("RetinaUNet", "FCOS")),
)


@dataclass(frozen=True)
class FinetuneRun:
    """One run of fine-tuning: where it stands in the design."""

    data: DataSet
    arm: str
    detector: str
    labels: int
    seed: int
    fold: int

    @property
    def name(self) -> str:
        """Of its folder."""
        words = [self.arm, self.data.name, self.detector.lower(), f"labels{self.labels}", f"seed{self.seed}"]
        return "-".join([*words, *([f"fold{self.fold}"] if self.data.num_folds > 1 else [])])

    @cached_property
    def generator(self) -> np.random.Generator:
        """Return the source of all that is by chance in this run."""
        return np.random.default_rng(list(hashlib.sha256(self.name.encode()).digest()[:8]))

    @cached_property
    def skill(self) -> float:
        """How good its network is; arms and budgets of one seed share what the seed brings."""
        of_labels = 0.35 * np.log2(self.labels / self.data.budgets[-1])
        gain = ARMS[self.arm][1] * (1.0 - 0.1 * of_labels)  # pretraining is worth more where labels are few
        of_detector = -0.2 if self.detector == "FCOS" else 0.0
        shared = np.random.default_rng([7, self.seed, len(self.data.name)]).normal(0, 0.15)
        return float(0.6 + of_labels + gain + of_detector + shared + self.generator.normal(0, 0.1))

    def found(self, wanted: TargetCase) -> PredictedCase:
        """Return what is found in a scan: hits, badly placed boxes, other classes, duplicates, false alarms."""
        draw, num_classes = self.generator, len(self.data.classes)
        assert wanted.boxes_vox is not None
        ease = np.random.default_rng([int(wanted.case[-3:]), 3]).normal(0, 0.8, len(wanted.labels))
        size = wanted.boxes_vox[:, 3:] - wanted.boxes_vox[:, :3]
        strength = self.skill + ease + 0.4 * np.log(size.mean(axis=1) / 4) + draw.normal(0, 0.6, len(ease))
        is_seen = strength > -0.4
        again = is_seen & (draw.random(len(ease)) < 0.15)
        rows = np.concatenate([np.nonzero(is_seen)[0], np.nonzero(again)[0]])
        spread = 0.28 * np.exp(-0.45 * strength[rows, None])
        corners = wanted.boxes_vox[rows] + np.tile(size[rows], 2) * spread * draw.normal(0, 1, (len(rows), 6))
        labels = wanted.labels[rows]
        is_confused = draw.random(len(rows)) < 0.1
        labels = np.where(is_confused, draw.integers(0, num_classes, len(rows)), labels)
        scores = 1 / (1 + np.exp(-(strength[rows] + draw.normal(0, 0.5, len(rows)))))
        num_false = int(draw.poisson(6 * np.exp(-0.4 * self.skill)))
        corner = draw.uniform(0, 0.85, (num_false, 3)) * GRID.shape
        corners = np.concatenate([corners, np.concatenate([corner, corner + draw.uniform(1.5, 8, corner.shape)], 1)])
        boxes_vox = np.concatenate([corners.reshape(-1, 2, 3).min(axis=1), corners.reshape(-1, 2, 3).max(axis=1)], 1)
        boxes_vox[:, 3:] = np.maximum(boxes_vox[:, 3:], boxes_vox[:, :3] + 0.5)
        scores = np.concatenate([scores, 1 / (1 + np.exp(-draw.normal(-1.2, 0.9, num_false)))])
        labels = np.concatenate([labels, draw.integers(0, num_classes, num_false)])
        order = np.argsort(-scores)
        found = boxes_vox[order]
        boxes = GRID.boxes_to_lps_mm(found)
        return PredictedCase(wanted.case, boxes, scores[order], labels[order], GRID, found)


def design(num_runs: int) -> list[FinetuneRun]:
    """Return the first runs of the design: 2 are two arms once, 20 two arms of five seeds with two budgets, 240 all."""
    if num_runs == 2:
        first = DATA[0]
        return [FinetuneRun(first, arm, "RetinaUNet", first.budgets[-1], 0, 0) for arm in ("scratch", "mae")]
    if num_runs == 20:
        runs = [one for one in _all() if one.data is DATA[0] and one.arm in ("scratch", "mae")]
        return [one for one in runs if one.labels in DATA[0].budgets[1::2]]
    runs = list(_all())
    if num_runs != len(runs):
        raise ValueError(f"{num_runs} runs; there are designs of 2, 20 and {len(runs)}")
    return runs


def _all() -> Iterator[FinetuneRun]:
    for data in DATA:
        for arm in ARMS:
            for detector in data.detectors:
                for labels in data.budgets:
                    for seed in range(data.num_seeds):
                        for fold in range(data.num_folds):
                            yield FinetuneRun(data, arm, detector, labels, seed, fold)


def write_runs(root: Path, runs: Sequence[FinetuneRun]) -> None:
    """Write the folders of the runs, and of the pretraining that they began from, below `root`/synthetic."""
    folder = root / "synthetic"
    for arm in dict.fromkeys(one.arm for one in runs if one.arm != "scratch"):
        _write_pretraining(folder / f"encoder-{arm}", arm)
    stacks: dict[str, SliceStack] = {}
    for one in runs:
        _write_finetuning(folder / one.name, one, stacks)


def _write_pretraining(folder: Path, arm: str) -> None:
    generator = np.random.default_rng(len(arm))
    known = RunMetadata(
        **_shared(folder, arm, generator, 40.0), stage="pretrain", params=20_000_000, seed=0, compute_hours=64.0
    )
    _write_run(folder, known, {"objective": {"class_path": arm}}, generator, "val/loss")
    for step in (NUM_STEPS // 2, NUM_STEPS):
        (folder / "previews").mkdir(exist_ok=True)
        pixels = np.broadcast_to(np.linspace(0, 255, 288).astype(np.uint8)[None, :, None], (96, 288, 3))
        Image.fromarray(pixels).save(folder / "previews" / f"step_{step:07d}.png")


def _write_finetuning(folder: Path, run: FinetuneRun, stacks: dict[str, SliceStack]) -> None:
    wanted = run.data.cases(run.fold)
    found = [run.found(one) for one in wanted]
    known = RunMetadata(
        **_shared(folder, run.arm, run.generator, 1.5),
        stage="finetune",
        seed=run.seed,
        detector=run.detector,
        params=24_000_000,
        dataset=run.data.name,
        fold=run.fold if run.data.num_folds > 1 else None,
        num_train_cases=run.labels,
        label_fraction=run.labels / run.data.budgets[-1],
        num_test_cases=len(wanted),
        data_fingerprint=hashlib.sha256(run.data.name.encode()).hexdigest(),
        pretrain_run=None if run.arm == "scratch" else f"synthetic/encoder-{run.arm}",
        compute_hours=1.5,
    )
    detector = {"class_path": run.detector, "init_args": {f"option_{i}": i for i in range(60)}}
    _write_run(folder, known, {"detector": detector}, run.generator, "val/mAP")
    test, names = folder / "test", list(run.data.classes)
    head = {"classes": names, "frame": "lps_mm", "axes": "x0,y0,z0,x1,y1,z1"}
    entries = [_entry(one) | {"scores": one.scores.round(6).tolist()} for one in found]
    write_text(test / "predictions.json", json_text(head | {"predictions": entries}))
    write_text(test / "targets.json", json_text(head | {"targets": [_entry(one) for one in wanted]}))
    metrics = evaluate(found, wanted, names, size_edges_mm=DIAMETERS_MM)
    write_text(test / "metrics.json", json_text(metrics, indent=1))
    for one in wanted:
        if one.case not in stacks:
            stacks[one.case] = _stack(one)
    write_slices(test / "slices", {one.case: stacks[one.case] for one in wanted})


def _shared(folder: Path, arm: str, generator: np.random.Generator, hours: float) -> dict[str, Any]:
    return {
        "name": folder.name,
        "group": "synthetic",
        "finished": True,
        "paradigm": ARMS[arm][0],
        "method": arm,
        "backbone": "ResEnc-M",
        "corpus": None if arm == "scratch" else "ct_corpus",
        "num_pretrain_volumes": None if arm == "scratch" else 5000,
        "checkpoint_sha256": None if arm == "scratch" else hashlib.sha256(arm.encode()).hexdigest(),
        "budget_steps": NUM_STEPS,
        "steps": NUM_STEPS,
        "minutes": round(60 * hours * float(generator.uniform(0.9, 1.1)), 2),
        "compute_device": "NVIDIA A100",
        "flop": int(3e15 * hours),
        "machine": "16 cores, 1 x NVIDIA A100",
        "git_sha": "0123456789ab",
    }


def _write_run(
    folder: Path, known: RunMetadata, model: dict[str, Any], generator: np.random.Generator, validated: str
) -> None:
    RUN_DOCUMENT.write(folder / "run.json", known.known(), indent=1)
    trainer = {"max_steps": NUM_STEPS, "precision": "bf16-mixed", "gradient_clip_val": 12.0}
    data = {f"augmentation_{i}": {"probability": 0.1 * (i % 9), "low": 0.5, "high": 2.0} for i in range(24)}
    config = {"seed_everything": known.seed, "model": model, "data": data, "trainer": trainer}
    write_text(folder / "config.yaml", yaml.safe_dump(config))
    text = io.StringIO()
    columns = ("epoch", "step", "train/loss", "train/boxes", "lr", validated)
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for step in range(0, NUM_STEPS, 5):
        loss = 0.3 + np.exp(-step / 400) + generator.normal(0, 0.03)
        writer.writerow({"epoch": step // 250, "step": step, "train/loss": loss, "train/boxes": loss / 3, "lr": 1e-3})
        if step % VALIDATE_EVERY == VALIDATE_EVERY - 5:
            value = 0.6 * (1 - np.exp(-step / 600)) + generator.normal(0, 0.02)
            writer.writerow({"epoch": step // 250, "step": step, validated: value})
    write_text(folder / "metrics.csv", text.getvalue())


def _entry(one: PredictedCase | TargetCase) -> dict[str, Any]:
    assert one.boxes_vox is not None
    return {
        "case": one.case,
        "boxes": one.boxes.round(4).tolist(),
        "labels": one.labels.tolist(),
        "boxes_vox": one.boxes_vox.round(4).tolist(),
        "grid": GRID.to_json(),
    }


def _stack(case: TargetCase) -> SliceStack:
    """Return slices of a body with bright objects where the boxes are."""
    generator = np.random.default_rng(int(case.case[-3:]))
    assert case.boxes_vox is not None
    d, h, w = np.ogrid[[slice(size) for size in GRID.shape]]
    is_body = ((h - 48) / 42) ** 2 + ((w - 48) / 46) ** 2 < 1
    image = np.where(is_body, -0.3, -1.0) + generator.normal(0, 0.06, GRID.shape)
    for d0, h0, w0, d1, h1, w1 in case.boxes_vox:
        center = (d0 + d1) / 2 - 0.5, (h0 + h1) / 2 - 0.5, (w0 + w1) / 2 - 0.5
        radius = (d1 - d0) / 2, (h1 - h0) / 2, (w1 - w0) / 2
        inside = sum(((x - c) / r) ** 2 for x, c, r in zip((d, h, w), center, radius, strict=True)) < 1
        image[inside] += 0.5
    return slice_stack(image.astype(np.float32), GRID, case.boxes_vox)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of the runs")
    parser.add_argument("--runs", type=int, choices=(2, 20, 240), default=240)
    options = parser.parse_args()
    write_runs(options.root, design(options.runs))

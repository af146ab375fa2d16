"""Training and looking at the test cases: our program with a recipe, and MONAI's detector."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from torch import nn

from benchmarks.same_minutes.adapter import IMAGE, MonaiCases, to_prediction
from benchmarks.same_minutes.marks import NUM_MARKS, Mark, read_marks
from benchmarks.same_minutes.monai_detector import WHOLE_VOLUME_SCALE
from benchmarks.same_minutes.monai_training import MARKS, MonaiRun
from benchmarks.same_minutes.scoring import Score, look_at
from benchmarks.same_minutes.task import Task, zero_to_one
from finetune.datamodule import FinetuneData
from medpretrain3d.inference import Prediction, Predictor, load_bundle
from medpretrain3d.precision.names import Precision
from medpretrain3d.store.case import Case
from medpretrain3d.store.corpus import CaseRef

Detect = Callable[[Case], Prediction]
PRECISION: Precision = "32-true"


@dataclass(frozen=True)
class Outcome:
    """One run: its marks, what was scored at each, and the parameters of the network."""

    name: str
    seed: int
    marks: Sequence[Mark]
    scores: Sequence[Score]
    num_parameters: int

    def minutes_to(self, wanted: float) -> float | None:
        """Return minutes of the first mark with such an mAP; None where none has it."""
        return next((m.minutes for m, s in zip(self.marks, self.scores, strict=True) if s.map >= wanted), None)


def run_ours(task: Task, seed: int, steps: int, folder: Path) -> Outcome:
    """Train by the program, and look at the test cases with the bundle of each quarter.

    Raises:
        SystemExit: the program failed.
    """
    every = max(1, steps // NUM_MARKS)
    steps = every * NUM_MARKS
    folder.mkdir(parents=True, exist_ok=True)
    marks = folder / MARKS
    marks.unlink(missing_ok=True)
    noting = {
        "class_path": "benchmarks.same_minutes.quarter_marks.QuarterMarks",
        "init_args": {"file": str(marks), "every_n_steps": every},
    }
    overlay = folder / "overlay.yaml"
    overlay.write_text(
        yaml.safe_dump(
            {
                "seed_everything": seed,
                "run": {"root": str(folder), "group": "same", "name": "ours", "wandb": "disabled", "restart": True},
                "data": {**task.options(), "num_workers": 0},
                "trainer": {"precision": PRECISION, "callbacks+": [noting]},
            }
        )
    )
    words = ["--config", task.recipe, "--config", str(overlay), "--run.snapshot_every_steps", str(every)]
    words += ["--trainer.max_steps", str(steps), "--trainer.val_check_interval", str(steps)]
    _call("-m", "finetune", "fit", *words)
    data, scores, num_parameters = task.data(), [], 0
    for bundle in sorted((folder / "same" / "ours" / "snapshots").iterdir()):
        predictor = Predictor(load_bundle(bundle), device="cpu", precision=PRECISION)
        num_parameters = _num_parameters(predictor.bundles[0].detector)
        scores.append(look_at(our_detect(predictor), [ref.open() for ref in data.test_cases], data.store))
    return Outcome("ours", seed, read_marks(marks), scores, num_parameters)


def run_monai(
    name: str, run: MonaiRun, on: Callable[[FinetuneData], Sequence[CaseRef]], marks: Sequence[int]
) -> Outcome:
    """Train in a process of its own, and look at cases with the weights of some quarters.

    Args:
        name: of the row.
        run: the training.
        on: chooses the cases to look at.
        marks: counted from 1; those that a diverged run did not reach are left out.
    """
    (run.folder / MARKS).unlink(missing_ok=True)
    _call("-m", "benchmarks.same_minutes.monai_training", run.to_json())
    data = run.task.data()
    detector = run.detector(data).eval()
    reached = read_marks(run.folder / MARKS)
    marks = [mark for mark in marks if mark <= len(reached)]
    scores = []
    for mark in marks:
        detector.network.load_state_dict(torch.load(run.weights(mark), weights_only=True))
        scores.append(look_at(monai_detect(detector, data), [ref.open() for ref in on(data)], data.store))
    return Outcome(name, run.seed, [reached[mark - 1] for mark in marks], scores, _num_parameters(detector))


def our_detect(predictor: Predictor) -> Detect:
    """Return what finds boxes in a case with a bundle."""
    return lambda case: predictor.predict(case, case.id, case.source_file)


def monai_detect(detector: RetinaNetDetector, data: FinetuneData) -> Detect:
    """Return what finds boxes in a case as the tutorial does: in one piece, or in tiles where it is larger than those.

    Args:
        detector: set to evaluate.
        data: says crop and window of the training.
    """
    read = MonaiCases(zero_to_one(data.window))
    largest = math.prod(WHOLE_VOLUME_SCALE * edge for edge in data.patch)

    def detect(case: Case) -> Prediction:
        image = read.to_monai(case)[IMAGE]
        with torch.no_grad():
            return to_prediction(case, detector([image], use_inferer=image[0].numel() >= largest)[0])

    return detect


def _num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _call(*words: str) -> None:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    print(done.stderr if done.returncode else "", end="", file=sys.stderr)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(words[:3])} failed with {done.returncode}; its last lines are above")

"""Training of MONAI's detector for so many minutes of a core: `python -m benchmarks.same_minutes.monai_training JSON`.

SGD with Nesterov momentum as in the tutorial, whose 300 epochs are the whole of the minutes here: the learning rate
rises over the first 10 of them and is a tenth from the 150th on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.data import set_track_meta
from monai.utils import set_determinism
from torch import Tensor

from benchmarks.same_minutes.adapter import BOX, IMAGE, LABEL, MonaiCases
from benchmarks.same_minutes.marks import NUM_MARKS, Stopwatch, add_mark
from benchmarks.same_minutes.monai_crops import to_patch_size, training_crops
from benchmarks.same_minutes.monai_detector import NUM_LEVELS, MonaiOptions, build_detector
from benchmarks.same_minutes.task import Task, zero_to_one
from finetune.datamodule import FinetuneData

WARM_UP, DECAY = 10 / 300, 150 / 300
"""Shares of the run."""
MARKS = "marks.jsonl"


@dataclass(frozen=True)
class MonaiRun:
    """One training: what is learned, how, from which seed, and for how long.

    `folder` receives the marks and, at each of them, the weights.
    """

    task: Task
    options: MonaiOptions
    seed: int
    minutes: float
    folder: Path

    def to_json(self) -> str:
        """Return it as the argument of the program."""
        return json.dumps({**asdict(self), "folder": str(self.folder)})

    @staticmethod
    def from_json(text: str) -> MonaiRun:
        """Invert `to_json`."""
        told = json.loads(text)
        parts = {"task": Task(**told["task"]), "options": MonaiOptions(**told["options"])}
        return MonaiRun(**{**told, **parts, "folder": Path(told["folder"])})

    def weights(self, mark: int) -> Path:
        """Return the file of the weights at a mark, counted from 1."""
        return self.folder / f"weights_{mark}.pt"

    def detector(self, data: FinetuneData) -> RetinaNetDetector:
        """Return the detector with random weights."""
        num_channels = data.train_cases[0].open().num_channels
        stride, width = self.options.finest_stride, self.options.width
        sizes = self.task.anchor_sizes(data.train_cases, NUM_LEVELS, stride)
        return build_detector(num_channels, len(data.classes), sizes, stride, data.patch, width)


def lr_factor(share: float) -> float:
    """Return the learning rate in peak rates after a share of the run."""
    return 0.1 if share >= DECAY else min(1.0, share / WARM_UP)


def training_batches(run: MonaiRun, data: FinetuneData) -> Iterator[list[dict[str, Tensor]]]:
    """Yield augmented crops of one training case after the other, in an order drawn anew each time all were seen.

    The cases are kept in memory.
    """
    read, pad = MonaiCases(zero_to_one(data.window)), to_patch_size(data.patch)
    cases = [pad(read.to_monai(ref.open())) for ref in data.train_cases]
    crops = training_crops(data.patch, run.options.crops, run.task.mirror_axes)
    crops.set_random_state(run.seed)
    generator = torch.Generator().manual_seed(run.seed)
    while True:
        for place in torch.randperm(len(cases), generator=generator).tolist():
            yield crops(cases[place])


def losses(detector: RetinaNetDetector, batch: list[dict[str, Tensor]]) -> Tensor:
    """Return the sum of the losses of classes and boxes, of equal weight as in the tutorial."""
    targets = [{BOX: crop[BOX].float(), LABEL: crop[LABEL].long()} for crop in batch]
    found = detector([crop[IMAGE].float() for crop in batch], targets)
    total: Tensor = found[detector.cls_key] + found[detector.box_reg_key]
    return total


def train(run: MonaiRun) -> None:
    """Train until the minutes are over, with marks and weights at their quarters.

    A loss that is no number ends the run at the mark before: MONAI raises ValueError.
    """
    set_determinism(run.seed)
    set_track_meta(False)
    data = run.task.data()
    batches = training_batches(run, data)
    detector = run.detector(data).train()
    optimizer = torch.optim.SGD(
        detector.network.parameters(), run.options.lr, momentum=0.9, weight_decay=3e-5, nesterov=True
    )
    run.folder.mkdir(parents=True, exist_ok=True)
    watch, step, num_marks = Stopwatch(), 0, 0
    while num_marks < NUM_MARKS:
        optimizer.param_groups[0]["lr"] = run.options.lr * lr_factor(watch.minutes / run.minutes)
        optimizer.zero_grad()
        try:
            losses(detector, next(batches)).backward()
        except ValueError as error:
            print(f"step {step}: {error}", file=sys.stderr)
            return
        optimizer.step()
        step += 1
        if watch.minutes >= (num_marks + 1) * run.minutes / NUM_MARKS:
            num_marks += 1
            torch.save(detector.network.state_dict(), run.weights(num_marks))
            add_mark(run.folder / MARKS, watch.mark(step))


if __name__ == "__main__":
    train(MonaiRun.from_json(sys.argv[1]))

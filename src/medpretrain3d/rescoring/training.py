"""Training of a second stage: what cubes about a candidate say beyond the score that it has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from medpretrain3d.boxes import box_center
from medpretrain3d.engine.optimizer import OptimConfig, configure
from medpretrain3d.errors import UserError
from medpretrain3d.inference.candidate_cubes import candidate_cubes
from medpretrain3d.inference.read_ahead import ReadAhead
from medpretrain3d.inference.rescorer import Rescorer, log_odds
from medpretrain3d.inference.scan import ScanTiles
from medpretrain3d.loading.batches import generator_at
from medpretrain3d.loading.crops import draw_seed
from medpretrain3d.randomness import sample_seeds
from medpretrain3d.rescoring.candidates import CandidateSet
from medpretrain3d.store.left_right import left_right_pairs
from medpretrain3d.values import Count, Positive, Rows, Whole, check_fields

BATCHES_AHEAD = 2
LARGEST_SHIFT = 0.1
"""Of a cube's center in training, in parts of the smallest cube's edge."""
AVERAGE = 0.995
"""Decay of the moving average of the weights that is kept; that of the first steps is lower, (1 + n) / (10 + n)."""
HEAD_LR_SCALE = 10.0
"""On the learning rate of the linear layer, which begins at 0 while the encoder is pretrained."""


@dataclass(frozen=True)
class RescorerTraining:
    """How a second stage is trained: AdamW with a ramp over a tenth of the steps and a cosine.

    Half of every batch are hits, half false positives. What a candidate's score says already is an offset of its
    logit, and so is the share in which the halves were drawn (King and Zeng, 2001), so that the sum is the candidate's
    log-odds and the network learns the rest alone.
    """

    num_steps: Count = 1000
    batch_size: Rows = 16
    lr: Positive = 3e-4
    seed: Whole = 0

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def optim(self) -> OptimConfig:
        """The optimizer and its schedule."""
        return OptimConfig(
            name="adamw",
            lr=self.lr,
            weight_decay=1e-2,
            schedule="cosine",
            warmup_steps=self.num_steps // 10,
            fresh_lr_scale=HEAD_LR_SCALE,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class _Sample:
    """A candidate of a training case."""

    case: str
    center_vox: np.ndarray
    """In voxels of the tiles."""
    score: float
    label: int


def train_rescorer(
    rescorer: Rescorer,
    candidates: CandidateSet,
    scans: Mapping[str, ScanTiles],
    classes: Sequence[str],
    training: RescorerTraining,
    device: torch.device,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> Rescorer:
    """Train a second stage on the candidates of some cases; return the moving average of its weights.

    Args:
        rescorer: with the encoder to begin with; it is trained in fp32.
        candidates: of the cross-validation.
        scans: the cases that are learned from, as the detector sees them.
        classes: names, which say whether left and right may be exchanged.
        training: how long, and with which rate.
        device: where it is trained.
        progress: told of every step and its loss.

    Raises:
        UserError: no hit or no false positive in these cases, or the loss is not finite.
    """
    hits, others = (_samples(candidates, scans, is_object) for is_object in (True, False))
    if not hits or not others:
        raise UserError(
            f"{len(hits)} hits and {len(others)} false positives among the candidates of {len(scans)} cases: a second "
            "stage learns from both; give predictions with a lower score_threshold, or do without it"
        )
    axes = (0, 1) if left_right_pairs(classes) else (0, 1, 2)
    offset = math.log(len(others) / len(hits))
    rescorer.to(device).train()
    parts = configure(rescorer, training.optim, training.num_steps)
    optimizer, schedule = parts["optimizer"], parts["lr_scheduler"]["scheduler"]
    average = AveragedModel(rescorer, avg_fn=_follow)

    def batches() -> Iterator[tuple[Tensor, Tensor, list[_Sample], Tensor]]:
        for step in range(training.num_steps):
            drawn = [_drawn(hits, others, training, step * training.batch_size + i) for i in range(training.batch_size)]
            cubes = torch.stack([_cubes(one, scans[one.case], rescorer, random, axes) for one, _, random in drawn])
            # The network sees every cube as a row.
            seeds = torch.tensor([draw_seed(random) for _, _, random in drawn for _ in rescorer.edges_mm])
            yield cubes, seeds, [one for one, _, _ in drawn], torch.tensor([is_hit for _, is_hit, _ in drawn])

    with closing(ReadAhead(batches(), BATCHES_AHEAD)) as read:
        for step, (cubes, seeds, samples, is_hit) in enumerate(read):
            labels = torch.tensor([one.label for one in samples], device=device)
            known = log_odds(torch.tensor([one.score for one in samples])).float() + offset
            with sample_seeds(seeds):  # of drop path and the like
                said = rescorer(cubes.to(device)).gather(1, labels[:, None])[:, 0]
            loss = F.binary_cross_entropy_with_logits(said + known.to(device), is_hit.float().to(device))
            if not math.isfinite(value := loss.item()):
                raise UserError(f"the loss of the second stage is {value} at step {step}; lower the learning rate")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(rescorer)
            progress(step, value)
    return cast(Rescorer, average.module).cpu().eval()


def _samples(candidates: CandidateSet, scans: Mapping[str, ScanTiles], is_object: bool) -> list[_Sample]:
    result = []
    for case, tiles in scans.items():
        found = candidates.found[case]
        centers = box_center(tiles.map_boxes(found.boxes.double().numpy()))
        for row in np.flatnonzero(candidates.is_sample[case] & (candidates.is_object[case] == is_object)):
            result.append(_Sample(case, centers[row], float(found.scores[row]), int(found.labels[row])))
    return result


def _drawn(
    hits: Sequence[_Sample], others: Sequence[_Sample], training: RescorerTraining, position: int
) -> tuple[_Sample, bool, np.random.Generator]:
    """Return the sample at a position of the run, whether it is a hit, and what else is drawn of it is drawn from."""
    random = generator_at(training.seed, position)
    is_hit = position % 2 == 0
    chosen = hits if is_hit else others
    return chosen[int(random.integers(len(chosen)))], is_hit, random


def _cubes(
    sample: _Sample, tiles: ScanTiles, rescorer: Rescorer, random: np.random.Generator, axes: Sequence[int]
) -> Tensor:
    """Return the cubes about a candidate, (S, C, e, e, e), shifted a little and mirrored."""
    shift_mm = (random.random(3) * 2 - 1) * LARGEST_SHIFT * min(rescorer.edges_mm)
    center_vox = sample.center_vox + shift_mm / np.array(tiles.spacing_mm)
    cubes = candidate_cubes(tiles, center_vox, rescorer.edges_mm, rescorer.edge_vox)
    mirrored = [axis + 2 for axis in axes if random.random() < 0.5]
    return cubes.flip(mirrored) if mirrored else cubes


def _follow(average: Tensor, weight: Tensor, num_averaged: Any) -> Tensor:
    count = int(num_averaged)
    decay = min(AVERAGE, (1 + count) / (10 + count))
    return average + (1 - decay) * (weight - average)

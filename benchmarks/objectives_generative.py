"""What the distortions of Models Genesis and the boxes of VolumeFusion cost, of their training step and beside a loop.

A row "of a training step" says how many times longer the whole step takes, forward and backward without the optimiser;
4 means a quarter of it. Every distortion is on, though the recipe shuffles only every other image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import Row, race
from medpretrain3d.backbones import ResEnc
from medpretrain3d.objectives import ModelsGenesis, Objective, VolumeFusion
from medpretrain3d.objectives.counter_rng import CounterRNG
from medpretrain3d.objectives.distortions import local_shuffle

PATCH = (96, 96, 96)
NUM_BLOCKS = 10_000
STEP = "whole step, ResEnc-S"


def rows() -> Iterator[Row]:
    image = torch.rand(1, *PATCH, generator=torch.Generator().manual_seed(0)) * 2 - 1
    moved = [float((done != image).float().mean()) for done in (shuffle_in_a_loop(image, 0), shuffle(image, 0))]
    assert abs(moved[0] - moved[1]) < 0.01, f"the loop moves {moved[0]:.3f} of the voxels, ours {moved[1]:.3f}"
    seeds, our_seeds = count(), count()
    yield race(
        f"local shuffling of {NUM_BLOCKS:,} blocks at 96^3",
        "loop over blocks",
        lambda: shuffle_in_a_loop(image, next(seeds)),
        lambda: shuffle(image, next(our_seeds)),
    )
    genesis = ModelsGenesis(ResEnc("S"), shuffle_p=1.0, curve_p=1.0, paint_p=1.0)
    yield race(
        "Models Genesis: distortions of a training step at 96^3",
        STEP,
        step(genesis, image[None]),
        lambda: genesis.distort(image, torch.tensor(next(our_seeds))),
        rounds=3,
    )
    fusion = VolumeFusion(ResEnc("S"))
    yield race(
        "VolumeFusion: boxes and mixing of a training step at 96^3",
        STEP,
        step(fusion, torch.stack([image, -image])[None]),
        lambda: mix(fusion, image, torch.tensor(next(our_seeds))),
        rounds=3,
    )


def step(objective: Objective, image: Tensor) -> Callable[[], None]:
    seeds = count()

    def run() -> None:
        objective.zero_grad(set_to_none=True)
        objective({"image": image, "seed": torch.tensor([next(seeds)])}).loss.backward()

    return run


def mix(objective: VolumeFusion, image: Tensor, seed: Tensor) -> Tensor:
    alpha = objective.draw_label(PATCH, seed) / (objective.num_classes - 1)
    return torch.lerp(-image, image, alpha)


def shuffle(image: Tensor, seed: int) -> Tensor:
    return local_shuffle(image, CounterRNG(torch.tensor(seed)), NUM_BLOCKS)


def shuffle_in_a_loop(image: Tensor, seed: int) -> Tensor:
    """One block after the other, as the method was first written."""
    random = np.random.default_rng(seed)
    original = image[0].numpy()
    result = original.copy()
    for _ in range(NUM_BLOCKS):
        edges = [int(random.integers(1, size // 10 + 1)) for size in PATCH]
        starts = [int(random.integers(0, size - edge + 1)) for size, edge in zip(PATCH, edges, strict=True)]
        block = tuple(slice(start, start + edge) for start, edge in zip(starts, edges, strict=True))
        voxels = original[block].flatten()
        random.shuffle(voxels)
        result[block] = voxels.reshape(edges)
    return torch.from_numpy(result)[None]

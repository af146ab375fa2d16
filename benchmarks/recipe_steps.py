"""Training steps of the recipes in configs/ on a batch of random voxels: network, objective, clipping and optimizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor, nn

from medpretrain3d.boxes import Targets
from medpretrain3d.detection import Detector
from medpretrain3d.engine.optimizer import OptimConfig, configure
from medpretrain3d.objectives import Objective
from medpretrain3d.planning.recipe_step import made
from medpretrain3d.randomness import sample_seeds

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


class RecipeStep(NamedTuple):
    """A recipe's network and what makes a step of it."""

    network: Objective | Detector
    patch: tuple[int, int, int]
    batch_size: int
    augment: dict[str, Any]
    """Arguments of the recipe's spatial augmentation."""
    run: Callable[[], None]


def recipe_step(recipe: str) -> RecipeStep:
    """Build a training step of a recipe.

    Args:
        recipe: below configs/, as `pretrain/openkbp.yaml`.
    """
    config = yaml.safe_load((CONFIGS / recipe).read_text(encoding="utf-8"))
    model, data = config["model"], config["data"]
    patch: tuple[int, int, int] = tuple(data["patch"])
    batch_size = int(data["batch_size"])
    image = torch.rand(batch_size, 1, *patch, generator=torch.Generator().manual_seed(0)) * 2 - 1
    network: Objective | Detector
    if "objective" in model:
        network = objective = made(Objective, model["objective"])
        loss = _objective_loss(objective, image)
    else:
        network = detector = made(Detector, model["detector"])
        loss = _detector_loss(detector, image)
    optimizer = configure(network, OptimConfig(**model["optim"]), config["trainer"]["max_steps"])["optimizer"]
    limit = config["trainer"]["gradient_clip_val"]

    def run() -> None:
        optimizer.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(network.parameters(), limit)
        optimizer.step()

    return RecipeStep(network, patch, batch_size, data["augment"].get("init_args", {}), run)


def _objective_loss(objective: Objective, image: Tensor) -> Callable[[], Tensor]:
    batch = {"image": image, "seed": torch.arange(len(image))}
    return lambda: objective(batch).loss


def _detector_loss(detector: Detector, image: Tensor) -> Callable[[], Tensor]:
    """Of an object of each class in each image, an eighth to a half of its edges long."""
    size = torch.tensor(image.shape[2:])
    drawn = torch.Generator().manual_seed(0)
    seeds = torch.arange(len(image))
    targets = []
    for _ in image:
        edges = (size * (0.125 + 0.375 * torch.rand(detector.num_classes, 3, generator=drawn))).round()
        low = ((size - edges) * torch.rand(detector.num_classes, 3, generator=drawn)).round()
        mask = torch.zeros(*image.shape[2:], dtype=torch.long)
        for label, (begin, end) in enumerate(zip(low.long().tolist(), (low + edges).long().tolist(), strict=True)):
            mask[tuple(slice(*ends) for ends in zip(begin, end, strict=True))] = label + 1
        targets.append(Targets(torch.cat([low, low + edges], dim=1), torch.arange(detector.num_classes), mask))

    def loss() -> Tensor:
        with sample_seeds(seeds):
            return torch.stack(list(detector.losses(image, targets).values())).sum()

    return loss

"""What both detectors learn: the cases of a recipe, and what the recipe says about their crops."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.datamodule import FinetuneData
from medpretrain3d.boxes import box_size
from medpretrain3d.command_line.composition import composed, recipe_layers
from medpretrain3d.command_line.recipes import find_recipe
from medpretrain3d.detection.anchors_search import optimize_anchor_sizes
from medpretrain3d.store.corpus import CaseRef
from medpretrain3d.store.intensity import Window
from medpretrain3d.store.normalization import Normalization

CASES = ("store", "patch", "batch_size", "fold", "test_on", "label_fraction", "num_train_cases", "label_seed")
"""Options of `data` that say which cases and crops; what is done to them is each detector's own."""
FIRST_LEVEL = 2
"""Default of `RetinaNet` and `RetinaUNet`."""

Size = tuple[float, float, float]


@dataclass(frozen=True)
class Task:
    """Cases, crops and anchors of a recipe.

    Args:
        recipe: its name or path.
        store: in place of the recipe's.
        fold: of the store; None takes its named splits.
    """

    recipe: str
    store: str | None = None
    fold: int | None = None

    def config(self) -> dict[str, Any]:
        """Return the recipe with its bases."""
        return composed(recipe_layers(find_recipe(self.recipe, "finetune"), "finetune"))

    def options(self) -> dict[str, Any]:
        """Return the options of `data` that say which cases and crops."""
        said = {key: value for key, value in self.config()["data"].items() if key in CASES}
        chosen = {"store": self.store, "fold": self.fold, "test_on": None if self.fold is None else "held_out"}
        return said | {key: value for key, value in chosen.items() if value is not None}

    def is_there(self) -> bool:
        """Whether the store has been prepared."""
        return (Path(self.options()["store"]) / "store.json").is_file()

    def data(self) -> FinetuneData:
        """Return the cases, split and budgeted as the recipe's own run has them."""
        options = self.options()
        return FinetuneData(**{**options, "patch": tuple(options["patch"])})

    @property
    def steps(self) -> int:
        """Training steps of the recipe."""
        return int(self.config()["trainer"]["max_steps"])

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """Axes along which the recipe mirrors crops: none of them exchanges a left for a right organ."""
        arguments = self.config()["data"]["augment"].get("init_args", {})
        return tuple(arguments.get("mirror_axes", (0, 1, 2)))

    @property
    def finest_stride(self) -> int:
        """Of the recipe's finest detection level, in voxels: encoders halve with each level."""
        return 1 << int(self.config()["model"]["detector"]["init_args"].get("first_level", FIRST_LEVEL))

    @property
    def anchors_per_level(self) -> int:
        """Of the recipe."""
        return len(self.config()["model"]["detector"]["init_args"]["anchors"]["init_args"]["sizes"][0])

    def anchor_sizes(self, cases: list[CaseRef], num_levels: int, finest_stride: int) -> tuple[tuple[Size, ...], ...]:
        """Return extents of the anchors of each level in voxels: `plan`'s search over the training objects."""
        extents = torch.from_numpy(box_size(np.concatenate([ref.open().boxes for ref in cases])))
        strides = [(finest_stride * 2**level,) * 3 for level in range(num_levels)]
        return optimize_anchor_sizes(extents, strides, self.anchors_per_level).sizes


def zero_to_one(normalization: Normalization) -> Normalization:
    """Return the same window with the output that MONAI's detector asks for; a z-score stays one."""
    return replace(normalization, output_range=(0, 1)) if isinstance(normalization, Window) else normalization

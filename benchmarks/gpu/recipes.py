"""Recipes without their data: the network, the optimizer and synthetic batches of the recipe's shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from medpretrain3d import backbones, detection, objectives  # noqa: F401  what recipes name
from medpretrain3d.boxes import Targets
from medpretrain3d.command_line.recipes import find_recipe, read_recipe, with_bases
from medpretrain3d.configurable import Configurable, from_config
from medpretrain3d.detection import Detector
from medpretrain3d.engine.optimizer import OptimConfig, configure
from medpretrain3d.objectives import Objective
from medpretrain3d.randomness import sample_seeds
from medpretrain3d.registry import known_classes

PUBLISHED = (
    "pretrain/mae_resenc_l",
    "finetune/luna16",
    "finetune/msd_pancreas",
    "pretrain/mae_primus_m",
    "pretrain/spark_resenc_l",
    "pretrain/voco_resenc_l",
    "pretrain/simclr_resenc_l",
    "pretrain/volume_fusion_resenc_l",
    "pretrain/models_genesis_resenc_l",
    "pretrain/multitalent_resenc_l",
    "pretrain/slice_wise_resenc_l",
    "pretrain/classification_resenc_l",
    "pretrain/dino_primus_m",
    "pretrain/dinov2_vit_l",
    "pretrain/consistent_views_primus_m",
    "pretrain/simmim_swin",
    "pretrain/simmim_vit_b",
    "pretrain/mae_vit_b",
    "pretrain/swin_multi_task_swin_unetr",
    "pretrain/detector_resenc_l",
    "pretrain/nnfoundation_cnn",
    "pretrain/nnfoundation_vit",
)
"""Those that say most first, for whom the time may not suffice for all."""
TOY = ("pretrain/smoke", "finetune/smoke")
FROM_DATA: Mapping[str, Any] = {
    "MultiTalent": {"classes": [[f"organ_{number}" for number in range(20)] for _ in range(3)]},
    "CaseClassification": {"classes": [[f"finding_{number}" for number in range(18)]]},
}
"""Arguments that a run takes from its stores."""
LEAST = {"SimCLR": 2}
"""Samples of a batch, where those of one process do not suffice to tell them apart."""
Step = Callable[[], Tensor]


@dataclass(frozen=True)
class Recipe:
    """A recipe of `configs/`, of which only the training step is used.

    Args:
        name: `pretrain/<name>` or `finetune/<name>`.
        document: the recipe on top of its bases, as plain data.
    """

    name: str
    document: dict[str, Any]

    @staticmethod
    def read(name: str) -> Recipe:
        """Read a recipe that ships with the package."""
        kind, _, stem = name.partition("/")
        document: dict[str, Any] = {}
        for path in with_bases(find_recipe(stem, kind), kind):
            document = _merged(document, read_recipe(path))
        return Recipe(name, document)

    @property
    def patch(self) -> tuple[int, int, int]:
        d, h, w = self.document["data"]["patch"]
        return (d, h, w)

    @property
    def batch_size(self) -> int:
        asked = int(self.document["data"].get("batch_size", 2))
        return max(asked, LEAST.get(self.document["model"].get("objective", {}).get("class_path", ""), 1))

    @property
    def work(self) -> str:
        """Name and shape, as the table says it."""
        shape = " x ".join(map(str, self.patch))
        return f"{self.name}, {self.batch_size} of {shape}"

    def model(self) -> Objective | Detector:
        """The network with its heads, the same weights every time."""
        part = "detector" if "detector" in self.document["model"] else "objective"
        config = _with_modules(self.document["model"][part])
        given = FROM_DATA.get(self.document["model"][part]["class_path"].rpartition(".")[2], {})
        torch.manual_seed(0)
        made: Objective | Detector = from_config({**config, "init_args": {**given, **config.get("init_args", {})}})
        return made

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The recipe's own, far behind its warm-up."""
        config = replace(OptimConfig(**self.document["model"].get("optim", {})), warmup_steps=0, schedule="constant")
        made: torch.optim.Optimizer = configure(model, config, 1000)["optimizer"]
        return made

    def batch(self, device: torch.device, memory_format: torch.memory_format) -> Any:
        """What a loader gives, on the device: a dictionary for an objective, image and targets for a detector."""
        views = self.document["data"].get("views", {}).get("class_path", "OneView").rpartition(".")[2]
        is_detector = "detector" in self.document["model"]
        make: Callable[..., Any] = with_targets if is_detector else BATCHES[views]
        batch = make(self.patch, self.batch_size)
        return moved(batch, device, memory_format)


def loss_of(model: Objective | Detector, batch: Any) -> Tensor:
    """Return what a training step minimises."""
    if isinstance(model, Objective):
        return model(batch).loss
    image, targets = batch
    with sample_seeds(torch.stack([target.seed for target in targets])):
        return torch.stack(list(model.losses(image, targets).values())).sum()


def moved(batch: Any, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format) -> Any:
    """Return a batch on a device; what has five axes takes the memory format."""
    if isinstance(batch, Tensor):
        layout = memory_format if batch.dim() == 5 else torch.preserve_format
        return batch.to(device, memory_format=layout)
    if isinstance(batch, Targets):
        fields = {name: moved(value, device) for name, value in vars(batch).items() if isinstance(value, Tensor)}
        return replace(batch, **fields)
    if isinstance(batch, dict):
        return {name: moved(value, device, memory_format) for name, value in batch.items()}
    return type(batch)(moved(one, device, memory_format) for one in batch)


def with_targets(patch: tuple[int, int, int], size: int) -> tuple[Tensor, list[Targets]]:
    """Images with two objects each, as large as an eighth and a quarter of the patch."""
    boxes = torch.tensor([[low * edge for edge in patch] + [high * edge for edge in patch] for low, high in
                          ((0.25, 0.375), (0.5, 0.75))])  # fmt: skip
    mask = torch.zeros(patch, dtype=torch.long)
    for d0, h0, w0, d1, h1, w1 in boxes.long().tolist():
        mask[d0:d1, h0:h1, w0:w1] = 1
    labels = torch.zeros(len(boxes), dtype=torch.long)
    targets = [Targets(boxes, labels, mask, seed=torch.tensor(seed)) for seed in range(size)]
    return _images((size, 1, *patch)), targets


def _images(shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def _one_view(patch: tuple[int, int, int], size: int) -> dict[str, Tensor]:
    return {"image": _images((size, 1, *patch)), "seed": torch.arange(size)}


def _two_views(patch: tuple[int, int, int], size: int) -> dict[str, Tensor]:
    affine = torch.eye(3, 4).repeat(size, 2, 1, 1)
    affine[:, 1, :, 3] = torch.tensor(patch) // 4
    return {"image": _images((size, 2, 1, *patch)), "affine": affine, "seed": torch.arange(size)}


def _multi_crop(patch: tuple[int, int, int], size: int) -> dict[str, Tensor]:
    """Local crops are half as long as global ones, rounded to what patches of 16 or less divide."""
    d, h, w = (max(16, edge // 2 // 16 * 16) for edge in patch)
    return {**_two_views(patch, size), "local": _images((size, 8, 1, d, h, w))}


def _grid_and_targets(patch: tuple[int, int, int], size: int) -> dict[str, Tensor]:
    share = torch.zeros(4, 16)
    share[:, [0, 1, 4, 5]] = 0.25
    return {
        "base": _images((size, 16, 1, *patch)),
        "target": _images((4 * size, 1, *patch)),
        "target_of": torch.arange(size).repeat_interleave(4),
        "share": share.repeat(size, 1),
        "grid": torch.tensor([[1, 4, 4]] * size),
        "seed": torch.arange(size),
    }


def _volume_pairs(patch: tuple[int, int, int], size: int) -> dict[str, Tensor]:
    return {"image": _images((size, 2, 1, *patch)), "seed": torch.arange(size)}


def _labeled(patch: tuple[int, int, int], size: int) -> dict[str, Tensor]:
    batch = _one_view(patch, size)
    return {**batch, "label_map": (batch["image"][:, 0] > 0).long(), "dataset": torch.arange(size) % 3}


def _case_labeled(patch: tuple[int, int, int], size: int) -> dict[str, Tensor]:
    return {**_one_view(patch, size), "case_label": torch.arange(size) % 2}


def _with_objects(patch: tuple[int, int, int], size: int) -> dict[str, Tensor]:
    image, targets = with_targets(patch, size)
    masks = [target.mask for target in targets if target.mask is not None]
    return {
        "image": image,
        "boxes": torch.cat([target.boxes for target in targets]),
        "labels": torch.cat([target.labels for target in targets]),
        "box_of": torch.arange(size).repeat_interleave(2),
        "ignore": torch.zeros(0, 6),
        "ignore_of": torch.zeros(0, dtype=torch.long),
        "label_map": torch.stack(masks).to(torch.uint8),
        "seed": torch.arange(size),
    }


BATCHES: dict[str, Callable[[tuple[int, int, int], int], dict[str, Tensor]]] = {
    "OneView": _one_view,
    "TwoViews": _two_views,
    "MultiCrop": _multi_crop,
    "GridAndTargets": _grid_and_targets,
    "VolumePairs": _volume_pairs,
    "LabeledView": _labeled,
    "CaseLabelView": _case_labeled,
    "ObjectView": _with_objects,
}
"""By the class of `data.views`."""


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = {name: _merged(below[name], value) for name, value in above.items() if _is_table(below.get(name), value)}
    return {**below, **above, **both}


def _is_table(*values: object) -> bool:
    return all(isinstance(value, dict) for value in values)


def _with_modules(value: Any) -> Any:
    """Return plain data of a recipe with full names of classes, as files have them."""
    if isinstance(value, dict):
        written = {name: _with_modules(item) for name, item in value.items()}
        path = written.get("class_path")
        if isinstance(path, str) and "." not in path:
            cls = known_classes(Configurable)[path]
            written["class_path"] = f"{cls.__module__}.{cls.__qualname__}"
        return written
    return [_with_modules(one) for one in value] if isinstance(value, list) else value

"""One tiny example of every objective on every backbone, for the tests that ask the same of all of them.

A class that is not named here has one by its own `tiny`, and is fed by the first of its `views`: a new objective is
tested by existing, on every backbone that its constructor does not refuse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from medpretrain3d.backbones import Backbone, TokenPyramid
from medpretrain3d.detection import FCOS
from medpretrain3d.errors import UserError
from medpretrain3d.objectives import (
    MAE,
    CaseClassification,
    DetectorPretraining,
    ModelsGenesis,
    MultiTalent,
    Objective,
    SimMIM,
    SliceWise,
    SparK,
    SwinMultiTask,
    VolumeFusion,
)
from medpretrain3d.registry import known_classes
from tests.tiny import TINY_BACKBONES, tiny_backbone
from tests.tiny_views import CONTRASTIVE, grid_and_targets, multi_crop, tiny_views, two_views

# Small patches (D, H, W) that hold at least two cells of the coarsest level, of Swin one.
PATCHES: dict[str, tuple[int, int, int]] = {
    "ResEnc": (16, 16, 16),
    "ResEnc anisotropic": (8, 16, 16),
    "PlainConv": (16, 8, 16),
    "GenesisUNet": (16, 8, 16),
    "SegResNet": (16, 8, 16),
    "ResNet3D bottlenecks, dilated": (16, 8, 16),
    "ResNet3D anisotropic, instance norm": (8, 64, 32),
    "MedNeXt anisotropic, kernel 5": (8, 16, 32),
    "InflatedCNN anisotropic": (8, 32, 32),
    "SwinUNETR-V2 anisotropic": (16, 32, 32),
    "ViT": (16, 16, 24),
    "ViT anisotropic": (8, 16, 24),
    "Primus": (16, 16, 24),
    "TokenPyramid": (16, 16, 32),
}
# Other examples of a class are left to the tests of backbones; a class that is not named has the patch of its example.
PATCHES |= {name: tiny.patch for name, tiny in TINY_BACKBONES.items() if tiny.given_shape is None}


@dataclass(frozen=True)
class TinyObjective:
    """How a class is built small around a backbone, and what it is fed."""

    make: Callable[[Backbone], Objective]
    batch: Callable[[str, int], dict[str, Any]] = lambda name, first_seed: tiny_batch(name, first_seed)
    """Two samples for the backbone of a name, other ones for every seed."""


def first_level(backbone: Backbone) -> int:
    """The level at which detection begins: the finest of a `TokenPyramid`, whose branches are all to be trained."""
    return 0 if isinstance(backbone, TokenPyramid) else min(2, len(backbone.levels) - 1)


TINY_OBJECTIVES: dict[type[Objective], TinyObjective] = {
    MAE: TinyObjective(
        lambda backbone: MAE(backbone, 0.5, mask_block=None if hasattr(backbone, "embed") else (4, 8, 8))
    ),
    SimMIM: TinyObjective(partial(SimMIM, mask_ratio=0.5, mask_block=(8, 8, 8))),
    SliceWise: TinyObjective(lambda backbone: SliceWise(backbone, 0.5, orientation="sagittal")),
    SparK: TinyObjective(partial(SparK, mask_ratio=0.5)),
    **{
        cls: TinyObjective(make, partial(lambda cls, name, seed: tiny_views(cls, PATCHES[name], seed), cls))
        for cls, make in CONTRASTIVE.items()
    },
    ModelsGenesis: TinyObjective(partial(ModelsGenesis, num_shuffled_blocks=500)),
    VolumeFusion: TinyObjective(
        partial(VolumeFusion, num_boxes=(1, 3), box_edge=(4, 12)),
        lambda name, first_seed: paired_batch(name, first_seed),
    ),
    SwinMultiTask: TinyObjective(partial(SwinMultiTask, contrast_channels=16)),
    MultiTalent: TinyObjective(
        partial(MultiTalent, classes=(("liver", "spleen"), ("liver", "kidney", "aorta"))),
        lambda name, first_seed: labelled_batch(name, first_seed),
    ),
    DetectorPretraining: TinyObjective(
        lambda backbone: DetectorPretraining(
            FCOS(backbone, 2, first_level=first_level(backbone), fpn_channels=16, head_convs=1)
        ),
        lambda name, first_seed: object_batch(name, first_seed),
    ),
    CaseClassification: TinyObjective(
        partial(CaseClassification, classes=(("benign", "malignant"),), hidden_channels=8),
        lambda name, first_seed: case_labelled_batch(name, first_seed),
    ),
}
OF_VIEWS: dict[str, Callable[[str, int], dict[str, Any]]] = {
    "TwoViews": lambda name, seed: two_views(PATCHES[name], seed),
    "MultiCrop": lambda name, seed: multi_crop(PATCHES[name], seed),
    "GridAndTargets": lambda name, seed: grid_and_targets(PATCHES[name], seed),
    "VolumePairs": lambda name, seed: paired_batch(name, seed),
    "LabeledView": lambda name, seed: labelled_batch(name, seed),
    "ObjectView": lambda name, seed: object_batch(name, seed),
    "CaseLabelView": lambda name, seed: case_labelled_batch(name, seed),
    "OneView": lambda name, seed: tiny_batch(name, seed),
}
TINY_OBJECTIVES |= {
    cls: TinyObjective(partial(cls, **cls.tiny), OF_VIEWS[(*cls.views, "OneView")[0]])
    for cls in known_classes(Objective).values()
    if cls not in TINY_OBJECTIVES and not cls.__subclasses__()
}
PAIRS = [(cls, name) for cls in TINY_OBJECTIVES for name in PATCHES]


def tiny_objective(cls: type[Objective], name: str = "", **options: Any) -> Any:
    """The example of a class on a backbone, by default one that it takes; the same at every call.

    Raises:
        UserError: it does not take the backbone.
    """
    return TINY_OBJECTIVES[cls].make(tiny_backbone(name or default_backbone(cls), **options))


def default_backbone(cls: type[Objective], *liked: str) -> str:
    """The first backbone that an objective takes, of those that are liked and two others."""
    return next(name for name in (*liked, "ResEnc", "ViT") if not refusal(cls, name))


@cache
def refusal(cls: type[Objective], name: str) -> str:
    """Why an objective does not take a backbone; empty where it does."""
    try:
        with torch.device("meta"):
            tiny_objective(cls, name)
    except UserError as error:
        return str(error)
    return ""


def tiny_batch(name: str, first_seed: int = 5, count: int = 2) -> dict[str, Any]:
    """Crops of something like a body for the backbone of that name, other ones for every seed."""
    seeds = torch.arange(first_seed, first_seed + count)
    return {"image": torch.stack([body(PATCHES[name], int(seed)) for seed in seeds]), "seed": seeds}


def paired_batch(name: str, first_seed: int = 5) -> dict[str, Any]:
    """Each body with another one."""
    batch = tiny_batch(name, first_seed)
    return {**batch, "image": torch.stack([batch["image"], tiny_batch(name, 1000 + first_seed)["image"]], dim=1)}


def labelled_batch(name: str, first_seed: int = 5) -> dict[str, Any]:
    """Bone is the second class of its data set; samples are of data sets 1, 0, 1, ..."""
    batch = tiny_batch(name, first_seed)
    dataset = 1 - torch.arange(len(batch["seed"])) % 2
    return {**batch, "label_map": 2 * (batch["image"][:, 0] > 0.6).long(), "dataset": dataset}


def object_batch(name: str, first_seed: int = 5) -> dict[str, Any]:
    """Bone and vessel of every second body, the others hold nothing."""
    batch = tiny_batch(name, first_seed)
    d, h, w = PATCHES[name]
    boxes = torch.tensor([[0, 0.45 * h, 0.45 * w, d, 0.75 * h, 0.75 * w], [0, 0.2 * h, 0.2 * w, d, 0.5 * h, 0.5 * w]])
    label_map = (batch["image"][:, 0] > 0.6) + 2 * ((batch["image"][:, 0] > 0.2) & (batch["image"][:, 0] < 0.6)).byte()
    return {
        **batch,
        "boxes": boxes,
        "labels": torch.tensor([0, 1]),
        "box_of": torch.zeros(2, dtype=torch.long),
        "ignore": torch.zeros(0, 6),
        "ignore_of": torch.zeros(0, dtype=torch.long),
        "label_map": label_map,
    }


def case_labelled_batch(name: str, first_seed: int = 5) -> dict[str, Any]:
    """Bodies of the second label are brighter."""
    batch = tiny_batch(name, first_seed)
    label = batch["seed"] % 2
    return {**batch, "image": batch["image"] + 0.5 * label[:, None, None, None, None], "case_label": label}


def body(shape: tuple[int, int, int], seed: int) -> Tensor:
    """An ellipsoid of tissue in air with a bone and a vessel in it, (1, D, H, W) in [-1, 1]."""
    random = torch.Generator().manual_seed(seed)
    axes = torch.meshgrid(*(torch.linspace(-1, 1, size) for size in shape), indexing="ij")
    place = torch.stack(axes) + 0.3 * (torch.rand(3, 1, 1, 1, generator=random) - 0.5)
    image = torch.full(shape, -0.9)
    image[(place * torch.tensor([0.6, 1.2, 1.0])[:, None, None, None]).norm(dim=0) < 0.9] = 0.05
    image[(place[1:] - 0.2).norm(dim=0) < 0.25] = 0.8
    image[(place[1:] + 0.3).norm(dim=0) < 0.2] = 0.3
    return (image + 0.02 * torch.randn(shape, generator=random))[None]

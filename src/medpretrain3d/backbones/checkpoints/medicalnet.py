"""MedicalNet (Chen et al., 2019): 3D residual networks trained to segment 23 data sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.backbones.checkpoints.selection import select
from medpretrain3d.backbones.resnet import VARIANTS
from medpretrain3d.errors import UserError

PARTS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
CITATION = "Chen, S., Ma, K., & Zheng, Y. (2019). Med3D: transfer learning for 3D image analysis. arXiv:1904.00625."


def read_medicalnet(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Return the network of a MedicalNet checkpoint; None for other files.

    Raises:
        UserError: blocks per stage of no depth that is known here.
    """
    stem = raw.weights.get("conv1.weight")
    if stem is None or stem.shape[2:] != (7, 7, 7) or "layer4.0.bn1.running_mean" not in raw.weights:
        return None
    own, unused = select(raw.weights, "", PARTS)
    arguments = _arguments(str(raw.path), own)
    card = {
        "preprocessing": {"normalisation": "z-score of the voxels that are not zero, per volume"},
        "pretraining": {"paradigm": "supervised segmentation", "corpus": "23 data sets"},
        "licence": raw.licence or "MIT, as its repository states",
        "citations": [CITATION],
    }
    notes = (
        "trained with the last two stages dilated instead of strided (is_dilated: true)",
        "trained on z-scored volumes, where this package gives a HU window in [-1, 1]",
    )
    architecture = {"class_path": "medpretrain3d.backbones.resnet.ResNet3D", "init_args": arguments}
    return EncoderFile(architecture, own, card, raw.sha256, "MedicalNet checkpoint", unused, notes)


def _arguments(where: str, own: Mapping[str, Tensor]) -> dict[str, Any]:
    blocks = tuple(len({n.split(".")[1] for n in own if n.startswith(f"layer{i}.")}) for i in range(1, 5))
    is_bottleneck = "layer1.0.conv3.weight" in own
    shape = (blocks, is_bottleneck)
    depths = [depth for depth, variant in VARIANTS.items() if (variant.blocks, variant.is_bottleneck) == shape]
    if not depths:
        kind = "bottlenecks" if is_bottleneck else "basic blocks"
        raise UserError(f"{where}: a residual network of {blocks} {kind} per stage, known are depths {list(VARIANTS)}")
    width, in_channels = own["conv1.weight"].shape[:2]
    arguments = {"depth": depths[0], "in_channels": in_channels, "is_dilated": True, "width": width}
    shortcut = "B" if any(".downsample." in name for name in own) else "A"
    return arguments if shortcut == VARIANTS[depths[0]].shortcut else arguments | {"shortcut": shortcut}

"""3D residual networks in torchvision's names, told from their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from medpretrain3d.backbones.resnet import VARIANTS
from medpretrain3d.configurable import Config
from medpretrain3d.errors import UserError

PARTS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
STEM, LAST = "conv1.weight", "layer4.0.bn1.running_mean"


def resnet_prefix(weights: Mapping[str, Tensor], stem_kernel: tuple[int, int, int]) -> str | None:
    """Return the prefix of the only network with such a stem, such as `backbone.`; None where there is none."""
    found = [name.removesuffix(LAST) for name in weights if name.endswith(LAST)]
    if len(found) != 1:
        return None
    stem = weights.get(found[0] + STEM)
    return found[0] if stem is not None and tuple(stem.shape[2:]) == stem_kernel else None


def resnet_architecture(where: str, own: Mapping[str, Tensor], **arguments: Any) -> Config:
    """Describe the network whose tensors these are.

    Args:
        where: names the file in errors.
        own: in torchvision's names.
        arguments: of `ResNet3D`, that no tensor shows.

    Raises:
        UserError: blocks per stage of no depth that is known here.
    """
    blocks = tuple(len({n.split(".")[1] for n in own if n.startswith(f"layer{i}.")}) for i in range(1, 5))
    is_bottleneck = "layer1.0.conv3.weight" in own
    shape = (blocks, is_bottleneck)
    depths = [depth for depth, variant in VARIANTS.items() if (variant.blocks, variant.is_bottleneck) == shape]
    if not depths:
        kind = "bottlenecks" if is_bottleneck else "basic blocks"
        raise UserError(f"{where}: a residual network of {blocks} {kind} per stage, known are depths {list(VARIANTS)}")
    width, in_channels, *stem_kernel = own[STEM].shape
    told: dict[str, Any] = {"depth": depths[0], "in_channels": in_channels, "width": width}
    if stem_kernel != [7, 7, 7]:
        told["stem_kernel"] = stem_kernel
    shortcut = "B" if any(".downsample." in name for name in own) else "A"
    if shortcut != VARIANTS[depths[0]].shortcut:
        told["shortcut"] = shortcut
    return {"class_path": "medpretrain3d.backbones.resnet.ResNet3D", "init_args": told | arguments}


def is_of_monai(own: Mapping[str, Tensor], unused: Mapping[str, int]) -> bool:
    """Return whether a network has what MONAI's have and MedicalNet's have not: a classifier, or shortcuts' biases.

    Args:
        own: in torchvision's names.
        unused: names of the parts beside it.
    """
    return "fc" in unused or any(name.endswith(".downsample.0.bias") for name in own)


def without_biases(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take biases of shortcuts, which MONAI has, off the mean of the batch norm behind each: the same features."""
    folded = dict(own)
    for name in own:
        if name.endswith(".downsample.0.bias"):
            mean = name.replace("0.bias", "1.running_mean")
            folded[mean] = own[mean] - folded.pop(name)
    return folded

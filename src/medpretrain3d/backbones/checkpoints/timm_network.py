"""Networks for natural images as timm keeps them on a hub: weights, and a `config.json` that names the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.backbones.inflated import InflatedCNN, inflated_weights
from medpretrain3d.configurable import to_config
from medpretrain3d.errors import UserError


def read_timm(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Return the network inflated to volumes; None for files without timm's `config.json` beside them.

    Its three colours stay three channels; a backbone of one channel receives their sum, which is what a grey image in
    all three would have met.

    Raises:
        UserError: timm does not know the network, it cannot be inflated, or the weights are not its.
    """
    config = raw.sidecars.get("config.json")
    if not isinstance(config, Mapping) or not {"architecture", "pretrained_cfg"} <= config.keys():
        return None
    model = str(config["architecture"])
    backbone = InflatedCNN(model, in_channels=3)
    weights = inflated_weights(_whole(raw, model, config), backbone)
    num_unused = len(raw.weights) - len(weights)
    unused = {"classifier": num_unused} if num_unused else {}
    card = {
        "preprocessing": {"normalisation": "ImageNet mean and standard deviation of each colour"},
        "pretraining": {"paradigm": "natural images", "corpus": config["pretrained_cfg"].get("tag")},
        "licence": raw.licence or config["pretrained_cfg"].get("license"),
        "citations": [f"Wightman, R. (2019). PyTorch Image Models: {model}.", InflatedCNN.citation],
    }
    notes = ("a 2D network of natural images, its kernels repeated along depth",)
    return EncoderFile(to_config(backbone), weights, card, raw.sha256, "timm checkpoint", unused, notes)


def _whole(raw: RawCheckpoint, model: str, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the state dict in timm's names of today: it knows how the names of older files have changed.

    The whole network is loaded, because timm leaves what a file lacks at random values when it cuts a network.
    """
    import timm

    num_classes = config.get("num_classes", 1000)
    overlay = {"state_dict": dict(raw.weights), "num_classes": num_classes}
    try:
        network = timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=num_classes)
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{raw.path}: not the weights of {model} ({reason}); put its own config.json beside it"
        ) from error
    return network.state_dict()

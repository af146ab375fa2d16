"""Writing an encoder as nnssl does, so that its fine-tuning code and ours read the same file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medpretrain3d.atomic import finished_file
from medpretrain3d.backbones.base import Backbone
from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.formats import EXPORTS
from medpretrain3d.backbones.checkpoints.nnssl import OWN_KEYS
from medpretrain3d.backbones.checkpoints.primus_layout import swap_first_axes
from medpretrain3d.backbones.checkpoints.publishing import without_places
from medpretrain3d.backbones.plain_conv import PlainConv
from medpretrain3d.backbones.primus import Primus
from medpretrain3d.backbones.resenc import ResEnc
from medpretrain3d.configurable import from_config, to_config
from medpretrain3d.errors import UserError

CONFIGURATION = "medpretrain3d"


@EXPORTS.register("nnssl")
def export_nnssl(folder: Path, encoder: EncoderFile) -> None:
    """Write `checkpoint_final.pth` into a folder; see `write_nnssl`."""
    write_nnssl(folder / "checkpoint_final.pth", encoder)


def write_nnssl(path: Path, encoder: EncoderFile) -> None:
    """Write a checkpoint with `network_weights` and `nnssl_adaptation_plan`.

    Tensors stand there under both of their names, a Primus's tokens in nnssl's order (h w d), and the plan states the
    architecture in full, which nnssl's own files do not.

    Args:
        path: where the file goes, by custom `checkpoint_final.pth`.
        encoder: of a ResEnc, PlainConv or Primus.

    Raises:
        UserError: another architecture, or a Primus whose grid is longer along D than along H.
    """
    with torch.device("meta"):
        backbone = from_config(encoder.architecture)
    assert isinstance(backbone, Backbone)
    if isinstance(backbone, Primus):
        weights, keys, architecture = _primus(backbone, encoder.weights)
    elif isinstance(backbone, ResEnc | PlainConv):
        weights, keys, architecture = _convolutional(backbone, encoder.weights)
    else:
        raise UserError(
            f"{backbone.name}: nnssl has no such network, only ResEnc, PlainConv and Primus; export with "
            "--format safetensors"
        )
    card = without_places(encoder.card)
    preprocessing = card.get("preprocessing") or {}
    patch, spacing_mm = preprocessing.get("patch"), preprocessing.get("spacing_mm")
    configuration = {
        "patch_size": patch,
        "spacing": spacing_mm,
        "normalization_schemes": preprocessing.get("normalisation"),
    }
    pretraining, citations = card.get("pretraining") or {}, card.get("citations") or ()
    content = {
        "network_weights": {name: value.detach().cpu().contiguous() for name, value in weights.items()},
        "nnssl_adaptation_plan": {
            "architecture_plans": architecture,
            "pretrain_plan": {
                "dataset_name": pretraining.get("corpus"),
                "configurations": {CONFIGURATION: configuration},
            },
            "pretrain_num_input_channels": backbone.in_channels,
            "recommended_downstream_patchsize": preprocessing.get("recommended_patch", patch),
            **keys,
        },
        "trainer_name": pretraining.get("method", pretraining.get("paradigm")),
        "init_args": {"configuration_name": CONFIGURATION, "fold": "all"},
        "citations": [{"type": "Citation", "name": "", "apa_citations": [line]} for line in citations],
        "license": card.get("licence"),
        **{name: preprocessing.get(name) for name in ("window", "unit", "stores")},
        **{name: card.get(name) for name in OWN_KEYS},
    }
    payload = io.BytesIO()  # writing to a full disk itself, torch may end the process (terminate in a destructor)
    torch.save(content, payload)
    with finished_file(path) as unfinished:
        unfinished.write_bytes(payload.getbuffer())


Export = tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]


def _convolutional(backbone: ResEnc | PlainConv, own: Mapping[str, Tensor]) -> Export:
    if isinstance(backbone, PlainConv) and backbone.has_pooling:
        raise UserError(
            f"{backbone.name}: its strides are those of max pooling, and nnssl's networks take theirs in convolutions; "
            "export with --format safetensors"
        )
    weights = {}
    for name, value in own.items():
        weights[f"encoder.{name}"] = value
        for short, alias in ((".conv.", ".all_modules.0."), (".norm.", ".all_modules.1.")):
            if short in name:
                weights["encoder." + alias.join(name.rsplit(short, 1))] = value
    arguments = to_config(backbone)["init_args"]
    channels = [level.channels for level in backbone.levels]
    is_residual = isinstance(backbone, ResEnc)
    first = "encoder.stem.convs.0" if is_residual else "encoder.stages.0.0.convs.0"
    reached = [(1, 1, 1), *(level.stride for level in backbone.levels)]
    strides = [[b // a for a, b in zip(*pair, strict=True)] for pair in pairwise(reached)]
    arch_kwargs = {
        "n_stages": len(channels),
        "features_per_stage": channels,
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": arguments.get("kernel_sizes") or [[3, 3, 3]] * len(channels),
        "strides": strides,
        "n_blocks_per_stage" if is_residual else "n_conv_per_stage": list(backbone.depths),
        "n_conv_per_stage_decoder": [1 if is_residual else 2] * (len(channels) - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.modules.activation.LeakyReLU",
        "nonlin_kwargs": {"inplace": True, "negative_slope": arguments["negative_slope"]},
    }
    keys = {
        "key_to_encoder": "encoder.stages",
        "key_to_stem": "encoder.stem" if is_residual else "encoder.stages.0",
        "keys_to_in_proj": [f"{first}.conv", f"{first}.all_modules.0"],
        "key_to_lpe": None,
    }
    return weights, keys, _plans("ResidualEncoderUNet" if is_residual else "PlainConvUNet", arch_kwargs, is_conv=True)


def _primus(backbone: Primus, own: Mapping[str, Tensor]) -> Export:
    if not backbone.embeds_patches_alone:
        raise UserError(
            f"{backbone.name}: a PrimusV2 is read from nnssl, not written; export with --format safetensors"
        )
    d, h, _ = grid = backbone.position_grid
    if d != h:
        raise UserError(
            f"{backbone.name}: its positions lie on a grid of {grid}, and tokens flattened (h w d), as nnssl does, "
            "have the right rotary positions only where D and H are alike; export with --format safetensors"
        )
    arguments = to_config(backbone)["init_args"]
    arch_kwargs = {
        "input_channels": backbone.in_channels,
        "embed_dim": backbone.width,
        "patch_embed_size": list(backbone.patch_size),
        "input_shape": [edge * size for edge, size in zip(grid, backbone.patch_size, strict=True)],
        "encoder_eva_depth": len(backbone.eva.blocks),
        "encoder_eva_numheads": backbone.width // backbone.head_width,
        "init_values": arguments["layer_scale"],
        "scale_attn_inner": arguments["attention_norm"],
        "num_register_tokens": backbone.num_register_tokens,
    }
    keys = {
        "key_to_encoder": "eva",
        "key_to_stem": "down_projection",
        "keys_to_in_proj": ["down_projection.proj"],
        "key_to_lpe": "eva.pos_embed",
        "token_order": "hwd",
    }
    return swap_first_axes(own, to_config(backbone)), keys, _plans("Primus", arch_kwargs, is_conv=False)


def _plans(name: str, arch_kwargs: Mapping[str, Any], is_conv: bool) -> dict[str, Any]:
    imported = ["conv_op", "norm_op", "dropout_op", "nonlin"] if is_conv else []
    return {"arch_class_name": name, "arch_kwargs": dict(arch_kwargs), "arch_kwargs_requiring_import": imported}

"""Vision transformers in MONAI's names, alone or inside another network: SegVol, M3D-CLIP, UNETR and others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from medpretrain3d.backbones.base import Triple
from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.frame import turn_from
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.backbones.checkpoints.release import Release
from medpretrain3d.backbones.checkpoints.selection import select
from medpretrain3d.backbones.vit import PRESETS, Size
from medpretrain3d.configurable import Config
from medpretrain3d.errors import UserError

TABLE = "patch_embedding.position_embeddings"
CONV, LINEAR = "patch_embedding.patch_embeddings.weight", "patch_embedding.patch_embeddings.1.weight"
HEAD_WIDTH = 64
"""Of every MONAI ViT with its default of 12 heads at a width of 768."""
FLAT_PATCH: Triple = (4, 16, 16)
"""SegVol's, which its linear embedding of 1024 numbers does not show."""
SEGVOL_GRID: Triple = (8, 16, 16)
USUAL_EDGES, MOST_CHANNELS = (8, 16, 32), 8
"""Of a linear embedding of several channels: cubes of these edges, of as few channels as there may be."""

SEGVOL = Release(
    name="SegVol",
    summary="ViT-B of MONAI, patch 4x16x16, trained by SimMIM and then to segment by prompts",
    where="huggingface.co/BAAI/SegVol (pytorch_model.bin; vit_pretrain.ckpt is its ViT before it learned to segment)",
    architecture={
        "class_path": "medpretrain3d.backbones.vit.ViT",
        "init_args": {
            "preset": "B",
            "patch_size": list(FLAT_PATCH),
            "position_grid": list(SEGVOL_GRID),
            "qkv_bias": False,
            "norm_eps": 1e-5,
        },
    },
    paradigm="masked reconstruction (SimMIM), supervised segmentation",
    corpus="90,000 CTs unlabelled, 6,000 labelled",
    overlap="25 public sets with masks, by its README among them LUNA16, Medical Segmentation Decathlon (colon, "
    "hepatic vessel, liver, lung, pancreas, spleen), KiTS19, KiTS23, AMOS, TotalSegmentator, AbdomenCT-1K, VerSe and "
    "ULS23",
    code_licence="MIT",
    weights_licence="not stated beside them; MIT is its repository's",
    citation="Du, Y., et al. (2024). SegVol: universal and interactive volumetric medical image segmentation. "
    "NeurIPS. arXiv:2311.13385.",
    orientation="SAR",
    normalisation="z-score of the foreground, then the least and greatest value of each volume to [0, 1]",
)


def read_monai_vit(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Return the transformer of a checkpoint in MONAI's names, wherever it stands in it; None for other files.

    Raises:
        UserError: a patch or a grid that no tensor shows.
    """
    prefixes = [name.removesuffix(TABLE) for name in raw.weights if name.endswith(TABLE)]
    if len(prefixes) != 1:
        return None
    where = str(raw.path)
    own, unused = select(raw.weights, prefixes[0], ("patch_embedding", "blocks", "norm", "cls_token"))
    crossing = [name for name in own if "cross_attn" in name]  # MONAI builds it, and leaves it unused
    for name in crossing:
        del own[name]
    own = {_own_name(name): value for name, value in own.items()}
    own = _fused(own)
    kernel = own.pop("linear", None)
    notes: list[str] = []
    is_flat = kernel is not None and kernel.shape[1] == prod(FLAT_PATCH) and _is_on_segvols_grid(own)
    if kernel is not None:
        patch, channels = (FLAT_PATCH, 1) if is_flat else _cube(where, kernel.shape[1])
        own["patch_embed.proj.weight"] = _convolution(kernel, patch, channels)
        if channels > 1:
            size = " x ".join(map(str, patch))
            notes.append(f"{channels} channels and patches of {size} assumed: a linear embedding shows their product")
    is_segvol = is_flat and "blocks.0.attn.qkv.bias" not in own
    architecture = _architecture(where, own)
    orientation = options.orientation or ((SEGVOL.orientation or "") if is_segvol else "RAS")
    turn, arguments = turn_from(orientation), architecture["init_args"]
    own["patch_embed.proj.weight"] = turn.volume(own["patch_embed.proj.weight"])
    own["pos_embed"] = turn.table(own["pos_embed"], tuple(arguments["position_grid"]))
    if "cls_token" in own:  # which has no place in MONAI
        own["pos_embed"] = torch.cat([torch.zeros_like(own["cls_token"]), own["pos_embed"]], dim=1)
    turned = {name: list(turn.sizes(arguments[name])) for name in ("patch_size", "position_grid")}
    architecture = {**architecture, "init_args": arguments | turned}
    if crossing:
        unused["cross_attn"] = len(crossing)
    if is_segvol:
        card = SEGVOL.card(raw, orientation)
    else:
        known = f"a ViT of MONAI, whose data are not known: axes {orientation} assumed, as MONAI's recipes have them"
        notes.insert(0, known)
        card = {
            "preprocessing": {"orientation": orientation},
            "pretraining": {},
            "licence": raw.licence,
            "citations": [],
        }
    notes.append(f"{arguments['heads']} heads assumed, {HEAD_WIDTH} channels each: no tensor shows it")
    form = "SegVol checkpoint" if is_segvol else "MONAI ViT"
    return EncoderFile(architecture, own, card, raw.sha256, form, unused, tuple(notes), assumed=("heads",))


_RENAMED = (
    (r"^patch_embedding\.position_embeddings$", "pos_embed"),
    (r"^patch_embedding\.cls_token$", "cls_token"),
    (r"^patch_embedding\.patch_embeddings\.1\.weight$", "linear"),
    (r"^patch_embedding\.patch_embeddings\.(?:1\.)?(weight|bias)$", r"patch_embed.proj.\1"),
    (r"\.mlp\.linear([12])\.", r".mlp.fc\1."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
)


def _own_name(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _fused(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return queries, keys and values in one matrix, where a file keeps them apart."""
    fused = dict(own)
    for name in own:
        if match := re.fullmatch(r"(blocks\.\d+\.attn)\.to_q\.(weight|bias)", name):
            parts = [fused.pop(f"{match[1]}.to_{part}.{match[2]}") for part in "qkv"]
            fused[f"{match[1]}.qkv.{match[2]}"] = torch.cat(parts)
    return fused


def _is_on_segvols_grid(own: Mapping[str, Tensor]) -> bool:
    return own["pos_embed"].shape[1] == prod(SEGVOL_GRID)


def _cube(where: str, count: int) -> tuple[Triple, int]:
    """Return the patch and the channels that a linear embedding of so many numbers is of.

    Raises:
        UserError: they make no cubes.
    """
    edge = round(count ** (1 / 3))
    if edge**3 == count:
        return (edge, edge, edge), 1
    for channels in range(2, MOST_CHANNELS + 1):
        if edge := next((one for one in USUAL_EDGES if channels * one**3 == count), 0):
            return (edge, edge, edge), channels
    raise UserError(
        f"{where}: embeds {count} numbers per patch, which is no cube of one channel, none of {MOST_CHANNELS} or fewer "
        f"with an edge of {', '.join(map(str, USUAL_EDGES))}, and on another grid than SegVol's "
        f"{' x '.join(map(str, FLAT_PATCH))}; no tensor shows its edges"
    )


def _convolution(linear: Tensor, patch: Triple, channels: int) -> Tensor:
    """Return a linear map of flattened patches (p1 p2 p3 c) as a convolution."""
    kernel: Tensor = linear.unflatten(1, (*patch, channels)).movedim(-1, 1)
    return kernel.contiguous()


def _architecture(where: str, own: Mapping[str, Tensor]) -> Config:
    """Describe the transformer, in the frame of the file."""
    width, in_channels, *patch = own["patch_embed.proj.weight"].shape
    depth = len({name.split(".")[1] for name in own if name.startswith("blocks.")})
    has_class = "cls_token" in own
    count = own["pos_embed"].shape[1]
    edge = round(count ** (1 / 3))
    grid = list(SEGVOL_GRID) if count == prod(SEGVOL_GRID) else [edge] * 3
    if prod(grid) != count:
        raise UserError(f"{where}: {count} positions in its table, which is no cube; its grid is not known")
    arguments: dict[str, Any] = {
        "width": width,
        "depth": depth,
        "heads": max(1, width // HEAD_WIDTH),
        "in_channels": in_channels,
        "patch_size": patch,
        "position_grid": grid,
        "qkv_bias": "blocks.0.attn.qkv.bias" in own,
        "norm_eps": 1e-5,
    }
    if not has_class:
        size = Size(width, depth, arguments["heads"])
        preset = next((name for name, known in PRESETS.items() if known == size), None)
        own_sizes = dict.fromkeys(Size._fields) if preset else {}
        return {
            "class_path": "medpretrain3d.backbones.vit.ViT",
            "init_args": arguments | {"preset": preset, **own_sizes},
        }
    of_class = {"positions": "learned", "num_register_tokens": 0, "layer_scale": None}
    return {"class_path": "medpretrain3d.backbones.dino_vit.DinoViT", "init_args": arguments | of_class}

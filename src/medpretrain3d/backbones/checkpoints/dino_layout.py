"""Vision transformers in the names of DINOv2 and DINOv3, told from their tensors and brought into our frame."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from medpretrain3d.backbones.base import Triple
from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.frame import OWN, Turn, turn_from
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.backbones.checkpoints.release import Release
from medpretrain3d.backbones.checkpoints.selection import select
from medpretrain3d.backbones.dino_vit import DinoViT
from medpretrain3d.configurable import Config
from medpretrain3d.errors import UserError

KERNEL = "patch_embed.proj.weight"
USUAL: Config = {"width": 768, "heads": 12, "norm_eps": 1e-6}
"""Of vision transformers: 64 channels a head."""
PARTS = {"cls_token", "register_tokens", "pos_embed", "periods", "patch_embed", "blocks", "norm"}


@dataclass(frozen=True)
class DinoLayout:
    """How one project names the parts of a DINO transformer, and what no tensor shows."""

    release: Release | None
    """None of a network of which no more is known than its tensors."""
    renamed: Mapping[str, str]
    """Beginnings of names that are ours under another one, such as `storage_tokens`: `register_tokens`."""
    is_half_paired: bool = False
    """Whether a channel is rotated together with that half a head away, all axes in either half; else with the next."""

    @property
    def released(self) -> Config:
        """Arguments of the released network."""
        arguments: Config = USUAL if self.release is None else self.release.architecture["init_args"]
        return arguments

    @property
    def orientation(self) -> str:
        """Of the volumes that it saw, as far as that is known; else it is read as it is."""
        return OWN if self.release is None or self.release.orientation is None else self.release.orientation


def dino_prefix(weights: Mapping[str, Tensor], kernel: str = KERNEL) -> str | None:
    """Return the prefix of the only patch embedding of volumes, such as `backbone.`; None where there is none."""
    found = [name.removesuffix(kernel) for name, value in weights.items() if name.endswith(kernel) and value.ndim == 5]
    return found[0] if len(found) == 1 and f"{found[0]}cls_token" in weights else None


def read_dino(raw: RawCheckpoint, options: ReadOptions, layout: DinoLayout, prefix: str) -> EncoderFile:
    """Return the encoder of a checkpoint in a layout.

    Args:
        raw: the file.
        options: its `orientation` replaces the release's.
        layout: of the project.
        prefix: before the transformer's names.

    Raises:
        UserError: a part is missing, or a table of positions fits no grid.
    """
    where, release = str(raw.path), layout.release
    renamed = {_renamed(name, prefix, layout.renamed): value for name, value in raw.weights.items()}
    own, unused = select(renamed, prefix, PARTS)
    own = _fused(own)
    arguments = _arguments(where, own, layout)
    heads = arguments["heads"]
    orientation = options.orientation or layout.orientation
    turn = turn_from(orientation)
    for name, value in own.items():
        if re.fullmatch(r"blocks\.\d+\.attn\.qkv\.(weight|bias)", name) and "periods" in own:
            q, k, v = value.chunk(3)
            if layout.is_half_paired:
                q, k = (neighbors_paired(part, heads) for part in (q, k))
            own[name] = torch.cat([turn.rotary(q, heads), turn.rotary(k, heads), v])
    own[KERNEL] = turn.volume(own[KERNEL])
    if "pos_embed" in own:
        own["pos_embed"] = turn.table(own["pos_embed"], tuple(arguments["position_grid"]))
    architecture = {"class_path": f"{DinoViT.__module__}.{DinoViT.__qualname__}", "init_args": _turned(arguments, turn)}
    if release is None:
        return _of_unknown_data(raw, architecture, own, unused, orientation)
    notes = release.variants(arguments, ("width", "depth"))
    if release.orientation is None and options.orientation is None:
        notes.append(
            f"{release.name} was trained on arrays as its files stored them, in no one frame: read as {orientation}; "
            "--orientation (init_options.orientation) says otherwise"
        )
    form = f"{release.name} checkpoint"
    return EncoderFile(architecture, own, release.card(raw, orientation), raw.sha256, form, unused, tuple(notes))


def _of_unknown_data(
    raw: RawCheckpoint, architecture: Config, own: dict[str, Tensor], unused: dict[str, int], orientation: str
) -> EncoderFile:
    notes = (
        f"a ViT with a class token, whose data are not known: axes {orientation} assumed; --orientation "
        "(init_options.orientation) says otherwise",
        f"{architecture['init_args']['heads']} heads assumed, and a norm eps of {USUAL['norm_eps']:g}: no tensor shows "
        "them",
    )
    card: dict[str, Any] = {
        "preprocessing": {"orientation": orientation},
        "pretraining": {},
        "licence": raw.licence,
        "citations": [],
    }
    assumed = ("heads", "norm_eps")
    return EncoderFile(architecture, own, card, raw.sha256, "ViT with a class token", unused, notes, assumed=assumed)


def neighbors_paired(projection: Tensor, heads: int) -> Tensor:
    """Exchange rows of a query or key projection so that what is rotated together stands side by side, as in `rotate`.

    Args:
        projection: rows (heads x 2 halves x 3 axes x bands, ...), weight or bias.
        heads: attention heads.
    """
    rows: Tensor = projection.unflatten(0, (heads, 2, 3, -1)).movedim(1, 3)
    return rows.flatten(0, 3).contiguous()


def _renamed(name: str, prefix: str, renamed: Mapping[str, str]) -> str:
    inner = name.removeprefix(prefix) if name.startswith(prefix) else ""
    for theirs, ours in renamed.items():
        if inner == theirs or inner.startswith(f"{theirs}."):
            inner = ours + inner.removeprefix(theirs)
    # DINOv2 trains its blocks in chunks, whose number stands before the block's own.
    inner = re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", inner)
    return prefix + inner if inner else name


def _fused(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return queries, keys and values in one matrix, where a file keeps the queries apart."""
    fused = dict(own)
    for name in own:
        if match := re.fullmatch(r"(blocks\.\d+\.attn)\.q\.(weight|bias)", name):
            both = f"{match[1]}.kv.{match[2]}"
            if both in own:
                fused[f"{match[1]}.qkv.{match[2]}"] = torch.cat([fused.pop(name), fused.pop(both)])
    return fused


def _arguments(where: str, own: dict[str, Tensor], layout: DinoLayout) -> dict[str, Any]:
    """Return the arguments of the network, in the frame of the file; periods are brought to fp32."""
    released = layout.released
    width, in_channels, *patch_size = own[KERNEL].shape
    depth = len({name.split(".")[1] for name in own if name.startswith("blocks.")})
    is_rotary = "periods" in own
    arguments: dict[str, Any] = {
        "width": width,
        "depth": depth,
        "heads": max(1, width // (released["width"] // released["heads"])),
        "in_channels": in_channels,
        "patch_size": patch_size,
        "positions": "rotary" if is_rotary else "learned",
        "num_register_tokens": own["register_tokens"].shape[1] if "register_tokens" in own else 0,
        "layer_scale": released.get("layer_scale", 1e-5) if "blocks.0.ls1.gamma" in own else None,
        "qkv_bias": "blocks.0.attn.qkv.bias" in own,
        "norm_eps": released.get("norm_eps", 1e-6),
    }
    if is_rotary:
        own["periods"] = own["periods"].float()
        arguments["heads"] = width // (6 * len(own["periods"]))
        return arguments | {name: released[name] for name in ("rope_base", "rope_precision") if name in released}
    if "pos_embed" not in own:
        raise UserError(f"{where}: neither rotary periods nor a table of positions in the file; it is incomplete")
    grid = _grid(where, own["pos_embed"].shape[1] - 1, turn_from(layout.orientation), released)
    offset = [abs(one) for one in released.get("interpolate_offset", (0.0, 0.0, 0.0))]
    return arguments | {"position_grid": list(grid), "interpolate_offset": offset}


def _grid(where: str, count: int, turn: Turn, released: Mapping[str, Any]) -> Triple:
    """Return the grid of a table in the file's frame: the released one where it counts as many places, else a cube."""
    theirs = [0, 0, 0]
    for axis, source in enumerate(turn.source):
        theirs[source] = released.get("position_grid", theirs)[axis]
    edge = round(count ** (1 / 3))
    for grid in (theirs, [edge] * 3):
        if prod(grid) == count:
            return (grid[0], grid[1], grid[2])
    wanted = f"neither {theirs} nor a cube" if any(theirs) else "no cube"
    raise UserError(f"{where}: {count} positions in its table, which is {wanted}; it is a variant")


def _turned(arguments: Config, turn: Turn) -> Config:
    sizes = [name for name in ("patch_size", "position_grid") if name in arguments]
    turned: dict[str, list[Any]] = {name: list(turn.sizes(arguments[name])) for name in sizes}
    if "interpolate_offset" in arguments:
        offset = [arguments["interpolate_offset"][axis] for axis in turn.source]
        turned["interpolate_offset"] = [
            -one if flips and one else one for one, flips in zip(offset, turn.is_flipped, strict=True)
        ]
    return arguments | turned

"""DINO transformers as their projects publish them, at a tiny size: files, and features computed step by step.

Nothing here is shared with the package: attention is a softmax of products, rotations are complex numbers or halves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

DEPTH, HEADS = 2, 2


@dataclass
class Project:
    """Names and options of one project."""

    prefix: str
    patch: tuple[int, int, int]
    grid: tuple[int, int, int] = (3, 3, 3)
    registers: str | None = None
    kernel: str = "patch_embed"
    periods: str | None = None
    base: float = 100.0
    is_half_paired: bool = False
    dtype: torch.dtype = torch.float32
    eps: float = 1e-6
    has_bias: bool = True
    is_split: bool = False
    is_chunked: bool = False
    top: str | None = None
    offset: float = 0.0
    width: int = 24
    """With learned positions nothing but a width of 64 per head says how many heads there are."""
    others: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def bands(self) -> int:
        return self.width // HEADS // 6


PROJECTS = {
    "FlexiCT-3D": Project(
        "backbone.",
        (8, 8, 8),
        registers="storage_tokens",
        kernel="patch_embed_3D",
        periods="rope_embed_3D.periods",
        is_half_paired=True,
        dtype=torch.bfloat16,
        has_bias=False,
        top="teacher",
        others={
            "backbone.patch_embed_2D.proj.weight": (24, 1, 8, 8),
            "backbone.rope_embed_2D.periods": (3,),
            "backbone.mask_token": (1, 24),
            "dino_head.mlp.0.weight": (4, 24),
            "ibot_head.mlp.0.weight": (4, 24),
        },
    ),
    "SPECTRE": Project(
        "", (16, 16, 8), periods="rope.periods", base=1000.0, is_half_paired=True, eps=1e-5, is_split=True
    ),
    "VoxelFM": Project(
        "module.backbone.",
        (14, 14, 14),
        registers="register_tokens",
        periods="rope_embed.periods",
        eps=1e-5,
        top="teacher",
        others={"module.backbone.mask_token": (1, 24), "module.dino_head.mlp.0.weight": (4, 24)},
    ),
    "3DINO": Project("backbone.", (16, 16, 16), is_chunked=True, top="teacher", offset=0.1, width=128),
    "TAP-CT": Project("", (4, 8, 8), (3, 28, 28), registers="register_tokens", width=128),
}


def weights_of(project: Project) -> dict[str, Tensor]:
    """Random weights under plain names, the same every time."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return 0.1 * torch.randn(*shape, generator=generator)

    weights = {
        "cls_token": random(1, 1, project.width),
        "patch.weight": random(project.width, 1, *project.patch) / math.prod(project.patch) ** 0.5,
        "patch.bias": random(project.width),
        "norm.weight": 1 + random(project.width),
        "norm.bias": random(project.width),
    }
    if project.registers:
        weights["registers"] = random(1, 4, project.width)
    if project.periods:
        steps = torch.arange(project.bands, dtype=torch.float32)
        weights["periods"] = (project.base ** (2 * steps / (2 * project.bands))).to(project.dtype)
    else:
        weights["pos_embed"] = random(1, 1 + math.prod(project.grid), project.width)
    for i in range(DEPTH):
        for norm in ("norm1", "norm2"):
            weights |= {f"{i}.{norm}.weight": 1 + random(project.width), f"{i}.{norm}.bias": random(project.width)}
        for scale in ("ls1", "ls2"):
            weights[f"{i}.{scale}.gamma"] = random(project.width)
        sizes = {"attn.qkv": (3 * project.width, project.width), "attn.proj": (project.width, project.width)}
        sizes |= {"mlp.fc1": (4 * project.width, project.width), "mlp.fc2": (project.width, 4 * project.width)}
        for name, (rows, columns) in sizes.items():
            weights[f"{i}.{name}.weight"] = random(rows, columns)
            if name != "attn.qkv" or project.has_bias:
                weights[f"{i}.{name}.bias"] = random(rows)
    return weights


def file_of(project: Project) -> dict[str, object]:
    """The content of a released file."""
    names = {"registers": project.registers, "periods": project.periods}
    found: dict[str, Tensor] = {}
    for name, value in weights_of(project).items():
        first, _, rest = name.partition(".")
        if first == "patch":
            released = f"{project.kernel}.proj.{rest}"
        elif first.isdigit():
            released = f"blocks.0.{name}" if project.is_chunked else f"blocks.{name}"
        else:
            released = names.get(name) or name
        if project.is_split and ".attn.qkv." in released:
            found[project.prefix + released.replace("qkv", "q")] = value[: project.width].clone()
            found[project.prefix + released.replace("qkv", "kv")] = value[project.width :].clone()
        else:
            found[project.prefix + released] = value
    found |= {name: torch.zeros(shape) for name, shape in project.others.items()}
    return {project.top: found} if project.top else found


def features_of(project: Project, image: Tensor) -> list[Tensor]:
    """The map (B, width, d, h, w) behind each block, through the last norm, of an image in the project's own frame.

    In fp64, but for the rotation, so that what differs is no rounding.
    """
    weights = {name: value if name == "periods" else value.double() for name, value in weights_of(project).items()}
    x = F.conv3d(image, weights["patch.weight"], weights["patch.bias"], stride=project.patch)
    grid = tuple(x.shape[2:])
    x = x.flatten(2).transpose(1, 2)
    prefix = weights["cls_token"]
    if "pos_embed" in weights:
        table = weights["pos_embed"]
        prefix, x = prefix + table[:, :1], x + _table(project, table[:, 1:], grid)
    if "registers" in weights:
        prefix = torch.cat([prefix, weights["registers"]], dim=1)
    x = torch.cat([prefix.expand(len(x), -1, -1), x], dim=1)
    features = []
    for i in range(DEPTH):
        block = {name.partition(".")[2]: value for name, value in weights.items() if name.startswith(f"{i}.")}
        y = F.layer_norm(x, [project.width], block["norm1.weight"], block["norm1.bias"], project.eps)
        x = x + block["ls1.gamma"] * _attention(project, block, y, grid, weights.get("periods"))
        y = F.layer_norm(x, [project.width], block["norm2.weight"], block["norm2.bias"], project.eps)
        y = F.gelu(y @ block["mlp.fc1.weight"].T + block["mlp.fc1.bias"])
        x = x + block["ls2.gamma"] * (y @ block["mlp.fc2.weight"].T + block["mlp.fc2.bias"])
        out = F.layer_norm(x, [project.width], weights["norm.weight"], weights["norm.bias"], project.eps)
        features.append(out[:, prefix.shape[1] :].transpose(1, 2).unflatten(2, grid))
    return features


def _table(project: Project, table: Tensor, grid: tuple[int, ...]) -> Tensor:
    if grid == project.grid:
        return table
    volume = table.transpose(1, 2).unflatten(2, project.grid)
    if project.offset:
        scale = [(n + project.offset) / m for n, m in zip(grid, project.grid, strict=True)]
        return F.interpolate(volume, scale_factor=scale, mode="trilinear").flatten(2).transpose(1, 2)
    return F.interpolate(volume, size=grid, mode="trilinear").flatten(2).transpose(1, 2)


def _attention(
    project: Project, block: dict[str, Tensor], x: Tensor, grid: tuple[int, ...], periods: Tensor | None
) -> Tensor:
    qkv = x @ block["attn.qkv.weight"].T + block.get("attn.qkv.bias", torch.zeros(()))
    q, k, v = qkv.unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
    if periods is not None:
        q, k = (_rotated(project, part, grid, periods) for part in (q, k))
    mixed = (q @ k.transpose(-2, -1) / (project.width / HEADS) ** 0.5).softmax(-1) @ v
    return mixed.transpose(1, 2).flatten(2) @ block["attn.proj.weight"].T + block["attn.proj.bias"]


def _rotated(project: Project, x: Tensor, grid: tuple[int, ...], periods: Tensor) -> Tensor:
    dtype, before = project.dtype, x.dtype
    centers = [torch.arange(0.5, size, dtype=dtype) / size for size in grid]
    places = 2.0 * torch.cartesian_prod(*centers) - 1.0  # (N, 3)
    angles = (2 * math.pi * places[:, :, None] / periods).flatten(1)  # (N, 3 bands), axis by axis
    x = x.to(dtype)
    special, x = x[:, :, : -len(places)], x[:, :, -len(places) :]
    if project.is_half_paired:
        first, second = x.chunk(2, dim=-1)
    else:
        first, second = x[..., ::2], x[..., 1::2]
    cos, sin = angles.cos(), angles.sin()
    turned = first * cos + -second * sin, second * cos + first * sin
    x = torch.cat(turned, dim=-1) if project.is_half_paired else torch.stack(turned, dim=-1).flatten(-2)
    return torch.cat([special, x], dim=2).to(before)

"""List the encoders: levels as channels/stride, parameters, arithmetic and memory at one patch, paper.

Nothing is allocated: networks are built and run on tensors without memory. GFLOP are of one forward pass, a
multiplication with its addition counted as two; GB are the activations kept for the backward pass in fp32. Where the
patch is no multiple of the coarsest stride they are those of the nearest patch that is, which the line says.
"""

from __future__ import annotations

import argparse

import torch

from medpretrain3d.backbones import Backbone, Level
from medpretrain3d.backbones.base import Triple
from medpretrain3d.backbones.cost import cost
from medpretrain3d.commands.numbers import Number
from medpretrain3d.errors import UserError
from medpretrain3d.registry import known_classes
from medpretrain3d.values import Count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The patch, and which families."""
    parser.add_argument("families", nargs="*", help="classes to list, such as ResEnc ViT; all by default")
    parser.add_argument(
        "--patch", type=Number(Count), default=128, help="edge of the cube that arithmetic and memory are for"
    )


def run(args: argparse.Namespace) -> int:
    """Print a line per size of each family."""
    edge = args.patch
    print(f"{'name':<26}{'parameters':>12}{f'GFLOP/{edge}^3':>13}{f'GB/{edge}^3':>10}  levels (channels/stride)  paper")
    for family in _families(args.families):
        for arguments in family.sizes:
            with torch.device("meta"):
                backbone = family(**arguments)
            patch = _nearest(edge, backbone.levels[-1].stride)
            spent = cost(backbone, patch)
            at = "" if patch == (edge,) * 3 else f" at {' x '.join(map(str, patch))}"
            levels = " ".join(_short(level) for level in backbone.levels)
            numbers = f"{backbone.num_parameters():>12,}{spent.flop / 1e9:>13.1f}{spent.activation_bytes / 1e9:>10.2f}"
            print(f"{backbone.name:<26}{numbers}  {levels}{at}  {backbone.citation}", flush=True)
    return 0


def _families(names: list[str]) -> list[type[Backbone]]:
    listed = {name: cls for name, cls in sorted(known_classes(Backbone).items()) if cls.sizes}
    if unknown := [name for name in names if name not in listed]:
        raise UserError(f"no backbone family {', '.join(unknown)}; known are {', '.join(listed)}")
    return [listed[name] for name in names or listed]


def _nearest(edge: int, stride: Triple) -> Triple:
    """Return the patch (D, H, W) nearest to a cube that is a multiple of a stride."""
    d, h, w = (max(round(edge / step), 1) * step for step in stride)
    return d, h, w


def _short(level: Level) -> str:
    d, h, w = level.stride
    return f"{level.channels}/{d}" if d == h == w else f"{level.channels}/{d}x{h}x{w}"

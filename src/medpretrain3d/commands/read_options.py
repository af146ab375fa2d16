"""The choices that some checkpoints leave open, as arguments of every command that reads one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medpretrain3d.backbones import ReadOptions


def add_read_options(parser: argparse.ArgumentParser) -> None:
    """`--stem`, `--token-order`, `--orientation` and `--norm`."""
    parser.add_argument("--stem", help="of a network with one stem per data set, which one; default: the file's own")
    parser.add_argument(
        "--token-order", choices=["whd", "hwd"], help="how a Primus flattened its patches; default: as its source does"
    )
    parser.add_argument(
        "--orientation",
        metavar="RAS",
        help="of the volumes that released weights were trained on, where it is not certain; default: as their authors "
        "state it",
    )
    parser.add_argument(
        "--norm",
        choices=["instance", "group"],
        help="of a SegResEncoder of MONAI without statistics, which no tensor tells; default: instance",
    )


def read_options(args: argparse.Namespace) -> ReadOptions:
    """Return the read options chosen on the command line."""
    from medpretrain3d.backbones import ReadOptions

    return ReadOptions(stem=args.stem, token_order=args.token_order, orientation=args.orientation, norm=args.norm)

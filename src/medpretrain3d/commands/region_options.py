"""The region in which candidates are looked for, as options of a command."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from medpretrain3d.commands.numbers import Number
from medpretrain3d.commands.unused_options import refuse_unused
from medpretrain3d.values import NonNegative

if TYPE_CHECKING:
    from medpretrain3d.inference.regions import Regions


def add_region_to_look_at(parser: argparse.ArgumentParser) -> None:
    """`--region`, `--region-parts` and `--region-margin-mm` of what predicts."""
    add_region(parser)
    parser.add_argument(
        "--region-margin-mm",
        type=Number(NonNegative),
        default=10.0,
        metavar="MM",
        help="what is so near belongs to the region (default: %(default)s)",
    )


def add_region(parser: argparse.ArgumentParser, is_required: bool = False) -> None:
    """`--region` and `--region-parts`; margins are an option by themselves, of which `restrict` takes several."""
    parser.add_argument(
        "--region",
        type=Path,
        required=is_required,
        metavar="PLACE",
        help="where to look: a folder of organ masks as TotalSegmentator writes them (<case>/<organ>.nii.gz, or label "
        "maps <case>.nii.gz), or predictions.json of a coarse detector",
    )
    parser.add_argument(
        "--region-parts",
        nargs="+",
        default=[],
        metavar="NAME",
        help="organs, numbers of label maps, or classes of the coarse detector (default: all)",
    )


def refuse_without_region(args: argparse.Namespace) -> None:
    """Refuse parts and a margin where there is no region.

    Raises:
        UserError: there is one of them.
    """
    if args.region is None:
        names = ("region_parts", "region_margin_mm")
        refuse_unused(args, add_region_to_look_at, names, "is of a region; name it with --region, or leave it out")


def regions_of(args: argparse.Namespace, margin_mm: float) -> Regions | None:
    """Return the regions that the options name, or None.

    Raises:
        UserError: see `Regions`.
    """
    from medpretrain3d.inference.regions import Regions

    return None if args.region is None else Regions(args.region, tuple(args.region_parts), margin_mm)

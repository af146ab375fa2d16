"""The region in which candidates are looked for, as options of a command."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medpretrain3d.inference.regions import Regions


DEFAULT_MARGIN_MM = 10.0


def add_region(parser: argparse.ArgumentParser, is_required: bool = False) -> None:
    """`--region` and `--region-parts`; the margin is an option of its own, of which some take several."""
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


def regions_of(args: argparse.Namespace, margin_mm: float) -> Regions | None:
    """Return the regions that the options name, or None.

    Raises:
        UserError: see `Regions`.
    """
    from medpretrain3d.inference.regions import Regions

    return None if args.region is None else Regions(args.region, tuple(args.region_parts), margin_mm)

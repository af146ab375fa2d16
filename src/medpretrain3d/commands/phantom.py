"""Write synthetic chest CTs with lung nodules: NIfTI images and instance maps in nnU-Net's layout.

boxes.csv lists the nodules, cases.csv says which cases have one. The same parameters give the same bytes. A folder that
is partly written is completed. `medpretrain3d prepare` reads it.
"""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path

from medpretrain3d.commands.numbers import Number, Processes, SpacingMm
from medpretrain3d.values import Count, Seed

SAVES_MEMORY = "use fewer --workers"
"""What to change where memory runs out."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Folder, how many cases, seed, resolution and processes; defaults are those of `write_phantom`."""
    from medpretrain3d.phantom import write_phantom

    default = {name: parameter.default for name, parameter in inspect.signature(write_phantom).parameters.items()}
    parser.add_argument("out", type=Path, metavar="OUT", help="new or empty folder, or one to complete")
    parser.add_argument(
        "--cases", type=Number(Count), required=True, metavar="N", help="train, validation and test together (60/20/20)"
    )
    parser.add_argument("--seed", type=Number(Seed), default=default["seed"], metavar="S", help="default: %(default)s")
    parser.add_argument(
        "--spacing-mm",
        type=Number(SpacingMm),
        default=default["spacing_mm"],
        help="nominal voxel edge; cases vary by a tenth in plane and a quarter between slices (default: %(default)s)",
    )
    parser.add_argument(
        "--organs", action="store_true", help="masks of the lungs, too: OUT/organs/<case>/lung.nii.gz, for --region"
    )
    parser.add_argument(
        "--workers", type=Number(Processes), default=default["workers"], help="processes (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Write what is missing and say what is there.

    Raises:
        UserError: a parameter out of range, a folder that holds something else, or a disk that is full or read-only.
    """
    from medpretrain3d.phantom import write_phantom

    folder = write_phantom(
        args.out, args.cases, args.seed, args.spacing_mm, args.workers, progress=True, organs=args.organs
    )
    if folder.num_reused:
        print(f"{folder.num_reused} of {args.cases} cases were there already (same parameters), kept as they are")
    sizes = ", ".join(f"{len(folder.splits[name])} {name}" for name in ("train", "val", "test"))
    print(f"{folder.path}: {folder.num_written} cases written; {sizes}; {folder.num_nodules} nodules")
    return 0

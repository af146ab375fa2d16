"""Read raw volumes and labels into a store.

RAW is a folder in the layout of nnU-Net or the Medical Segmentation Decathlon, or any folder of .nii/.nii.gz volumes
without labels. Several RAW folders make one store; their case ids must differ. Finished cases are kept as long as their
files and the options stay the same, so an interrupted call continues.
Exit code: 0 when every case was used, 1 when some were left out (see STORE/skipped.json), 2 on bad input.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medpretrain3d.data.prepare import PrepareOptions, prepare


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Folders and options."""
    parser.add_argument("raw", type=Path, nargs="+", metavar="RAW")
    parser.add_argument("store", type=Path, metavar="STORE")
    parser.add_argument(
        "--spacing-mm", type=float, nargs=3, metavar=("D", "H", "W"), help="resample to this; default: each scan's own"
    )
    parser.add_argument(
        "--objects",
        choices=("components", "labels"),
        help="one object is a connected component or a label value; default: as dataset.json says, else components",
    )
    parser.add_argument("--min-voxels", type=int, default=1, help="smaller objects become background")
    parser.add_argument("--fold", type=int, default=0, help="fold of splits.json")
    parser.add_argument("--workers", type=int, default=1, help="cases at a time, each in a process of its own")


def run(args: argparse.Namespace) -> int:
    """Prepare, then say what happened."""
    options = PrepareOptions(
        tuple(args.spacing_mm) if args.spacing_mm else None, args.objects, args.min_voxels, args.fold
    )
    summary = prepare(args.raw, args.store, options, args.workers, progress=True)
    for skipped in summary.skipped:
        print(f"skipped {skipped['case']}: {skipped['reason']}", file=sys.stderr)
    splits = ", ".join(f"{name} {count}" for name, count in summary.splits.items())
    done = f"{summary.prepared} prepared, {summary.reused} reused, {len(summary.skipped)} skipped"
    print(f"{args.store}: {done}; cases: {splits}")
    return int(bool(summary.skipped))

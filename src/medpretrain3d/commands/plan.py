"""Propose anchors for the boxes of a labelled store, ready to be pasted into a recipe.

Anchor sizes are searched on the training boxes so that the mean best IoU is high; each object counts on the level whose
stride suits its size.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from medpretrain3d.data.corpus import Corpus
from medpretrain3d.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Store and levels."""
    parser.add_argument("store", type=Path, metavar="STORE")
    parser.add_argument("--strides", type=int, nargs="+", default=[4, 8], help="stride of each detection level")
    parser.add_argument("--anchors-per-level", type=int, default=4)


def run(args: argparse.Namespace) -> int:
    """Search, then print."""
    from medpretrain3d.detection.anchors_search import optimise_anchor_sizes

    cases = [ref.open() for ref in Corpus([args.store]).cases("train")]
    boxes = np.concatenate([case.boxes for case in cases])
    if len(boxes) == 0:
        raise UserError(f"{args.store}: no training case holds an object; prepare a labelled data set")
    shapes = np.array([case.grid.shape for case in cases])
    choice = optimise_anchor_sizes(
        boxes[:, 3:] - boxes[:, :3], [(stride,) * 3 for stride in args.strides], args.anchors_per_level
    )
    median = " x ".join(f"{size:.0f}" for size in np.median(shapes, axis=0))
    print(f"# {len(boxes)} boxes of {len(cases)} training cases; median volume {median} voxels")
    print(f"# mean best IoU {choice.mean_best_iou:.3f}, of the worst tenth {choice.worst_tenth_iou:.3f}")
    print("anchors:")
    print("  class_path: medpretrain3d.detection.AnchorGrid")
    print("  init_args:")
    print("    sizes:")
    for stride, level, count in zip(args.strides, choice.sizes, choice.objects_per_level, strict=True):
        sizes = ", ".join("[" + ", ".join(f"{edge:g}" for edge in size) + "]" for size in level)
        print(f"      - [{sizes}]  # stride {stride}, {count} objects")
    return 0

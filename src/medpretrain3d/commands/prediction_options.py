"""Options of predictions that are read: of which program, and what its files do not say."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from medpretrain3d.commands.numbers import Number
from medpretrain3d.commands.unused_options import refuse_unused
from medpretrain3d.evaluation import read_targets
from medpretrain3d.evaluation.files import BoxConvention, PredictionFile, TargetFile
from medpretrain3d.evaluation.readers import READERS, ReadOptions, format_of, read_any_predictions
from medpretrain3d.evaluation.readers.box_modes import MODE_NAMES, BoxMode, box_mode
from medpretrain3d.evaluation.readers.options import BoxFrame, ComponentScore, Objects
from medpretrain3d.values import Count

FORMATS_OF: Mapping[str, tuple[str, ...]] = {
    "boxes": ("medpretrain3d", "nndetection", "monai"),
    **dict.fromkeys(("box_mode", "box_frame"), ("monai",)),
    "component_score": ("nnunet",),
    **dict.fromkeys(("objects", "min_voxels"), ("nnunet", "totalsegmentator")),
}
"""Programs to whose files an option means something; of ours `--boxes` is about the targets, too."""
BOX_OPTIONS = tuple(FORMATS_OF)
"""What is said of boxes that are read, or of label maps that become boxes."""


def add_prediction_arguments(parser: argparse.ArgumentParser) -> None:
    """Of which program predictions are, and how its boxes are written."""
    defaults = ReadOptions()
    group = parser.add_argument_group(
        "predictions of other programs", "what their files leave open (docs/evaluation.md#results-of-other-programs)"
    )
    group.add_argument(
        "--predictions-format", choices=[*READERS], help="program that made the predictions (default: by what is there)"
    )
    group.add_argument(
        "--boxes",
        choices=get_args(BoxConvention),
        default=defaults.convention,
        help="voxel boxes; inclusive: the max corner is the last voxel inside (+1); nndetection: made of masks as "
        "[min - 1, max + 1] (default: %(default)s)",
    )
    group.add_argument(
        "--box-mode",
        metavar="MODE",
        help=f"monai: order of the six numbers, {', '.join(get_args(BoxMode))}, or its class, {', '.join(MODE_NAMES)}",
    )
    group.add_argument("--box-frame", choices=get_args(BoxFrame), help="monai: where boxes are")
    group.add_argument(
        "--component-score",
        choices=get_args(ComponentScore),
        default=defaults.component_score,
        help="nnunet: of the probabilities of an object's voxels (default: %(default)s)",
    )
    group.add_argument(
        "--objects",
        choices=get_args(Objects),
        help="label maps: what is one object (default: components for nnunet, labels for totalsegmentator)",
    )
    group.add_argument(
        "--min-voxels",
        type=Number(Count),
        default=defaults.min_voxels,
        help="label maps: smaller objects are left out (default: %(default)s)",
    )


def read_wanted(path: Path, predictions: Sequence[Path], args: argparse.Namespace) -> TargetFile:
    """Read targets, or boxes of training: `--boxes` is about them, too, where predictions are JSON of this project.

    Raises:
        UserError: an option that means nothing to these predictions, or see `read_targets` and `format_of`.
    """
    formats = {args.predictions_format or format_of(one) for one in predictions}
    for name, known in FORMATS_OF.items():
        if not formats & set(known):
            why = f"is of {' or '.join(known)}, the predictions are of {' and '.join(sorted(formats))}; leave it out"
            refuse_unused(args, add_prediction_arguments, (name,), why)
    return read_targets(path, args.boxes if "medpretrain3d" in formats else "half-open")


def read_found(path: Path, targets: TargetFile, args: argparse.Namespace) -> PredictionFile:
    """Read predictions as the options say.

    Raises:
        UserError: see `read_any_predictions`.
    """
    options = ReadOptions(
        format=args.predictions_format,
        convention=args.boxes,
        box_mode=None if args.box_mode is None else box_mode(args.box_mode),
        box_frame=args.box_frame,
        component_score=args.component_score,
        objects=args.objects,
        min_voxels=args.min_voxels,
    )
    return read_any_predictions(path, targets, options)

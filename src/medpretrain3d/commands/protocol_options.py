"""Which options of `evaluate` are of which protocol: none is ignored in silence."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

from medpretrain3d.commands.prediction_options import BOX_OPTIONS
from medpretrain3d.commands.unused_options import refuse_unused

OF_BOXES = ("detection", "centre", "case-level", "operating-points", "calibration", "ribfrac", "picai")
"""Protocols that read boxes, of whatever program."""
PROTOCOLS_OF: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("compat", "size_bins_mm", "confusion_score", "train_targets", "cases", "scans"), ("detection",)),
    "folds": ("detection", "centre"),
    "hit": ("centre",),
    "iou": ("case-level", "operating-points", "calibration"),
    "scores": ("detection", "centre", "operating-points"),
    "case_threshold": ("detection", "centre", "case-level"),
    **dict.fromkeys(("annotations", "excluded", "series"), ("luna16",)),
    "instance_scores": ("ribfrac",),
    **dict.fromkeys(("converted", "predictions_format", *BOX_OPTIONS), OF_BOXES),
}
"""Of options that not every protocol has."""


def refuse_options_of_others(
    args: argparse.Namespace, add_arguments: Callable[[argparse.ArgumentParser], None]
) -> None:
    """Refuse options that the protocol asked for has no use for, where they were given another value than the default.

    Raises:
        UserError: there is one.
    """
    for name, protocols in PROTOCOLS_OF.items():
        if args.protocol not in protocols:
            why = f"is of protocol {' or '.join(protocols)}, got protocol {args.protocol}; leave it out"
            refuse_unused(args, add_arguments, (name,), why)
    if args.cases is None:
        refuse_unused(
            args, add_arguments, ("scans",), "is of --cases FOLDER, a page to look at; add it, or leave it out"
        )

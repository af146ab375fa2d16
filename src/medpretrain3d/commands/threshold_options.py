"""Options of `predict` by which boxes are shown and scans called positive."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from medpretrain3d.commands.numbers import Number
from medpretrain3d.errors import UserError
from medpretrain3d.values import NonNegative, Share

if TYPE_CHECKING:
    from medpretrain3d.inference.bundle import Bundle
    from medpretrain3d.inference.operating_points import OperatingPoints
    from medpretrain3d.inference.thresholds import Thresholds


def add_thresholds(parser: argparse.ArgumentParser) -> None:
    """Operating point of the boxes, thresholds of classes and of scans."""
    parser.add_argument(
        "--at-fp",
        type=Number(NonNegative),
        metavar="RATE",
        help="show boxes from the score on that gave so many false positives per scan in the bundle's validation scans",
    )
    parser.add_argument(
        "--at-fp-per-class", action="store_true", help="--at-fp for each class by itself, with a threshold of its own"
    )
    parser.add_argument(
        "--class-threshold",
        action="append",
        default=[],
        metavar="CLASS=SCORE",
        help="show boxes of this class from this score on; repeatable",
    )
    parser.add_argument(
        "--case-threshold",
        type=Number(Share),
        help="call a scan positive from this highest score on (default with --at-fp: the one that told validation "
        "scans with and without objects apart best; else, where a box is shown)",
    )


def thresholds_of(
    args: argparse.Namespace, bundles: Sequence[Bundle], num_named: int, is_changed: bool
) -> tuple[Thresholds | None, list[str]]:
    """Return the thresholds that are asked for, None without any, and what to say about them.

    Args:
        args: of `predict`.
        bundles: members of the ensemble, or the one bundle.
        num_named: how many bundles or ensembles were named.
        is_changed: whether options differ from the bundle's.

    Raises:
        UserError: an unknown class, no score, or the bundle has no operating points.
    """
    from medpretrain3d.inference.thresholds import Thresholds

    classes = bundles[0].classes
    own = _by_class(args.class_threshold, classes)
    if args.at_fp is None:
        if args.at_fp_per_class:
            raise UserError("--at-fp-per-class goes with --at-fp RATE; say the rate")
        if not own and args.case_threshold is None:
            return None, []
        return Thresholds(tuple(own.get(name, 0.0) for name in classes), args.case_threshold), []
    points = bundles[0].operating_points
    if num_named > 1:
        raise UserError(
            f"--at-fp {args.at_fp:g}: {num_named} bundles were never validated together; make an ensemble with "
            "`medpretrain3d cross-validate`, or give --score-threshold"
        )
    if points is None:
        raise UserError(
            f"--at-fp {args.at_fp:g}: the bundle holds no operating points; `medpretrain3d tune BUNDLE --store STORE` "
            "makes them from labeled scans, or give --score-threshold"
        )
    lines = [_line(args.at_fp, points, name) for name in (classes if args.at_fp_per_class else (None,))]
    if is_changed:
        lines.append("note: the threshold was chosen with the bundle's own options, this call has others")
    if args.region is not None:
        lines.append("note: the threshold was chosen without a region; one may leave fewer false positives and objects")
    at = {name: points.at_rate(args.at_fp, name if args.at_fp_per_class else None).score for name in classes}
    case = points.case_threshold() if args.case_threshold is None else args.case_threshold
    return Thresholds(tuple({**at, **own}[name] for name in classes), case), lines


def _line(rate: float, points: OperatingPoints, name: str | None) -> str:
    found = points.at_rate(rate, name)
    known = "" if math.isnan(found.sensitivity) else f"sensitivity {found.sensitivity:.3f} and "
    where = f"{points.num_scans} {points.document['scans']} scans"
    return (
        f"{'' if name is None else f'{name}: '}score >= {found.score:.4f}, which gave {known}"
        f"{found.false_positives_per_scan:.3g} false positives per scan in {where}"
    )


def _by_class(texts: Sequence[str], classes: Sequence[str]) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for text in texts:
        name, equals, score = text.rpartition("=")
        try:
            value = float(score)
        except ValueError:
            value = math.nan
        if not equals or not 0 <= value <= 1:
            raise UserError(f"--class-threshold {text}: wanted CLASS=SCORE with a score from 0 to 1")
        if name not in classes:
            raise UserError(f"--class-threshold {text}: the bundle has no class '{name}', it has {', '.join(classes)}")
        if name in found:
            raise UserError(f"--class-threshold {text}: '{name}' has one already; give each class one")
        found[name] = value
    return found

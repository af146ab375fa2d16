"""Score predictions against targets: AP, mAP and FROC, with bootstrap intervals over scans.

Both files are JSON with `classes` and one entry per scan (see docs/data.md). The table goes to the terminal, everything
to the output file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from medpretrain3d.atomic import write_text
from medpretrain3d.evaluation import evaluate, pair, read_predictions, read_targets
from medpretrain3d.evaluation.bootstrap import CONFIDENCE, NUM_BOOTSTRAP
from medpretrain3d.evaluation.detection import MAP_KEY, Compat, ap_key, froc_curve_key, froc_score_key

SHOWN_IOUS = (0.1, 0.3, 0.5)
FROC_IOUS = (0.1, 0.5)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Two files in, one out."""
    parser.add_argument("--predictions", type=Path, required=True, help="JSON file with what was found")
    parser.add_argument("--targets", type=Path, required=True, help="JSON file with what was to be found")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    add_resampling_arguments(parser)
    parser.add_argument(
        "--compat",
        choices=get_args(Compat),
        default="none",
        help="nndetection: a class without objects has AP -1 and enters the means (default: it is left out)",
    )


def add_resampling_arguments(parser: argparse.ArgumentParser) -> None:
    """The bootstrap's settings."""
    parser.add_argument("--bootstrap", type=int, default=NUM_BOOTSTRAP, help="replicates (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the resampling (default: %(default)s)")
    parser.add_argument("--confidence", type=float, default=CONFIDENCE, help="of the intervals (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Score, write, print."""
    predictions, targets = read_predictions(args.predictions), read_targets(args.targets)
    result = evaluate(
        pair(predictions, targets),
        targets.cases,
        targets.classes,
        num_bootstrap=args.bootstrap,
        seed=args.seed,
        confidence=args.confidence,
        compat=args.compat,
    )
    write_text(args.output, json.dumps(result, indent=1) + "\n")
    print(table(result))
    print(f"all numbers: {args.output}")
    return 0


def table(result: Mapping[str, Any]) -> str:
    """mAP and AP per class, then the FROC curves, as lines of text."""
    num_targets = result["num_targets"]
    lines = [
        f"{result['num_cases']} scans, {sum(num_targets.values())} objects, {result['num_predictions']} detections"
    ]
    if result["num_bootstrap"]:
        lines[0] += f"; {result['confidence']:.0%} intervals from {result['num_bootstrap']} resamplings of the scans"
    columns = {"mAP .1:.5": MAP_KEY} | {f"AP {iou:.1f}": ap_key(iou) for iou in SHOWN_IOUS}
    rows = [("all classes", sum(num_targets.values()), "")]
    if len(num_targets) > 1:
        rows += [(name, count, f"{name}_") for name, count in num_targets.items()]
    width = max(len(name) for name, _, _ in rows)
    lines.append(f"{'':<{width}}  objects  " + "  ".join(f"{name:<21}" for name in columns).rstrip())
    for name, count, prefix in rows:
        cells = [_cell(result, prefix + key) for key in columns.values()]
        lines.append(f"{name:<{width}}  {count:>7}  " + "  ".join(f"{cell:<21}" for cell in cells).rstrip())
    rates = "  ".join(f"{rate:>5g}" for rate in result["false_positives_per_scan"])
    lines.append(f"sensitivity at false positives per scan:  {rates}  mean")
    for iou in FROC_IOUS:
        curve = "  ".join(f"{value:>5.3f}" for value in result[froc_curve_key(iou)])
        lines.append(f"{f'  FROC at IoU {iou:.1f}':<42}{curve}  {_cell(result, froc_score_key(iou))}")
    if result["classes_without_targets"]:
        names = ", ".join(result["classes_without_targets"])
        how = "AP -1, counted in the means" if result["compat"] == "nndetection" else "left out of the means"
        lines.append(f"classes without objects, {how}: {names}")
    return "\n".join(lines)


def _cell(result: Mapping[str, Any], key: str) -> str:
    if key not in result["intervals"]:
        return f"{result[key]:.3f}"
    low, high = result["intervals"][key]
    return f"{result[key]:.3f} [{low:.3f}, {high:.3f}]"

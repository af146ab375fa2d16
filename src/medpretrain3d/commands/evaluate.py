"""Score predictions against targets, by the rules of a field, with intervals over patients.

  detection         boxes by IoU: AP, mAP, AR, FROC, by class and size       JSON files (docs/data.md)
  centre            boxes or points by the distance of their centres         JSON files
  case-level        AUROC and AUPRC of the highest score of each scan        JSON files
  operating-points  sensitivity, precision, false positives at chosen scores JSON files
  calibration       reliability of the scores                                JSON files
  masks             instance masks by IoU: AP, mAP, Dice                     folders: of `predict`, and of instance maps
  luna16            CPM                                                      CSV files, or JSON as predictions
  ribfrac           sensitivity at IoU > 0.2                                 folders of masks and a CSV, or JSON files
  picai             AP and AUROC                                             folders of maps and masks, or JSON files

Every protocol is defined in docs/evaluation.md. The table goes to the terminal, everything to the output file.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, get_args

from medpretrain3d.atomic import locked, write_text
from medpretrain3d.commands.numbers import Number
from medpretrain3d.commands.prediction_options import add_prediction_arguments
from medpretrain3d.commands.protocol_options import refuse_options_of_others
from medpretrain3d.commands.protocols import PROTOCOLS
from medpretrain3d.documents import csv_text, json_text
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.bootstrap import CONFIDENCE, NUM_BOOTSTRAP, Resampling
from medpretrain3d.evaluation.case_level import CASE_THRESHOLD
from medpretrain3d.evaluation.confusion import CONFUSION_SCORE
from medpretrain3d.evaluation.detection import Compat
from medpretrain3d.evaluation.operating_points import SCORES
from medpretrain3d.evaluation.size_strata import DIAMETERS_MM
from medpretrain3d.values import NonNegative, OpenShare, Seed, Share, Whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The protocol, its inputs, what to write, and how."""
    parser.add_argument("--protocol", choices=PROTOCOLS, default="detection", help="default: %(default)s")
    parser.add_argument("--predictions", type=Path, required=True, help="what was found: JSON, CSV or folder")
    parser.add_argument("--targets", type=Path, help="what was to be found: JSON or folder (not for luna16)")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    parser.add_argument(
        "--folds",
        type=Path,
        metavar="STORE",
        help="detection, centre: also each fold of this store, and the mean over folds",
    )
    parser.add_argument(
        "--converted", type=Path, metavar="JSON", help="also write the predictions as JSON, as `predict` does"
    )
    parser.add_argument("--csv", type=Path, help="CSV file to write, one row per scan")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="folder for pictures, each as PNG and SVG")
    parser.add_argument(
        "--cases", type=Path, metavar="FOLDER", help="detection: folder for a page of the best, worst and missed cases"
    )
    parser.add_argument(
        "--scans", type=Path, nargs="+", metavar="SCAN", help="for --cases: files, folders or stores of the scans"
    )
    add_resampling_arguments(parser)
    parser.add_argument(
        "--compat",
        choices=get_args(Compat),
        default="none",
        help="detection: nndetection, monai: a class without objects has AP -1 and enters the means, as there "
        "(default: it is left out); coco: recall in float64, as in pycocotools (default: float32, as in nnDetection)",
    )
    parser.add_argument(
        "--size-bins-mm",
        type=Number(NonNegative),
        nargs="*",
        metavar="MM",
        help=f"detection: diameters between the size strata (default: {' '.join(f'{d:g}' for d in DIAMETERS_MM)} "
        "where the files are in lps_mm, else none)",
    )
    parser.add_argument(
        "--iou", type=Number(Share), help="single sections: least IoU of a hit (default: 0.1; points have none)"
    )
    parser.add_argument("--hit", default="radius", help="centre: radius, box, or a distance in mm (default: radius)")
    parser.add_argument(
        "--scores", type=Number(Share), nargs="+", default=list(SCORES), help="operating points (default: 0.1 ... 0.9)"
    )
    parser.add_argument(
        "--case-threshold",
        type=Number(Share),
        default=CASE_THRESHOLD,
        help="highest score from which a scan is called positive (default: %(default)s)",
    )
    parser.add_argument(
        "--confusion-score",
        type=Number(Share),
        default=CONFUSION_SCORE,
        help="detection: least score of a detection in the confusion of classes (default: %(default)s)",
    )
    parser.add_argument(
        "--train-targets",
        type=Path,
        metavar="JSON",
        help="detection: boxes of the training scans (medpretrain3d targets STORE --split train); adds what a detector "
        "has to beat, the position prior and random boxes",
    )
    parser.add_argument("--annotations", type=Path, help="luna16: CSV of nodules")
    parser.add_argument("--excluded", type=Path, help="luna16: CSV of findings that are neither right nor wrong")
    parser.add_argument("--series", type=Path, help="luna16: the scans that count, one per line")
    parser.add_argument("--instance-scores", type=Path, metavar="CSV", help="ribfrac with masks: score per instance")
    add_prediction_arguments(parser)


def add_resampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Settings of intervals and random draws."""
    parser.add_argument(
        "--bootstrap",
        type=Number(Whole),
        default=NUM_BOOTSTRAP,
        help="random draws: sign flips of compare, replicates of luna16's bootstrap_mean; 0 for no intervals "
        "(default: %(default)s)",
    )
    parser.add_argument("--seed", type=Number(Seed), default=0, help="seed of the draws (default: %(default)s)")
    parser.add_argument(
        "--confidence", type=Number(OpenShare), default=CONFIDENCE, help="of the intervals (default: %(default)s)"
    )


def lock(args: argparse.Namespace) -> AbstractContextManager[None]:
    """Return one call writes the file at a time."""
    return locked(args.output) if args.output else nullcontext()


def run(args: argparse.Namespace) -> int:
    """Score, write, print."""
    refuse_options_of_others(args, add_arguments)
    if args.cases is not None and not args.scans:
        raise UserError("--cases needs the scans: --scans FILE, FOLDER or STORE ...")
    resampling = Resampling(args.bootstrap, args.seed, args.confidence)
    outcome = PROTOCOLS[args.protocol](args, resampling)
    result = {"protocol": args.protocol, **outcome.result}
    if args.output is not None:
        write_text(args.output, json_text(result, indent=1))
    if args.csv is not None:
        write_text(args.csv, per_case_csv(result["per_case"]))
    pictures = []
    if args.plots is not None:
        from medpretrain3d.visualization.evaluation_figures import draw

        names = draw(args.plots, outcome.curves, resampling, result)
        pictures = [f"pictures: {args.plots} ({', '.join(names)}; png and svg)"]
    print("\n".join([*outcome.table, *pictures]))
    files = {"all numbers": args.output, "per scan": args.csv, "predictions": args.converted, "cases": outcome.page}
    for what, path in files.items():
        if path is not None:
            print(f"{what}: {path}")
    return 0


def per_case_csv(rows: list[Mapping[str, Any]]) -> str:
    """Return one row per scan under the names of its numbers."""
    return csv_text(list(rows[0]), [list(row.values()) for row in rows])

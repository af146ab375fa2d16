"""Score predictions against targets, by the rules of a field, with intervals over scans.

  detection         boxes by IoU: AP, mAP, AR, FROC, by class and size       JSON files (docs/data.md)
  centre            boxes or points by the distance of their centres         JSON files
  case-level        AUROC and AUPRC of the highest score of each scan        JSON files
  operating-points  sensitivity, precision, false positives at chosen scores JSON files
  calibration       reliability of the scores                                JSON files
  luna16            CPM                                                      CSV files, or JSON as predictions
  ribfrac           sensitivity at IoU > 0.2                                 folders of masks and a CSV, or JSON files
  picai             AP and AUROC                                             folders of maps and masks, or JSON files

Every protocol is defined in docs/evaluation.md. The table goes to the terminal, everything to the output file.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from medpretrain3d.atomic import locked, write_text
from medpretrain3d.commands.case_previews import write_shown_cases
from medpretrain3d.commands.numbers import Number
from medpretrain3d.commands.prediction_options import add_prediction_arguments, read_found, read_wanted
from medpretrain3d.commands.protocol_options import refuse_options_of_others
from medpretrain3d.documents import csv_text, json_text
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import evaluate, pair, read_targets, tables
from medpretrain3d.evaluation.bootstrap import CONFIDENCE, NUM_BOOTSTRAP, Resampling
from medpretrain3d.evaluation.calibration import calibration
from medpretrain3d.evaluation.candidates import read_candidates, read_nodules, read_series
from medpretrain3d.evaluation.case_level import CASE_THRESHOLD, case_level
from medpretrain3d.evaluation.cases import PredictedCase
from medpretrain3d.evaluation.center_distance import Criterion, center, match_centers, match_objects
from medpretrain3d.evaluation.confusion import CONFUSION_SCORE
from medpretrain3d.evaluation.data_set import MatchedScans, count_target_points, match_data_set
from medpretrain3d.evaluation.detection import Compat
from medpretrain3d.evaluation.files import TargetFile, predictions_document
from medpretrain3d.evaluation.folds import fold_metrics, fold_table
from medpretrain3d.evaluation.luna16 import luna16, match_candidates
from medpretrain3d.evaluation.masks import detection_map_scans, instance_scans
from medpretrain3d.evaluation.matching import Matches, join_scans
from medpretrain3d.evaluation.operating_points import SCORES, operating_points
from medpretrain3d.evaluation.overlap import ScanOverlap, of_boxes
from medpretrain3d.evaluation.picai import match as match_picai
from medpretrain3d.evaluation.picai import picai
from medpretrain3d.evaluation.ribfrac import match as match_ribfrac
from medpretrain3d.evaluation.ribfrac import ribfrac
from medpretrain3d.evaluation.scan_frame import in_scan_frames
from medpretrain3d.evaluation.size_strata import DIAMETERS_MM
from medpretrain3d.evaluation.trivial_baselines import trivial_baselines
from medpretrain3d.store.points import POINT_RADIUS_MM
from medpretrain3d.store.store import Store
from medpretrain3d.values import NonNegative, OpenShare, Seed, Share, Whole


@dataclass(frozen=True)
class Outcome:
    """Result of an evaluation protocol: the result, its table as text, and the matches behind its curves by name."""

    result: dict[str, Any]
    table: list[str]
    curves: dict[str, Matches]
    page: Path | None = None
    """Of cases to look at."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The protocol, its inputs, what to write, and how."""
    parser.add_argument("--protocol", choices=PROTOCOLS, default="detection", help="default: %(default)s")
    parser.add_argument("--predictions", type=Path, required=True, help="what was found: JSON, CSV or folder")
    parser.add_argument("--targets", type=Path, help="what was to be found: JSON or folder (not for luna16)")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    parser.add_argument(
        "--folds", type=Path, metavar="STORE", help="detection: also each fold of this store, and the mean over folds"
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
        "--iou", type=Number(Share), default=0.1, help="single sections: least IoU of a hit (default: 0.1)"
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
    print("\n".join(outcome.table))
    if args.plots is not None:
        from medpretrain3d.visualization.evaluation_figures import draw

        names = draw(args.plots, outcome.curves, resampling, result)
        print(f"pictures: {args.plots} ({', '.join(names)}; png and svg)")
    files = {"all numbers": args.output, "per scan": args.csv, "predictions": args.converted, "cases": outcome.page}
    for what, path in files.items():
        if path is not None:
            print(f"{what}: {path}")
    return 0


def per_case_csv(rows: list[Mapping[str, Any]]) -> str:
    """Return one row per scan under the names of its numbers."""
    return csv_text(list(rows[0]), [list(row.values()) for row in rows])


def _detection(args: argparse.Namespace, resampling: Resampling) -> Outcome:
    found, targets, said = _read(args)
    edges_mm = args.size_bins_mm
    if edges_mm is None:
        edges_mm = DIAMETERS_MM if targets.frame == "lps_mm" else ()
    elif edges_mm and targets.frame is not None and not targets.frame.endswith("_mm"):
        raise UserError(f"{targets.path}: frame is '{targets.frame}', size bins are in mm; leave --size-bins-mm out")
    result = evaluate(
        found,
        targets.cases,
        targets.classes,
        compat=args.compat,
        size_edges_mm=edges_mm,
        scores=args.scores,
        num_bootstrap=resampling.num_bootstrap,
        seed=resampling.seed,
        confidence=resampling.confidence,
        case_threshold=args.case_threshold,
        confusion_score=args.confusion_score,
    )
    result["notes"] = [*said, *result["notes"]]
    if args.train_targets is not None:
        train = read_targets(args.train_targets, args.boxes)
        if (train.classes, train.frame) != (targets.classes, targets.frame):
            raise UserError(
                f"{train.path}: has classes {list(train.classes)} and frame {train.frame}, {targets.path} "
                f"{list(targets.classes)} and {targets.frame}; write both with the same `medpretrain3d targets`"
            )
        result["trivial_baselines"] = trivial_baselines(train.cases, targets.cases, targets.classes, resampling)
    page = None
    if args.cases is not None:
        page = write_shown_cases(args.cases, args.scans, result["per_case"], found, targets)
    scans = match_data_set(found, targets.cases, targets.classes, (0.1, 0.5))
    curves = {f"IoU {iou:g}": scans.pooled.rows([row]) for row, iou in enumerate((0.1, 0.5))}
    table = tables.detection_table(result)
    if args.folds is not None:
        held_out = Store(args.folds).all_splits.held_out
        result["cross_validation"] = fold_metrics(found, targets.cases, targets.classes, held_out)
        table += ["", *fold_table(result["cross_validation"])]
    return Outcome(result, table, curves, page)


def _center(args: argparse.Namespace, resampling: Resampling) -> Outcome:
    found, targets, said = _read(args)
    criterion = hit_criterion(args.hit, targets)
    result = center(found, targets.cases, targets.classes, criterion, resampling, args.scores, args.case_threshold)
    result["notes"] = [*said, *result["notes"]]
    scans = match_centers(found, targets.cases, targets.classes, criterion)
    return Outcome(result, tables.center_table(result), {f"hit by {args.hit}": scans.pooled})


def _luna16(args: argparse.Namespace, resampling: Resampling) -> Outcome:
    _need(args, "annotations", "series")
    scans = match_candidates(
        read_series(args.series),
        read_nodules(args.annotations),
        read_candidates(args.predictions),
        None if args.excluded is None else read_nodules(args.excluded),
    )
    result = luna16(scans, resampling)
    return Outcome(result, tables.luna16_table(result), {"nodules": scans.matches})


def _ribfrac(args: argparse.Namespace, resampling: Resampling) -> Outcome:
    _need(args, "targets")
    if args.predictions.is_dir() and args.predictions_format is None:
        _need(args, "instance_scores")
        masks = instance_scans(args.predictions, args.targets, args.instance_scores)
        overlaps = Overlaps("masks", masks)
    else:
        overlaps = _box_overlaps(args)
    result = {"overlap": overlaps.of, **ribfrac(overlaps.scans, resampling), "notes": list(overlaps.notes)}
    return Outcome(result, tables.ribfrac_table(result), {"fractures": match_ribfrac(overlaps.scans)})


def _picai(args: argparse.Namespace, resampling: Resampling) -> Outcome:
    _need(args, "targets")
    if args.predictions.is_dir() and args.predictions_format is None:
        overlaps = Overlaps("masks", detection_map_scans(args.predictions, args.targets))
    else:
        overlaps = _box_overlaps(args)
    result = {"overlap": overlaps.of, **picai(overlaps.scans, resampling), "notes": list(overlaps.notes)}
    lesions = join_scans([match_picai(one) for one in overlaps.scans])
    return Outcome(result, tables.picai_table(result), {"lesions": lesions})


def _section(name: str, make: Callable[[MatchedScans, Resampling, argparse.Namespace], Any]) -> Protocol:
    """Return a protocol that is one section of `detection`, at the IoU asked for; of points by distance."""

    def protocol(args: argparse.Namespace, resampling: Resampling) -> Outcome:
        found, targets, said = _read(args)
        if not 0 < args.iou <= 1:
            raise UserError(f"--iou is {args.iou:g}, must be above 0 and at most 1; 0.1 is usual")
        scans = match_objects(found, targets.cases, targets.classes, args.iou)
        section = make(scans, resampling, args)
        result = {
            **{name: section, "iou": args.iou, **scans.facts(), **resampling.facts()},
            "per_case": scans.case_scores([0]),
        }
        result["notes"] = [*said, *result["notes"]]
        return Outcome(result, tables.section_table(result), {f"IoU {args.iou:g}": scans.pooled})

    return protocol


def _read(args: argparse.Namespace) -> tuple[list[PredictedCase], TargetFile, Sequence[str]]:
    """Return what was found in the order of the targets, these, and what reading has to say."""
    _need(args, "targets")
    targets = read_wanted(args.targets, [args.predictions], args)
    predictions = read_found(args.predictions, targets, args)
    found = pair(predictions, targets)
    if args.converted is not None:
        write_text(args.converted, json_text(predictions_document(replace(predictions, cases=tuple(found)))))
    return found, targets, predictions.notes


@dataclass(frozen=True)
class Overlaps:
    """Overlaps of masks or boxes, and what a reader of their scores has to know."""

    of: str
    scans: Sequence[ScanOverlap]
    notes: Sequence[str] = ()


def _box_overlaps(args: argparse.Namespace) -> Overlaps:
    found, targets, said = _read(args)
    scans = of_boxes(found, targets.cases, targets.classes)
    return Overlaps("boxes", scans, [*said, *in_scan_frames(found, targets.cases).notes])


def hit_criterion(text: str, targets: TargetFile) -> Criterion:
    """Return what `--hit` says, for targets in mm where it is a distance or any object is a point.

    Raises:
        UserError: they are in voxels.
    """
    criterion: Criterion = text
    with suppress(ValueError):
        criterion = float(text)
    has_points = bool(count_target_points(targets.cases)[0])
    distance = criterion if isinstance(criterion, float) else POINT_RADIUS_MM if has_points else None
    if distance is not None and targets.frame is not None and not targets.frame.endswith("_mm"):
        raise UserError(f"{targets.path}: frame is '{targets.frame}', the distance {distance:g} is in mm")
    return criterion


def _need(args: argparse.Namespace, *names: str) -> None:
    for name in names:
        if getattr(args, name) is None:
            raise UserError(f"protocol {args.protocol} needs --{name.replace('_', '-')}; see --help")


Protocol = Callable[[argparse.Namespace, Resampling], Outcome]
PROTOCOLS: dict[str, Protocol] = {
    "detection": _detection,
    "centre": _center,
    "case-level": _section("case_level", lambda scans, how, args: case_level(scans.pooled, how, args.case_threshold)),
    "operating-points": _section(
        "operating_points", lambda scans, how, args: operating_points(scans.pooled, how, args.scores)
    ),
    "calibration": _section("calibration", lambda scans, how, _: calibration(scans.pooled, how)),
    "luna16": _luna16,
    "ribfrac": _ribfrac,
    "picai": _picai,
}

"""What `evaluate` scores by each protocol, read from the files that its options name."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medpretrain3d.atomic import write_text
from medpretrain3d.commands.case_previews import write_shown_cases
from medpretrain3d.commands.prediction_options import BOX_OPTIONS, add_prediction_arguments, read_found, read_wanted
from medpretrain3d.commands.unused_options import refuse_unused
from medpretrain3d.documents import json_text
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import evaluate, pair, tables
from medpretrain3d.evaluation.bootstrap import Resampling
from medpretrain3d.evaluation.calibration import calibration
from medpretrain3d.evaluation.candidates import read_candidates, read_nodules, read_series
from medpretrain3d.evaluation.case_level import case_level
from medpretrain3d.evaluation.cases import PredictedCase
from medpretrain3d.evaluation.center_distance import Criterion, center, hit_rule, match_centers, match_objects
from medpretrain3d.evaluation.data_set import MatchedScans, count_target_points, match_data_set
from medpretrain3d.evaluation.detection import IOU_THRESHOLDS
from medpretrain3d.evaluation.files import TargetFile, predictions_document
from medpretrain3d.evaluation.folds import fold_metrics, fold_table
from medpretrain3d.evaluation.luna16 import luna16, match_candidates
from medpretrain3d.evaluation.mask_detection import mask_detection, match_masks
from medpretrain3d.evaluation.masks import detection_map_scans, instance_scans, predicted_mask_scans
from medpretrain3d.evaluation.matching import Matches, join_scans
from medpretrain3d.evaluation.operating_points import operating_points
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

CURVE_IOUS = (0.1, 0.5)
"""Of the pictures."""
SECTION_IOU = 0.1
"""Least overlap of a hit in a single section where nobody says another."""


@dataclass(frozen=True)
class Outcome:
    """Result of an evaluation protocol: the result, its table as text, and the matches behind its curves by name."""

    result: dict[str, Any]
    table: list[str]
    curves: dict[str, Matches]
    page: Path | None = None
    """Of cases to look at."""


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
        train = read_wanted(args.train_targets, [args.predictions], args)
        if (train.classes, train.frame) != (targets.classes, targets.frame):
            raise UserError(
                f"{train.path}: has classes {list(train.classes)} and frame {train.frame}, {targets.path} "
                f"{list(targets.classes)} and {targets.frame}; write both with the same `medpretrain3d targets`"
            )
        result["trivial_baselines"] = trivial_baselines(
            train.cases, targets.cases, targets.classes, resampling, args.compat
        )
    page = None
    if args.cases is not None:
        page = write_shown_cases(args.cases, args.scans, result["per_case"], found, targets)
    curves = _curves(match_data_set(found, targets.cases, targets.classes, CURVE_IOUS), CURVE_IOUS)
    table = tables.detection_table(result)
    if args.folds is not None:
        result["cross_validation"] = fold_metrics(
            found, targets.cases, targets.classes, _held_out(args.folds), args.compat
        )
        table += ["", *fold_table(result["cross_validation"])]
    return Outcome(result, table, curves, page)


def _center(args: argparse.Namespace, resampling: Resampling) -> Outcome:
    found, targets, said = _read(args)
    criterion = hit_criterion(args.hit, targets)
    result = center(found, targets.cases, targets.classes, criterion, resampling, args.scores, args.case_threshold)
    result["notes"] = [*said, *result["notes"]]
    scans = match_centers(found, targets.cases, targets.classes, criterion)
    table = tables.center_table(result)
    if args.folds is not None:
        result["cross_validation"] = fold_metrics(
            found, targets.cases, targets.classes, _held_out(args.folds), is_by_distance=True, criterion=criterion
        )
        table += ["", *fold_table(result["cross_validation"])]
    return Outcome(result, table, {f"hit by {args.hit}": scans.pooled})


def _luna16(args: argparse.Namespace, resampling: Resampling) -> Outcome:
    _need(args, "annotations", "series")
    if args.targets is not None:
        raise UserError("--targets is not of protocol luna16, whose nodules --annotations names; leave it out")
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
        _refuse_box_options(args)
        masks = instance_scans(args.predictions, args.targets, args.instance_scores)
        overlaps = Overlaps("masks", masks)
    elif args.instance_scores is not None:
        raise UserError("--instance-scores is of a folder of instance maps, boxes have scores; leave it out")
    else:
        overlaps = _box_overlaps(args)
    result = {"overlap": overlaps.of, **ribfrac(overlaps.scans, resampling), "notes": list(overlaps.notes)}
    return Outcome(result, tables.ribfrac_table(result), {"fractures": match_ribfrac(overlaps.scans)})


def _picai(args: argparse.Namespace, resampling: Resampling) -> Outcome:
    _need(args, "targets")
    if args.predictions.is_dir() and args.predictions_format is None:
        _refuse_box_options(args)
        overlaps = Overlaps("masks", detection_map_scans(args.predictions, args.targets))
    else:
        overlaps = _box_overlaps(args)
    result = {"overlap": overlaps.of, **picai(overlaps.scans, resampling), "notes": list(overlaps.notes)}
    lesions = join_scans([match_picai(one) for one in overlaps.scans])
    return Outcome(result, tables.picai_table(result), {"lesions": lesions})


def _masks(args: argparse.Namespace, resampling: Resampling) -> Outcome:
    _need(args, "targets")
    scans, classes = predicted_mask_scans(args.predictions, args.targets)
    result = mask_detection(scans, classes, resampling)
    return Outcome(result, tables.mask_table(result), _curves(match_masks(scans, classes), IOU_THRESHOLDS))


def _curves(scans: MatchedScans, thresholds: Sequence[float]) -> dict[str, Matches]:
    return {f"IoU {iou:g}": scans.pooled.rows([thresholds.index(iou)]) for iou in CURVE_IOUS}


def _section(name: str, make: Callable[[MatchedScans, Resampling, argparse.Namespace], Any]) -> Protocol:
    """Return a protocol that is one section of `detection`, at the IoU asked for; of points by distance."""

    def protocol(args: argparse.Namespace, resampling: Resampling) -> Outcome:
        found, targets, said = _read(args)
        iou = SECTION_IOU if args.iou is None else args.iou
        if not 0 < iou <= 1:
            raise UserError(f"--iou is {iou:g}, must be above 0 and at most 1; {SECTION_IOU:g} is usual")
        rule = hit_rule(targets.cases, iou)
        if "iou" not in rule and args.iou is not None:
            raise UserError(
                f"--iou {iou:g}: {targets.path} has points, which nothing overlaps and which are hit by a radius of "
                f"{POINT_RADIUS_MM:g} mm; leave it out"
            )
        if "iou" not in rule:
            hit_criterion(rule["criterion"], targets)  # which has to be in mm
        scans = match_objects(found, targets.cases, targets.classes, iou)
        section = make(scans, resampling, args)
        result = {
            **{name: section, **rule, **scans.facts(), **resampling.facts()},
            "per_case": scans.case_scores([0]),
        }
        result["notes"] = [*said, *result["notes"]]
        curve = f"IoU {iou:g}" if "iou" in rule else f"hit by {rule['criterion']}"
        return Outcome(result, tables.section_table(result), {curve: scans.pooled})

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


def _held_out(store: Path) -> Mapping[str, int]:
    return Store(store).all_splits.held_out


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


def _refuse_box_options(args: argparse.Namespace) -> None:
    """Refuse what is said of boxes where masks are read.

    Raises:
        UserError: there is such an option.
    """
    why = "is of boxes, these are masks; name the program of the boxes with --predictions-format, or leave it out"
    refuse_unused(args, add_prediction_arguments, ("converted", *BOX_OPTIONS), why)


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
    "masks": _masks,
    "luna16": _luna16,
    "ribfrac": _ribfrac,
    "picai": _picai,
}

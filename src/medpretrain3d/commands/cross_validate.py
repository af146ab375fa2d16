"""Make one result of the fine-tuning runs of all folds: each case is found by the detector that has not seen it.

RUN is a run folder per fold (`finetune --data.fold 0`, `1`, ...), or a folder that holds them. No network runs. How
boxes are merged in a fold's cases is chosen by the cases of the other folds.

OUT receives predictions.json, predictions.csv and targets.json of all cases, metrics.json (pooled, of each fold, and
the mean over folds) and ensemble/, a bundle of all detectors for `medpretrain3d predict`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from medpretrain3d.atomic import locked_folder, write_text
from medpretrain3d.commands.predict import check_place
from medpretrain3d.documents import json_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Runs, place of the results, and what to leave out."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run of a fold, or folder of such runs")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="folder for the results")
    parser.add_argument("--store", type=Path, help="of the runs' data (default: as their configurations say)")
    parser.add_argument("--no-tune", action="store_true", help="merge boxes as the recipe says")
    parser.add_argument("--no-ensemble", action="store_true", help="write no bundle of all detectors")


def lock(args: argparse.Namespace) -> AbstractContextManager[None]:
    """Return one call fills the folder at a time."""
    return locked_folder(args.out)


def run(args: argparse.Namespace) -> int:
    """Merge, write, score, print.

    Raises:
        UserError: see `find_fold_runs` and `merge_out_of_fold`.
    """
    from medpretrain3d.cross_validation import find_fold_runs, merge_out_of_fold
    from medpretrain3d.evaluation import evaluate, pair, read_predictions, read_targets, tables
    from medpretrain3d.evaluation.folds import fold_metrics, fold_table
    from medpretrain3d.evaluation.size_strata import DIAMETERS_MM
    from medpretrain3d.inference import save_ensemble, write_predictions
    from medpretrain3d.store.targets import targets_json

    check_place(args.out)
    runs = find_fold_runs(args.runs, args.store)
    found = merge_out_of_fold(runs, not args.no_tune, lambda text: print(text, file=sys.stderr))
    write_predictions(args.out, runs.store.classes, found.predictions)
    write_text(args.out / "targets.json", json_text(targets_json(runs.store, [one.case for one in found.predictions])))
    targets = read_targets(args.out / "targets.json")
    paired = pair(read_predictions(args.out / "predictions.json"), targets)
    result = evaluate(paired, targets.cases, targets.classes, size_edges_mm=DIAMETERS_MM)
    folds = fold_metrics(paired, targets.cases, targets.classes, runs.fold_of)
    for row, config in zip(folds["folds"], found.configs, strict=True):
        row["inference"] = dataclasses.asdict(config)
    notes = runs.notes()
    document = {"protocol": "detection", **result, "cross_validation": {**folds, "notes": notes}}
    write_text(args.out / "metrics.json", json_text(document, indent=1))
    print("\n".join([*tables.detection_table(result), "", *fold_table(folds), *(f"note: {note}" for note in notes)]))
    if not args.no_ensemble:
        members = {f"fold_{number}": folder / "bundle" for number, folder in enumerate(runs.folders)}
        training = {"folds": len(runs.folders), "dataset": runs.metadata[0].dataset}
        save_ensemble(args.out / "ensemble", members, found.config, {"cross_validation": training}, replace=True)
        print(f"detector bundle of {len(members)} folds: {args.out / 'ensemble'}")
    print(f"all numbers: {args.out / 'metrics.json'}")
    return 0

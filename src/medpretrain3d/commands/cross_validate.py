"""Make one result of the fine-tuning runs of all folds: each case is found by the detector that has not seen it.

RUN is a run folder per fold (`finetune --data.fold 0`, `1`, ...), or a folder that holds them; then no network runs.
`--config RECIPE` trains the folds that are missing instead, as a study does: what is there is reused, and an
interrupted fold continues. How boxes are merged in a fold's cases is chosen by the cases of the other folds.

OUT receives predictions.json, predictions.csv and targets.json of all cases, metrics.json (pooled, of each fold, the
mean over folds, and what boxes reach that know the training boxes alone) and ensemble/, a bundle of all detectors for
`medpretrain3d predict`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medpretrain3d.atomic import locked_folder, write_text
from medpretrain3d.atomic.lock import LOCK
from medpretrain3d.command_line.recipes import find_recipe
from medpretrain3d.commands.machine_options import MACHINE, add_machine, machine_of
from medpretrain3d.commands.numbers import Number
from medpretrain3d.commands.predict import check_place
from medpretrain3d.commands.unused_options import refuse_unused
from medpretrain3d.documents import json_text, read_json
from medpretrain3d.errors import UserError
from medpretrain3d.values import Whole

if TYPE_CHECKING:
    from medpretrain3d.cross_validation import FoldRuns
    from medpretrain3d.evaluation import TargetFile
    from medpretrain3d.study.design import Study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Runs, place of the results, and what to leave out."""
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="run of a fold, or folder of such runs")
    parser.add_argument("--config", metavar="RECIPE", help="of fine-tuning, whose folds are trained where they are not")
    parser.add_argument("--init-from", metavar="FILE", help="weights that the folds of --config begin from")
    parser.add_argument("--seed", type=Number(Whole), default=0, help="of the folds of --config (default: %(default)s)")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="folder for the results")
    parser.add_argument("--store", type=Path, help="of the runs' data (default: as their configurations say)")
    parser.add_argument("--no-tune", action="store_true", help="merge boxes as the recipe says")
    parser.add_argument("--no-ensemble", action="store_true", help="write no bundle of all detectors")
    add_machine(parser)


@contextmanager
def lock(args: argparse.Namespace) -> Iterator[None]:
    """Hold the folder, which one call fills at a time, and that of the study which trains the folds."""
    with ExitStack() as held:
        held.enter_context(locked_folder(args.out))
        if args.config is not None:
            held.enter_context(locked_folder(_study(args).folder, f".study{LOCK}", clean=False))
        yield


def run(args: argparse.Namespace) -> int:
    """Merge, write, score, print.

    Raises:
        UserError: see `find_fold_runs` and `merge_out_of_fold`.
    """
    from medpretrain3d.cross_validation import find_fold_runs, merge_out_of_fold
    from medpretrain3d.cross_validation.candidates import out_of_fold_json, predictions_sha256
    from medpretrain3d.cross_validation.validation_scores import operating_points_of
    from medpretrain3d.evaluation import pair, read_predictions, read_targets
    from medpretrain3d.evaluation.folds import fold_metrics, fold_table
    from medpretrain3d.evaluation.protocols import protocol_of
    from medpretrain3d.evaluation.size_strata import DIAMETERS_MM
    from medpretrain3d.inference import save_ensemble, write_predictions
    from medpretrain3d.store.targets import targets_json

    check_place(args.out)
    if bool(args.runs) == (args.config is not None):
        given = "both runs and --config" if args.runs else "neither runs nor --config"
        raise UserError(f"cross-validate: got {given}, wanted the runs of all folds, or the recipe that makes them")
    if args.runs:
        names = ("init_from", "seed", *MACHINE)
        refuse_unused(args, add_arguments, names, "is of --config RECIPE, whose folds are trained; leave it out")
    runs = find_fold_runs(args.runs or _trained(args), args.store)
    found = merge_out_of_fold(runs, not args.no_tune, lambda text: print(text, file=sys.stderr))
    write_predictions(args.out, runs.store.classes, found.predictions, ["csv"])
    write_text(args.out / "predictions.json", json_text(out_of_fold_json(runs, found.predictions)))
    write_text(args.out / "targets.json", json_text(targets_json(runs.store, [one.case for one in found.predictions])))
    targets = read_targets(args.out / "targets.json")
    paired = pair(read_predictions(args.out / "predictions.json"), targets)
    protocol = protocol_of(targets.cases, runs.is_by_distance)
    result = protocol.score(paired, targets.cases, targets.classes, size_edges_mm=DIAMETERS_MM)
    folds = fold_metrics(paired, targets.cases, targets.classes, runs.fold_of, is_by_distance=runs.is_by_distance)
    for row, config, folder in zip(folds["folds"], found.configs, runs.folders, strict=True):
        row |= {"run": folder.name, "inference": dataclasses.asdict(config)}
    notes = runs.notes()
    if protocol.name == "detection":  # the baselines are boxes
        result["trivial_baselines"] = _trivial_baselines(runs, targets, args.out / "train_targets.json")
    document = {"protocol": protocol.name, **result, "cross_validation": {**folds, "notes": notes}}
    write_text(args.out / "metrics.json", json_text(document, indent=1))
    told = [*protocol.table(result), "", *fold_table(folds), *(f"note: {note}" for note in notes)]
    if not args.no_ensemble:
        members = {f"fold_{number}": folder / "bundle" for number, folder in enumerate(runs.folders)}
        # By which `rescore` knows that these detectors found the candidates: `--no-ensemble` leaves earlier ones here.
        of_call = {"predictions_sha256": predictions_sha256(args.out / "predictions.json")}
        training = {"folds": len(runs.folders), "dataset": runs.metadata[0].dataset, **of_call}
        points = operating_points_of(paired, targets.cases, targets.classes, "out of fold", runs.is_by_distance)
        provenance = {"cross_validation": training}
        save_ensemble(args.out / "ensemble", members, found.config, provenance, replace=True, operating_points=points)
        told.append(f"detector bundle of {len(members)} folds: {args.out / 'ensemble'}")
    elif (args.out / "ensemble").exists():
        told.append(f"note: {args.out / 'ensemble'} is of an earlier call, and stays")
    print("\n".join([*told, f"all numbers: {args.out / 'metrics.json'}"]))
    return 0


def _study(args: argparse.Namespace) -> Study:
    from medpretrain3d.study.fold_study import fold_study

    return fold_study(find_recipe(args.config, "finetune"), args.init_from, args.seed)


def _trained(args: argparse.Namespace) -> list[Path]:
    """Train the folds that are missing; return the runs of all.

    Raises:
        UserError: a fold failed, or OUT is the result of other folds.
        Interrupted: this process was told to end.
    """
    from medpretrain3d.study.fold_study import fold_folders
    from medpretrain3d.study.run_study import progress_of, run_missing
    from medpretrain3d.study.workflow import check_engine

    machine, study = machine_of(args), _study(args)
    check_engine(machine)
    before = progress_of(study)
    _refuse_other_folds(args.out, [before.records.run_folder(job).name for job in before.jobs.of_kind("finetune")])
    progress = run_missing(study, machine)
    print("\n".join(progress.failure_lines()), file=sys.stderr)
    return fold_folders(progress)


def _refuse_other_folds(out: Path, runs: list[str]) -> None:
    """Refuse a folder whose result is of other runs, as those of another seed, encoder or option are."""
    if not (out / "metrics.json").is_file():
        return
    advice = "remove the folder, or name another with -o"
    result = read_json(out / "metrics.json", dict[str, Any], advice, allow_nan=True)
    folds = (result.get("cross_validation") or {}).get("folds", ())
    others = [run for row in folds if (run := row.get("run")) is not None and run not in runs]
    if others:
        raise UserError(
            f"{out}: is the result of other folds (runs {', '.join(others)}), wanted of {', '.join(runs)}; "
            "name another folder with -o, or remove this one"
        )


def _trivial_baselines(runs: FoldRuns, targets: TargetFile, path: Path) -> dict[str, Any]:
    """Return the position prior and random boxes of each fold's training cases in the cases it holds out, pooled."""
    from medpretrain3d.evaluation import read_targets
    from medpretrain3d.evaluation.bootstrap import Resampling
    from medpretrain3d.evaluation.trivial_baselines import out_of_fold_baselines
    from medpretrain3d.store.targets import targets_json

    trained = [runs.training_cases(number) for number in range(len(runs.folders))]
    every = sorted({case for of_fold in trained for case in of_fold})
    write_text(path, json_text(targets_json(runs.store, every)))
    known = {case.case: case for case in read_targets(path).cases}
    folds = [
        ([known[case] for case in of_fold], [case for case in targets.cases if runs.fold_of[case.case] == number])
        for number, of_fold in enumerate(trained)
    ]
    return out_of_fold_baselines(folds, targets.classes, Resampling())

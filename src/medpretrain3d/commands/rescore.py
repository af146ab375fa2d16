"""Give the detectors of a cross-validation a second look: a network that rescores what they found.

RESULT is the folder that `cross-validate` wrote. For each fold a network is trained on the candidates of the other
folds, each found by a detector that has not seen its case, and asked about those that the fold's own detector found:
cubes about every candidate, of two edges in mm, go through an encoder that begins from --init-from, and what it says
is added to the log-odds of the candidate's score. No box comes or goes.

OUT receives predictions.json, predictions.csv and targets.json of all cases, train_targets.json, metrics.json,
rescorers/ (one for each fold, from which an interrupted call goes on) and ensemble/, a bundle of both stages for
`medpretrain3d predict`.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medpretrain3d.atomic import locked_folder, write_text
from medpretrain3d.commands.numbers import Number
from medpretrain3d.commands.precision_option import add_precision
from medpretrain3d.commands.predict import check_place
from medpretrain3d.commands.read_options import add_read_options, read_options
from medpretrain3d.documents import LARGE, json_text, read_json, read_text
from medpretrain3d.errors import UserError
from medpretrain3d.values import Count, Positive, Rows, Whole

if TYPE_CHECKING:
    import numpy as np

    from medpretrain3d.evaluation.protocols import ObjectProtocol
    from medpretrain3d.inference import Bundle, Prediction

TRAIN_TARGETS = "train_targets.json"
"""Of a cross-validation, the true boxes that folds were trained on."""
SAVES_MEMORY = "lower --batch-size, or --cube-vox"
"""What to change where memory runs out."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What was found, where the networks begin, what they see, how long they are trained."""
    parser.add_argument("result", type=Path, metavar="RESULT", help="folder that cross-validate wrote")
    parser.add_argument("--store", type=Path, required=True, help="of the cross-validation's data")
    parser.add_argument(
        "--init-from",
        required=True,
        metavar="FILE",
        help="encoder to begin from: whatever model.init_from of fine-tuning takes; {fold} in it is the fold's number",
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="folder for the results")
    parser.add_argument(
        "--cube-mm",
        type=Number(Positive),
        nargs="+",
        default=[40.0, 100.0],
        metavar="MM",
        help="edges of the cubes about a candidate (default: 40 100)",
    )
    parser.add_argument(
        "--cube-vox", type=Number(Count), default=32, help="edge to which each is resampled (default: %(default)s)"
    )
    parser.add_argument("--steps", type=Number(Count), default=1000, help="of each fold (default: %(default)s)")
    parser.add_argument("--batch-size", type=Number(Rows), default=16, help="candidates per step (default: 16)")
    parser.add_argument("--lr", type=Number(Positive), default=3e-4, help="peak learning rate (default: %(default)s)")
    parser.add_argument("--seed", type=Number(Whole), default=0, help="of what is drawn (default: 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    add_precision(parser, "of the trained network: ")
    add_read_options(parser)


def lock(args: argparse.Namespace) -> AbstractContextManager[None]:
    """Return one call fills the folder at a time."""
    return locked_folder(args.out)


def run(args: argparse.Namespace) -> int:
    """Train, rescore, write, score, print.

    Raises:
        UserError: no result of a cross-validation with its ensemble, candidates that are not out of fold, another
            store, or see `SecondStage`.
    """
    from tqdm import tqdm

    from medpretrain3d.cross_validation.validation_scores import operating_points_of
    from medpretrain3d.evaluation import pair, read_predictions, read_targets
    from medpretrain3d.evaluation.folds import fold_metrics, fold_table
    from medpretrain3d.evaluation.protocols import protocol_of
    from medpretrain3d.evaluation.size_strata import DIAMETERS_MM
    from medpretrain3d.inference import save_ensemble, write_predictions
    from medpretrain3d.inference.predictor import device_named
    from medpretrain3d.precision.choice import precision_of
    from medpretrain3d.rescoring.candidates import read_candidate_set
    from medpretrain3d.rescoring.folds import SecondStage
    from medpretrain3d.rescoring.training import RescorerTraining
    from medpretrain3d.store.store import Store
    from medpretrain3d.store.targets import targets_json

    check_place(args.out)
    source = args.result / "predictions.json"
    store, bundles = Store(args.store), _members(args)
    before = read_predictions(source)
    write_text(args.out / "targets.json", json_text(targets_json(store, [one.case for one in before.cases])))
    targets = read_targets(args.out / "targets.json")
    first = pair(before, targets)
    stated = _stated(args.result / "metrics.json")
    is_by_distance = stated.get("protocol") == "centre"
    candidates = read_candidate_set(source, store, first, targets.cases, targets.classes, is_by_distance)
    if missing := sorted(set(candidates.fold_of.values()) - set(bundles)):
        raise UserError(
            f"{args.result / 'ensemble'}: holds no detector of fold {missing[0]}; call cross-validate again"
        )
    device = device_named(args.device)
    stage = SecondStage(
        args.init_from,
        read_options(args),
        tuple(args.cube_mm),
        args.cube_vox,
        RescorerTraining(args.steps, args.batch_size, args.lr, args.seed),
        device,
        precision_of(args.precision, device),
    )
    scores: dict[str, np.ndarray] = {}
    places = {fold: args.out / "rescorers" / f"fold_{fold}" for fold in bundles}
    encoders = {fold: stage.encoder_of(fold, candidates, store) for fold in bundles}
    for fold, bundle in bundles.items():
        with tqdm(total=args.steps, desc=f"fold {fold}", unit="step", disable=None) as bar:

            def show(step: int, loss: float, bar: Any = bar) -> None:
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update()

            rescorer = stage.rescorer_of(fold, encoders[fold], bundle, candidates, store, places[fold], print, show)
        scores |= stage.scores_of(fold, rescorer, bundle, candidates, store)
    document: dict[str, Any] = read_json(source, dict[str, Any], "call cross-validate again", LARGE, True)
    predictions = [
        _with_scores({**entry, "case": one.case}, scores[one.case])  # a name may be a number in the file
        for entry, one in zip(document["predictions"], before.cases, strict=True)
    ]
    write_predictions(args.out, targets.classes, predictions, ["csv"])
    rescored = {**document, "predictions": [one.to_json() for one in predictions]}
    write_text(args.out / "predictions.json", json_text(rescored))
    second = pair(read_predictions(args.out / "predictions.json"), targets)
    protocol = protocol_of(targets.cases, is_by_distance)
    results = [
        protocol.score(one, targets.cases, targets.classes, size_edges_mm=DIAMETERS_MM) for one in (first, second)
    ]
    notes = [str(note) for note in (stated.get("cross_validation") or {}).get("notes", ())]  # they hold for both stages
    folds = [
        fold_metrics(one, targets.cases, targets.classes, candidates.fold_of, is_by_distance=is_by_distance)
        | {"notes": notes}
        for one in (first, second)
    ]
    metrics = {"protocol": protocol.name, **results[1], "cross_validation": folds[1]}
    metrics["first_stage"] = {**results[0], "cross_validation": folds[0]}
    if "trivial_baselines" in stated:  # which look at no candidate, so that they are those of both stages
        for one in (metrics, metrics["first_stage"]):
            one["trivial_baselines"] = stated["trivial_baselines"]
    if (args.result / TRAIN_TARGETS).is_file():
        write_text(args.out / TRAIN_TARGETS, read_text(args.result / TRAIN_TARGETS, "call cross-validate again", LARGE))
    write_text(args.out / "metrics.json", json_text(metrics, indent=1))
    inference, provenance = next(iter(bundles.values())).inference, {"second_stage": stage.training.to_json()}
    members = {f"fold_{fold}": args.result / "ensemble" / f"fold_{fold}" for fold in bundles}
    points = operating_points_of(second, targets.cases, targets.classes, "out of fold", is_by_distance)
    second_stages = {f"fold_{fold}": place for fold, place in places.items()}
    save_ensemble(args.out / "ensemble", members, inference, provenance, True, points, second_stages)
    print("\n".join([*protocol.table(results[1]), "", *fold_table(folds[1]), ""]))
    print("\n".join([*_beside(protocol, results, folds), *(f"note: {note}" for note in notes)]))
    print(f"detector bundle of {len(members)} folds, both stages: {args.out / 'ensemble'}")
    print(f"all numbers: {args.out / 'metrics.json'}")
    return 0


def _members(args: argparse.Namespace) -> dict[int, Bundle]:
    """Return the detector of each fold.

    Raises:
        UserError: no ensemble of `cross-validate`, or one that has a second stage.
    """
    from medpretrain3d.cross_validation.candidates import predictions_sha256
    from medpretrain3d.inference import load_members
    from medpretrain3d.inference.bundle_document import DOCUMENT, is_ensemble
    from medpretrain3d.inference.ensemble import ENSEMBLE_DOCUMENT

    folder = args.result / "ensemble"
    if not is_ensemble(folder):
        raise UserError(f"{folder}: no ensemble here, wanted what cross-validate writes; call it without --no-ensemble")
    bundles = load_members(folder)
    document = ENSEMBLE_DOCUMENT.read(folder / DOCUMENT)
    names = [member["folder"] for member in document["members"]]
    made_with = (document["provenance"].get("cross_validation") or {}).get("predictions_sha256")
    if made_with not in (None, predictions_sha256(args.result / "predictions.json")):  # earlier versions did not say
        raise UserError(
            f"{folder}: its detectors are of another call of cross-validate than predictions.json, which holds what "
            "others found; call it again, without --no-ensemble"
        )
    if any(bundle.rescorer is not None for bundle in bundles):
        raise UserError(f"{folder}: has a second stage already; name the folder that cross-validate wrote")
    if args.out.resolve() == args.result.resolve():
        raise UserError(f"-o {args.out}: is the folder that cross-validate wrote, which stays; choose another place")
    if strangers := [name for name in names if re.fullmatch(r"fold_\d+", name) is None]:
        raise UserError(
            f"{folder}: holds {strangers[0]}, wanted a detector per fold (fold_0, ...) as cross-validate writes"
        )
    return {int(name.removeprefix("fold_")): bundle for name, bundle in zip(names, bundles, strict=True)}


def _stated(path: Path) -> dict[str, Any]:
    """Return what `cross-validate` said of its result; nothing where the file is not there."""
    if not path.is_file():
        return {}
    stated: dict[str, Any] = read_json(path, dict[str, Any], "call cross-validate again", LARGE, True)
    return stated


def _with_scores(entry: Any, scores: np.ndarray) -> Prediction:
    import numpy as np

    from medpretrain3d.inference import Prediction

    one = Prediction.from_json(entry)
    order = np.argsort(-scores, kind="stable")
    return dataclasses.replace(
        one,
        boxes_vox=one.boxes_vox[order],
        boxes_lps_mm=one.boxes_lps_mm[order],
        scores=scores[order],
        labels=one.labels[order],
    )


def _beside(
    protocol: ObjectProtocol, results: Sequence[Mapping[str, Any]], folds: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return the metrics before and after as lines."""
    lines = [f"{'':<22}{'first stage':>12}{'both':>12}{'difference':>12}"]
    rows = {name: [float(one[key]) for one in results] for name, key in protocol.watched.items()}
    rows |= {
        f"{name}, mean of folds": [float(one["mean"][key]) for one in folds]
        for name, key in protocol.watched.items()
        if key in folds[0]["mean"]
    }
    for name, (first, both) in rows.items():
        lines.append(f"{name:<22}{first:>12.4f}{both:>12.4f}{both - first:>+12.4f}")
    return lines

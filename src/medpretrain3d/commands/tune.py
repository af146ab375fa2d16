"""Choose how a detector bundle merges boxes by its mAP on validation scans (of points, and where it was scored by
distance: by the AP of distances), and store the choice in the bundle, and the thresholds of `predict --at-fp` with it.

A fine-tuning run keeps what its detector saw in the validation scans, so this takes seconds and no GPU. For a bundle
without that file name a labelled store; what the detector sees there is kept for the next time.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from medpretrain3d.atomic import locked, locked_folder, remove_unfinished
from medpretrain3d.commands.numbers import Number
from medpretrain3d.commands.precision_option import add_precision, tell_precision
from medpretrain3d.commands.unused_options import refuse_unused
from medpretrain3d.precision.names import Precision
from medpretrain3d.values import Whole

if TYPE_CHECKING:
    from medpretrain3d.inference.bundle import Bundle
    from medpretrain3d.inference.cached_detections import CachedDetections


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Bundle, and where the validation scans are."""
    parser.add_argument("bundle", type=Path, help="folder with bundle.json and detector.safetensors")
    parser.add_argument(
        "--cached-detections",
        "--sightings",
        type=Path,
        metavar="FILE",
        help="default: validation/sightings.safetensors beside the bundle; with --store, of a run's bundle "
        "sightings_<store>_<split>.safetensors there",
    )
    parser.add_argument("--store", type=Path, help="look at these labelled scans first, and write FILE")
    parser.add_argument("--split", default="val", help="cases of the store: train, val, test or all (default: val)")
    parser.add_argument("--fold", type=Number(Whole), help="of the store, whose split is meant; default: named splits")
    parser.add_argument("--device", default="auto", help="for --store: auto, cpu, cuda, cuda:1, ... (default: auto)")
    add_precision(parser, "for --store: ")
    parser.add_argument("--dry-run", action="store_true", help="print the choice, leave the bundle as it is")


@contextmanager
def lock(args: argparse.Namespace) -> Iterator[None]:
    """Neither the run that made the bundle nor another call of `tune` writes to it meanwhile."""
    run = args.bundle.resolve().parent
    with locked_folder(run, clean=False) if (run / "run.json").is_file() else locked(args.bundle):
        remove_unfinished(args.bundle, {"bundle.json"})
        remove_unfinished(_cached_detections(args).parent, {_cached_detections(args).name})
        yield


def run(args: argparse.Namespace) -> int:
    """Sweep, print, store.

    Raises:
        UserError: no bundle, one of two stages, no raw detections, those of another detector or other classes, or no
            object to choose by.
    """
    from medpretrain3d.cross_validation.validation_scores import operating_points_of_cache, score_of_merging
    from medpretrain3d.errors import UserError
    from medpretrain3d.inference.bundle import load_bundle, set_inference
    from medpretrain3d.inference.bundle_document import read_document
    from medpretrain3d.inference.cached_detections import CachedDetections
    from medpretrain3d.inference.sweep import best, sweep

    if args.store is None:
        names = ("split", "fold", "device", "precision")
        refuse_unused(args, add_arguments, names, "is of a store; name it with --store, or leave it out")
    bundle = load_bundle(args.bundle)
    if bundle.rescorer is not None:
        raise UserError(
            f"{args.bundle}: has a second stage, whose scores merging does not see; tune the bundle without it, then "
            "call rescore"
        )
    for note in bundle.notes:
        print(f"note: {args.bundle}: {note}", file=sys.stderr)
    path, told = _cached_detections(args), []
    if args.store is None:
        seen = CachedDetections.load(path)
    else:
        seen = look(bundle, args.store, args.split, args.device, args.fold, args.precision)
        seen = dataclasses.replace(seen, weights_sha256=read_document(args.bundle)[0]["weights_sha256"])
        if not args.dry_run or args.cached_detections is not None:
            seen.save(path)
            told.append(f"kept what the detector saw: {path}")
    if seen.classes != bundle.classes:
        raise UserError(
            f"{path}: is of classes {', '.join(seen.classes)}, the bundle of {', '.join(bundle.classes)}; give the "
            "sightings of this bundle"
        )
    seen.refuse_other_weights(path, args.bundle)
    if not seen.weights_sha256:
        print(
            f"note: {path}: does not say which weights saw these scans, so that they could not be compared with the "
            "bundle's; earlier versions did not write it, and runs do at their end",
            file=sys.stderr,
        )
    is_by_distance = bundle.is_scored_by_distance
    metric, score = score_of_merging(seen.cases, seen.inference, seen.classes, is_by_distance)
    trials = sweep(seen.cases, seen.inference, score)
    chosen = best(trials)
    told.append(
        f"{len(trials)} ways of merging, {len(seen.cases)} scans: {metric} {trials[0].score:.3f} -> {chosen.score:.3f}"
    )
    for field in dataclasses.fields(chosen.config):
        before, after = getattr(trials[0].config, field.name), getattr(chosen.config, field.name)
        if before != after:
            told.append(f"  {field.name}: {before} -> {after}")
    if not args.dry_run:
        scores = {metric: chosen.score, f"{metric}_before": trials[0].score}
        facts = {**scores, "cases": len(seen.cases), "trials": len(trials)}
        set_inference(args.bundle, chosen.config, facts, operating_points_of_cache(seen, chosen.config, is_by_distance))
        told.append(f"stored in {args.bundle / 'bundle.json'}")
    print("\n".join(told))
    return 0


def _cached_detections(args: argparse.Namespace) -> Path:
    """Return where raw detections are kept; those that a run has of its validation cases are never replaced."""
    if args.cached_detections is not None:
        return Path(args.cached_detections)
    run = args.bundle.resolve().parent
    of_split = ""
    if args.store is not None and (run / "run.json").is_file():
        of_split = f"_{args.store.resolve().name}_{args.split}{'' if args.fold is None else f'_fold_{args.fold}'}"
    return Path(run / "validation" / f"sightings{of_split}.safetensors")


def look(
    bundle: Bundle,
    store: Path,
    split: str,
    device: str = "auto",
    fold: int | None = None,
    precision: Precision | None = None,
) -> CachedDetections:
    """Run a bundle's detector on the cases of a labeled store, with the bundle's own settings, without merging.

    Raises:
        UserError: no store, no such split or fold, or other classes.
    """
    from tqdm import tqdm

    from medpretrain3d.errors import UserError
    from medpretrain3d.inference.cached_detections import VALIDATION, CachedCase, CachedDetections
    from medpretrain3d.inference.predictor import Predictor
    from medpretrain3d.inference.started_scan import start_ahead
    from medpretrain3d.store.corpus import Corpus
    from medpretrain3d.threads import use_threads

    use_threads()
    corpus, predictor = Corpus([store]), Predictor(bundle, device, precision=precision)
    tell_precision(precision, predictor.device)
    if corpus.stores[0].classes != bundle.classes:
        raise UserError(
            f"{store}: is of classes {', '.join(corpus.stores[0].classes)}, the bundle of {', '.join(bundle.classes)}; "
            "give a store of its classes"
        )
    refs, note = corpus.scored_cases(split, fold)
    if note:
        print(note, file=sys.stderr)
    trained_on = bundle.volumes_seen.among({ref.case_id: ref.voxels for ref in refs}, with_labels=True)
    if trained_on:
        print(
            f"note: {len(trained_on)} of {len(refs)} scans were trained on with labels, first '{trained_on[0]}': what "
            "is chosen by them says nothing of new scans; name a split that was held out",
            file=sys.stderr,
        )
    elif split == "test":
        print("note: what is chosen by test scans is not tested by them any more", file=sys.stderr)
    with closing(start_ahead(refs, lambda ref: predictor.start(ref.open(), ref.case_id))) as all_started:
        bar = tqdm(all_started, total=len(refs), desc="look", unit="scan", disable=None)
        seen = tuple(CachedCase.of(ref.open(), predictor.detect_raw(scan, ref.case_id)) for ref, scan in bar)
    scans = "training" if trained_on else VALIDATION if split == "val" else "labeled" if split == "all" else split
    return CachedDetections(bundle.classes, bundle.inference, seen, scans=scans)

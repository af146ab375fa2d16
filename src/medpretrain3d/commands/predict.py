"""Find boxes in scans with a detector bundle, or with several as an ensemble; needs no training data or code.

Scans are NIfTI files, folders of them, folders of DICOM series, text files that list any of these, or stores.

OUT receives predictions.json (boxes in LPS mm and in the file's own voxels), predictions.csv (the same as a table),
what else --format asks for, and cases/, from which an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import operator
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medpretrain3d.atomic import locked_folder, put_back
from medpretrain3d.commands.numbers import Number
from medpretrain3d.commands.precision_option import add_precision, tell_precision
from medpretrain3d.commands.region_options import add_region_to_look_at, refuse_without_region, regions_of
from medpretrain3d.commands.threshold_options import add_thresholds, thresholds_of
from medpretrain3d.errors import UserError
from medpretrain3d.imports import uncollected_imports
from medpretrain3d.lines import counted
from medpretrain3d.values import Positive, Rows, Share, ShareBelowOne, Whole

OTHERS = ("run.json", "store.json", "bundle.json", "encoder.json", "phantom.json", "dataset.json")
"""What tells that a folder is something else than one of predictions."""

if TYPE_CHECKING:
    from medpretrain3d.inference.inputs import ScanInput
    from medpretrain3d.inference.prediction_run import PredictionRun

SAVES_MEMORY = "lower --batch-size, or --overlap"
"""What to change where memory runs out."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Bundles, scans, place of the results, and what to do unlike the bundles say."""
    from medpretrain3d.inference.writers import formats

    parser.add_argument("bundle", type=Path, help="folder with bundle.json: a detector, or an ensemble")
    parser.add_argument(
        "scans", type=Path, nargs="+", metavar="[BUNDLE ...] SCAN", help="more bundles for an ensemble, then the scans"
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="folder for the results")
    parser.add_argument("--split", default="all", help="cases of stores: train, val, test or all (default: all)")
    parser.add_argument("--fold", type=Number(Whole), help="of stores, whose split is meant; default: named splits")
    parser.add_argument(
        "--series",
        default="",
        metavar="KEY",
        help="which of several DICOM series in a folder: its identifier, the key that the error names, or its "
        "description, where * stands for any text",
    )
    parser.add_argument(
        "--straighten",
        action="store_true",
        help="move the slices of DICOM series from a tilted gantry back within their planes (default: refuse them)",
    )
    parser.add_argument(
        "--format",
        nargs="+",
        choices=formats(),
        default=["json", "csv"],
        help="files to write: json, csv and coco for all scans; slicer (ROIs), nifti (boxes as label map), masks "
        "(objects, if the detector segments), dicom-sr (report of a DICOM series) and dicom-seg (its objects) for each "
        "(default: json csv)",
    )
    parser.add_argument(
        "--score-threshold", type=Number(Share), help="leave out boxes below this score (default: the bundle's)"
    )
    add_thresholds(parser)
    parser.add_argument(
        "--preview", action="store_true", help="also write OUT/preview: a picture of each scan, and a page to look at"
    )
    parser.add_argument(
        "--overlap", type=Number(ShareBelowOne), help="least overlap of neighbouring tiles (default: the bundle's)"
    )
    parser.add_argument(
        "--merge", choices=("nms", "wbc", "distance"), help="how boxes become one (default: the bundle's)"
    )
    parser.add_argument(
        "--nms-iou", type=Number(Share), help="overlap above which two boxes are one (default: the bundle's)"
    )
    parser.add_argument(
        "--merge-distance-mm",
        type=Number(Positive),
        help="for --merge distance: of centers, up to which two boxes are one (default: the bundle's)",
    )
    parser.add_argument(
        "--mirror",
        type=int,
        nargs="*",
        choices=(0, 1, 2),
        metavar="AXIS",
        help="also look at views mirrored along these axes, 0 = D, 1 = H, 2 = W; without an axis: no mirroring "
        "(default: the bundle's)",
    )
    add_region_to_look_at(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    add_precision(parser)
    parser.add_argument(
        "--channels-last", action="store_true", help="lay out convolutions for tensor cores (docs/howto/gpu.md)"
    )
    parser.add_argument(
        "--compile",
        choices=("default", "reduce-overhead", "max-autotune", "eager", "aot_eager"),
        help="compile the network with torch.compile in this mode (docs/howto/gpu.md; default: not)",
    )
    parser.add_argument(
        "--batch-size", type=Number(Rows), help="tiles per forward pass (default: 1 on a CPU, 4 on a GPU if they fit)"
    )


def lock(args: argparse.Namespace) -> AbstractContextManager[None]:
    """Return one call fills the folder at a time."""
    return locked_folder(args.out)


def run(args: argparse.Namespace) -> int:
    """Predict every scan; 0 if all could be read, 1 if some could not.

    The files replace those of an earlier call, unless a scan could not be predicted and those of all scans would hold
    fewer scans.

    Raises:
        UserError: no bundle, no scans, a path where nothing is, two scans with one case id, or an option out of range.
    """
    with uncollected_imports():
        from medpretrain3d.inference import Predictor, load_members
        from medpretrain3d.inference.finished_cases import FinishedCases
        from medpretrain3d.inference.inputs import find_scans, label_maps_in
        from medpretrain3d.inference.prediction_folder import PredictionFolder
        from medpretrain3d.inference.prediction_run import PredictionRun
        from medpretrain3d.inference.writers.dicom_source import check_library
        from medpretrain3d.memory import keep_freed_memory
        from medpretrain3d.threads import use_threads

    keep_freed_memory()
    use_threads()
    refuse_without_region(args)
    check_place(args.out)
    members, paths = split_bundles(args.bundle, args.scans)
    named = [(folder, bundle) for folder in members for bundle in load_members(folder)]
    bundles = [bundle for _, bundle in named]
    num_channels = bundles[0].preprocessing.num_channels
    scans = find_scans(paths, args.split, args.fold, args.series, args.straighten, num_channels)
    if left_out := label_maps_in(paths):
        print(
            f"note: {counted(len(left_out), 'file')} called as a label map left out, first {left_out[0]}",
            file=sys.stderr,
        )
    for folder, note in [(folder, note) for folder, bundle in named for note in bundle.notes]:
        print(f"note: {folder}: {note}", file=sys.stderr)
    changes = _changes(args)
    thresholds, said = thresholds_of(args, bundles, len(members), bool(changes))
    for line in said:
        print(line, file=sys.stderr)
    predictor = Predictor(
        bundles, args.device, changes, args.batch_size, args.precision, args.channels_last, args.compile
    )
    _check_merging(args, {config.merge for config in predictor.configs})
    tell_precision(args.precision, predictor.device)
    if {"dicom-sr", "dicom-seg"} & set(args.format):
        check_library()
    with_masks = bool({"masks", "dicom-seg"} & set(args.format))
    if with_masks:
        _ = predictor.segmenter  # refuses before any time is spent
    regions = regions_of(args, args.region_margin_mm)
    if regions is not None:
        regions.check(scan.case for scan in scans)
    identity = {
        "bundle_sha256": [bundle.sha256 for bundle in bundles],
        "inference": [dataclasses.asdict(config) for config in predictor.configs],
        "precision": predictor.precision,
        # Boxes are kept whatever their score, masks only where they are shown.
        **({"thresholds": dataclasses.asdict(thresholds)} if with_masks and thresholds else {}),
        **({} if regions is None else {"region": regions.identity}),
    }
    finished = FinishedCases(args.out / "cases", identity, len(bundles[0].classes), regions)
    seen = reduce(operator.or_, (bundle.volumes_seen for bundle in bundles))

    place, with_voxels = PredictionFolder(args.out, args.format), bool(len(seen))
    done = PredictionRun(place, predictor, finished, thresholds, regions, with_masks, with_voxels, args.preview)
    done.predict(scans)
    is_kept, lost = done.write()
    previews = _write_preview(done, members, scans) if args.preview and not is_kept else []
    if lost and not is_kept:
        print(
            f"note: {args.out} held predictions of {len(lost)} more scans, first '{lost[0]}', which this call does not "
            "name; its files of all scans no longer hold them"
        )
    for note in done.notes:
        print(f"note: {note}")
    if done.num_reused:
        print(f"{done.num_reused} of {len(scans)} scans taken from {finished.folder} (same bundle, options and file)")
    if trained_on := seen.among(done.voxels):
        print(
            f"note: {len(trained_on)} of {len(done.voxels)} scans looked at were trained on, first '{trained_on[0]}', "
            f"{len(seen.among(done.voxels, with_labels=True))} of them with labels: no test of new scans"
        )
    if not is_kept:
        _tell_boxes(done)
        for line in previews:
            print(line)
    if done.failures:
        message = f"{len(done.failures)} of {len(scans)} scans could not be predicted, see above"
        print(f"{message}{_why_kept(args.out, lost) if is_kept else ''}", file=sys.stderr)
    return 1 if done.failures else 0


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    """Return what is to be done unlike the bundles say."""
    chosen = {
        "score_threshold": args.score_threshold,
        "overlap": args.overlap,
        "merge": args.merge,
        "nms_iou": args.nms_iou,
        "merge_distance_mm": args.merge_distance_mm,
        "mirror_axes": args.mirror,
    }
    return {key: value for key, value in chosen.items() if value is not None}


def _check_merging(args: argparse.Namespace, ways: set[str]) -> None:
    """Refuse the limit of a way of merging that no bundle has and nobody asked for."""
    if args.merge_distance_mm is not None and "distance" not in ways:
        raise UserError(
            f"--merge-distance-mm {args.merge_distance_mm:g} is of --merge distance, boxes are merged by "
            f"{', '.join(sorted(ways))}; give --merge distance, or leave it out"
        )
    if args.nms_iou is not None and ways == {"distance"}:
        raise UserError(
            f"--nms-iou {args.nms_iou:g} is of --merge nms and wbc, boxes are merged by distance; give one of them, "
            "or leave it out"
        )


def _tell_boxes(done: PredictionRun) -> None:
    predictions, regions = done.predictions, done.regions
    num_boxes = sum(len(prediction) for prediction in predictions)
    place = f"{done.folder.folder} ({', '.join(done.folder.formats)})"
    print(f"{num_boxes} boxes in {counted(len(predictions), 'scan')}: {place}")
    if regions is not None:
        num_outside = sum(one.num_outside or 0 for one in predictions)
        print(f"{num_outside} more, {regions.margin_mm:g} mm and further from {regions.place}, were left out")
    if done.thresholds is not None:
        print(f"{sum(bool(one.is_positive) for one in predictions)} of {len(predictions)} scans called positive")


def _write_preview(done: PredictionRun, members: Sequence[Path], scans: Sequence[ScanInput]) -> list[str]:
    """Write the page, and return what to say about it."""
    from medpretrain3d.commands.case_previews import LEAST_SHOWN, MOST_CASES, LookedAt, as_case, called, write_preview
    from medpretrain3d.inference.prediction_folder import PREVIEW

    predictions, bundle = done.predictions, done.predictor.bundles[0]
    opened_by = {scan.case: scan for scan in scans}
    looked_at = (
        LookedAt(called(one), opened_by[one.case].open(done.predictor.unit), as_case(one))
        for one in predictions[:MOST_CASES]
    )
    least = 0.0 if done.thresholds is not None else LEAST_SHOWN
    title, window = f"Predictions of {counted(len(predictions), 'scan')}", bundle.preprocessing.window
    about = f"Boxes of {', '.join(str(folder) for folder in members)}."
    page = write_preview(done.folder.folder / PREVIEW, title, about, looked_at, bundle.classes, window, least)
    if len(predictions) <= MOST_CASES:
        return [f"preview: {page}"]
    return [f"preview: {page}", f"note: the preview shows the first {MOST_CASES} of {len(predictions)} scans"]


def split_bundles(first: Path, others: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the bundles and the scans among what was named: bundles come first and hold a `bundle.json`.

    Raises:
        UserError: only bundles were named.
    """
    for path in others:
        put_back(path)
    num_more = next((i for i, path in enumerate(others) if not (path / "bundle.json").is_file()), len(others))
    if num_more == len(others):
        raise UserError(f"{others[-1]}: is a bundle, wanted scans behind the bundles; name files, folders or stores")
    return [first, *others[:num_more]], list(others[num_more:])


def _why_kept(out: Path, lost: Sequence[str]) -> str:
    if not lost:
        return "; nothing is written"
    return (
        f"; the files of all scans in {out} stay as an earlier call wrote them, for they hold {len(lost)} scans, first "
        f"'{lost[0]}', that new ones would not; leave out what cannot be predicted, or name another place"
    )


def check_place(out: Path) -> None:
    """Refuse a folder that is something else, whose files would be mixed with the results or overwritten.

    Raises:
        UserError: a run, store, bundle, encoder file or data set is there, or a `predictions.json` of another program.
    """
    from medpretrain3d.inference.writers.document import is_predictions

    found = next((name for name in OTHERS if (out / name).exists()), None)
    if found:
        raise UserError(f"{out}: holds a {found}, so it is no folder of predictions; choose another place")
    path = out / "predictions.json"
    if path.is_file() and not is_predictions(path):
        raise UserError(f"{path}: is not of this program; choose another place")

"""Find boxes in scans with a detector bundle; needs neither training data nor training code.

OUT receives predictions.json (boxes in LPS mm and in the file's own voxels), predictions.csv (the same as a table) and
cases/, from which an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from medpretrain3d.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Bundle, scans, place of the results, and what to do unlike the bundle says."""
    parser.add_argument("bundle", type=Path, help="folder with bundle.json and detector.safetensors")
    parser.add_argument("scans", type=Path, nargs="+", help="NIfTI files, or folders of them")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="folder for the results")
    parser.add_argument(
        "--score-threshold", type=float, help="leave out boxes below this score (default: the bundle's)"
    )
    parser.add_argument("--overlap", type=float, help="least overlap of neighbouring tiles (default: the bundle's)")
    parser.add_argument("--merge", choices=("nms", "wbc"), help="how boxes become one (default: the bundle's)")
    parser.add_argument("--nms-iou", type=float, help="overlap above which two boxes are one (default: the bundle's)")
    parser.add_argument(
        "--mirror",
        type=int,
        nargs="*",
        choices=(0, 1, 2),
        metavar="AXIS",
        help="also look at views mirrored along these axes, 0 = D, 1 = H, 2 = W; without an axis: no mirroring "
        "(default: the bundle's)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    parser.add_argument("--batch-size", type=int, default=1, help="tiles per forward pass (default: 1)")


def run(args: argparse.Namespace) -> int:
    """Predict every scan; 0 if all could be read, 1 if some could not.

    Raises:
        UserError: no bundle, no scans, two scans with one case id, or an option out of range.
    """
    from tqdm import tqdm

    from medpretrain3d.inference import Predictor, load_bundle, write_predictions
    from medpretrain3d.inference.finished_cases import FinishedCases
    from medpretrain3d.inference.predictor import case_id
    from medpretrain3d.memory import keep_freed_memory

    keep_freed_memory()
    scans = find_scans(args.scans)
    bundle = load_bundle(args.bundle)
    chosen = {
        "score_threshold": args.score_threshold,
        "overlap": args.overlap,
        "merge": args.merge,
        "nms_iou": args.nms_iou,
        "mirror_axes": args.mirror,
    }
    config = dataclasses.replace(bundle.inference, **{key: value for key, value in chosen.items() if value is not None})
    predictor = Predictor(bundle, args.device, config, args.batch_size)
    finished = FinishedCases(args.out / "cases", {"bundle_sha256": bundle.sha256, **dataclasses.asdict(config)})

    predictions, num_reused, failures = [], 0, []
    for scan in tqdm(scans, desc="predict", unit="scan", disable=None):
        prediction = finished.load(case_id(scan), scan)
        num_reused += prediction is not None
        if prediction is None:
            try:
                prediction = predictor.predict_file(scan)
            except UserError as error:
                failures.append(scan)
                tqdm.write(f"error: {error}", file=sys.stderr)
                continue
            finished.save(prediction, scan)
        predictions.append(prediction)
    write_predictions(args.out, bundle.classes, predictions)
    if num_reused:
        print(f"{num_reused} of {len(scans)} scans taken from {args.out / 'cases'} (same bundle, options and file)")
    num_boxes = sum(len(prediction) for prediction in predictions)
    print(f"{num_boxes} boxes in {len(predictions)} scans: {args.out / 'predictions.json'}, predictions.csv")
    if failures:
        print(f"{len(failures)} of {len(scans)} scans could not be predicted, see above", file=sys.stderr)
    return 1 if failures else 0


def find_scans(paths: Sequence[Path]) -> list[Path]:
    """The scans named, folders replaced by the NIfTI files directly inside them, in the order of their names.

    Raises:
        UserError: a folder without NIfTI files, or two scans with the same case id.
    """
    from medpretrain3d.inference.predictor import ENDINGS, case_id

    scans: list[Path] = []
    for path in paths:
        if not path.is_dir():
            scans.append(path)
            continue
        # Hidden files are leftovers of other programs, such as the `._scan.nii.gz` of macOS.
        inside = sorted(file for file in path.glob("[!.]*") if file.name.endswith(ENDINGS))
        if not inside:
            raise UserError(f"{path}: holds no {' or '.join(ENDINGS)} file; name the folder with the scans themselves")
        scans += inside
    by_case: dict[str, Path] = {}
    for scan in scans:
        other = by_case.setdefault(case_id(scan), scan)
        if other is not scan:
            raise UserError(f"{other} and {scan} both have the case id '{case_id(scan)}'; rename one of them")
    return scans

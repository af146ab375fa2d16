"""Leave out the candidates outside of a region, and count what that drops against the truth, before it is trusted.

A candidate stays where its center lies in the region, or within the margin of it. For every margin and class a line
says how many objects lie outside, which nothing could find any more, how many hits are lost and how many false
positives are gone. `predict --region` looks and keeps in the same way.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medpretrain3d.atomic import locked, write_text
from medpretrain3d.commands.numbers import Number
from medpretrain3d.commands.region_options import add_region, regions_of
from medpretrain3d.documents import LARGE, json_text, read_json
from medpretrain3d.errors import UserError
from medpretrain3d.values import NonNegative

if TYPE_CHECKING:
    import numpy as np

ADVICE = "give predictions.json and targets.json as predict, test or cross-validate writes them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What was found, the truth, the region."""
    parser.add_argument("--predictions", type=Path, required=True, metavar="FILE", help="predictions.json")
    parser.add_argument("--targets", type=Path, required=True, metavar="FILE", help="targets.json of the same scans")
    add_region(parser, is_required=True)
    parser.add_argument(
        "--margin-mm",
        type=Number(NonNegative),
        nargs="+",
        default=[0.0, 5.0, 10.0, 20.0],
        metavar="MM",
        help="that belong to the region (default: 0 5 10 20)",
    )
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="for what stays, with one --margin-mm")


def lock(args: argparse.Namespace) -> AbstractContextManager[None]:
    """Return one call writes the file at a time."""
    return locked(args.out) if args.out else nullcontext()


def run(args: argparse.Namespace) -> int:
    """Print a line per margin and class, and write what stays.

    Raises:
        UserError: unreadable files, boxes that are not in LPS mm, several margins for one file, a file beside masks of
            other boxes, or see `Regions`.
    """
    import numpy as np

    from medpretrain3d.boxes import box_center
    from medpretrain3d.evaluation import pair, read_predictions, read_targets

    if args.out and len(args.margin_mm) > 1:
        raise UserError(f"-o {args.out}: got margins {args.margin_mm}, wanted one; name the one to keep: --margin-mm")
    if args.out and args.out.name == "predictions.json" and (masks := args.out.parent / "masks").is_dir():
        raise UserError(f"-o {args.out}: {masks} beside it numbers all boxes, not what stays; choose another folder")
    predictions, targets = read_predictions(args.predictions), read_targets(args.targets)
    for file in (predictions, targets):
        if file.frame != "lps_mm":
            raise UserError(f"{file.path}: its boxes are in {file.frame}, wanted lps_mm; {ADVICE}")
    found = pair(predictions, targets)
    regions = regions_of(args, max(args.margin_mm))
    assert regions is not None
    far: list[np.ndarray] = []
    objects: list[np.ndarray] = []
    for one, wanted in zip(found, targets.cases, strict=True):
        region = regions.of(wanted.case)
        for boxes, kept in ((one.boxes, far), (wanted.boxes, objects)):
            kept.append(region.distances_mm(box_center(boxes), max(args.margin_mm)))
    told = _table(found, targets.cases, targets.classes, far, objects, args.margin_mm)
    if args.out:
        document: dict[str, Any] = read_json(args.predictions, dict[str, Any], ADVICE, LARGE, True)
        inside = {one.case: distances <= args.margin_mm[0] for one, distances in zip(found, far, strict=True)}
        are_named = predictions.has_names and targets.has_names
        entries = [
            _kept(entry, inside[one.case])  # names are numbers in some files, and none in others, see `pair`
            for entry, one in zip(document["predictions"], predictions.cases if are_named else found, strict=True)
        ]
        write_text(args.out, json_text({**document, "predictions": entries}))
        num_left = sum(int(one.sum()) for one in inside.values())
        told.append(f"{num_left} of {sum(map(np.size, inside.values()))} boxes: {args.out}")
    print("\n".join(told))
    return 0


def _table(
    found: Sequence[Any],
    wanted: Sequence[Any],
    classes: Sequence[str],
    far: Sequence[np.ndarray],
    objects: Sequence[np.ndarray],
    margins_mm: Sequence[float],
) -> list[str]:
    import numpy as np

    before = _counts(found, wanted, classes)
    width = max(len("class"), *map(len, classes))
    lines = [f"{'margin':>9}  {'class':<{width}}{'objects outside':>18}{'hits lost':>16}{'false positives gone':>24}"]
    for margin in margins_mm:
        kept = [
            dataclasses.replace(
                one,
                boxes=one.boxes[distances <= margin],
                scores=one.scores[distances <= margin],
                labels=one.labels[distances <= margin],
                boxes_vox=None if one.boxes_vox is None else one.boxes_vox[distances <= margin],
            )
            for one, distances in zip(found, far, strict=True)
        ]
        after = _counts(kept, wanted, classes)
        for label, name in enumerate(classes):
            outside = sum(
                int(((one.labels == label) & (distances > margin)).sum())
                for one, distances in zip(wanted, objects, strict=True)
            )
            num_objects = int(np.sum([(one.labels == label).sum() for one in wanted]))
            cells = [(outside, num_objects)] + [
                (first - left, first) for first, left in zip(before[label], after[label], strict=True)
            ]
            texts = [f"{one} of {every}" for one, every in cells]
            lines.append(f"{margin:>6g} mm  {name:<{width}}{texts[0]:>18}{texts[1]:>16}{texts[2]:>24}")
    return lines


def _counts(found: Sequence[Any], wanted: Sequence[Any], classes: Sequence[str]) -> list[tuple[int, int]]:
    """Return hits (IoU 0.1, or the distance of points) and false positives of each class."""
    from medpretrain3d.cross_validation.validation_scores import HIT_IOU
    from medpretrain3d.evaluation.center_distance import match_objects

    # All of them, as all are counted that go: of the best hundred others would take the places of those.
    most = max([1, *(len(one.scores) for one in found)])
    matched = match_objects(found, wanted, classes, HIT_IOU, most).classes
    return [(int(one.is_hit[0].sum()), int((~one.is_hit[0] & one.counts_always).sum())) for one in matched]


def _kept(entry: Any, is_inside: np.ndarray) -> Any:
    """Return the entry of a scan with the boxes inside.

    Without the call of the scan: it may rest on what is gone, and on boxes below a threshold, which no file holds. And
    without its masks, which number all boxes.
    """
    rows = [row for row, inside in enumerate(is_inside.tolist()) if inside]
    columns = ("boxes", "scores", "labels", "boxes_vox")
    unknown = ("case_score", "is_positive", "mask_sha256")
    others = {name: value for name, value in entry.items() if name not in unknown}
    others["num_outside"] = (entry.get("num_outside") or 0) + len(is_inside) - len(rows)
    return {**others, **{name: [entry[name][row] for row in rows] for name in columns if name in entry}}

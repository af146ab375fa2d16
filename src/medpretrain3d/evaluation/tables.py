"""Results as lines of text, for the terminal: the answer first, 80 columns wide."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medpretrain3d.evaluation.detection import MAP_KEY, ap_key, froc_curve_key, froc_score_key, mean_ar_key
from medpretrain3d.evaluation.mask_detection import DICE_IOU, DICE_KEY
from medpretrain3d.lines import counted_scans
from medpretrain3d.statistics import MIN_PATIENTS

WIDTH = 80
"""Columns of a terminal. Notes are sentences, and longer."""
NAME_WIDTH = 14
"""Of classes and baselines; three numbers with their intervals have room beside it."""
MOST_CLASSES = 5
"""Whose confusion is shown as a matrix; of more classes the pairs that are confused most."""
PER_SCAN = "sensitivity at false positives per scan:"
SHOWN_IOUS = (0.1, 0.3, 0.5)
FROC_IOUS = (0.1, 0.5)
ERROR_TEXTS = {
    "missed": "an object that nothing is about",
    "localization": "of the right class, badly placed",
    "classification": "rightly placed, of the wrong class",
    "both": "badly placed and of the wrong class",
    "duplicate": "an object that is found already",
    "background": "where nothing is",
    "false_positives": "all of the last five",
    "false_negatives": "all objects without a hit",
}
"""Errors in words."""


def detection_table(result: Mapping[str, Any]) -> list[str]:
    """Return mAP, what it is of, AP and recall per class and of trivial baselines, the FROC curves, every section."""
    first = {"mAP .1:.5": MAP_KEY} | {f"AP {iou:.1f}": ap_key(iou) for iou in SHOWN_IOUS[::2]}
    then = {f"AP {SHOWN_IOUS[1]:.1f}": ap_key(SHOWN_IOUS[1]), "mAR .1:.5": mean_ar_key(100)}
    curves = {f"FROC at IoU {iou:.1f}": (froc_curve_key(iou), froc_score_key(iou)) for iou in FROC_IOUS}
    return [
        f"mAP {cell(result, MAP_KEY)}, the mean AP over IoU 0.1 to 0.5",
        *_heading(result),
        "",
        *_class_rows(result, first),
        "",
        *_class_rows(result, then, with_objects=True),
        "",
        *_curve_rows(result, result["false_positives_per_scan"], curves),
        *_sections(result, "at IoU 0.1"),
        "",
        *confusion_rows(result),
        *_error_rows(result["error_analysis"]),
        *_fit_rows(result["box_fit"]),
        *_absent_classes(result),
        *notes(result),
    ]


def center_table(result: Mapping[str, Any]) -> list[str]:
    """Return AP, what it is of, AP per class, the FROC curve and every section."""
    return [
        f"AP {cell(result, 'AP')}, of hits by '{result['criterion']}'",
        *_heading(result),
        "",
        *_class_rows(result, {"AP": "AP"}, with_objects=True),
        "",
        *_curve_rows(result, result["false_positives_per_scan"], {"FROC": ("FROC_curve", "FROC_score")}),
        *_sections(result, f"by '{result['criterion']}'"),
        *_absent_classes(result),
        *notes(result),
    ]


def mask_table(result: Mapping[str, Any]) -> list[str]:
    """Return mAP of masks, what it is of, AP per class, and Dice of the hits."""
    columns = {"mAP .1:.5": MAP_KEY} | {f"AP {iou:.1f}": ap_key(iou) for iou in SHOWN_IOUS[::2]}
    return [
        f"mAP {cell(result, MAP_KEY)} of masks, the mean AP over IoU 0.1 to 0.5",
        *_heading(result),
        "",
        *_class_rows(result, columns),
        "",
        f"Dice of the {result['num_hits']} hits at IoU {DICE_IOU:g}: {cell(result, DICE_KEY)}",
        *_absent_classes(result),
        *notes(result),
    ]


def luna16_table(result: Mapping[str, Any]) -> list[str]:
    """Return the curve by each read-out, and what became of the candidates."""
    rates = " ".join(f"{rate:>5g}" for rate in result["fp_per_scan"])
    lines = [
        f"{result['num_cases']} scans, {result['num_targets']} nodules, {result['num_marks']} marks"
        f"{_resampled(result)}",
        PER_SCAN,
        f"{'':<15}{rates} CPM",
    ]
    for name, one in result["readouts"].items():
        curve = " ".join(f"{value:>5.3f}" for value in one["sensitivity"])
        lines.append(f"{name:<15}{curve} {one['cpm']:.6f}{_interval(one, 'cpm')}")
    dropped = {
        "on excluded findings": result["num_marks_on_excluded"],
        "doubled on a nodule": result["num_double_marks"],
        "beyond the 100 best of a scan": result["num_marks_over_limit"],
        "of scans that are not in the list": result["num_marks_of_unlisted_scans"],
    }
    counts = "; ".join(f"{number} {what}" for what, number in dropped.items() if number)
    if counts:
        lines.append(f"marks that count neither as right nor wrong: {counts}")
    for what in ("nodules", "excluded"):
        if number := result[f"num_{what}_of_unlisted_scans"]:
            name = "nodules" if what == "nodules" else "excluded findings"
            lines.append(f"{name} of scans that are not in the list, left out: {number}")
    return lines


def ribfrac_table(result: Mapping[str, Any]) -> list[str]:
    """Return the curve and its mean."""
    rows = {f"FROC at IoU > 0.2 of {result['overlap']}": ("sensitivity", "froc_score")}
    return [*_heading(result), *_curve_rows(result, result["fp_per_scan"], rows), *notes(result)]


def picai_table(result: Mapping[str, Any]) -> list[str]:
    """Return AP, AUROC and their mean."""
    names = {"AP of lesions": "AP", "AUROC of scans": "auroc", "score": "score"}
    return [
        *_heading(result),
        f"IoU of {result['overlap']} at least 0.1; {result['num_positive_cases']} scans with lesions",
        *(f"{name:<16}{cell(result, key)}" for name, key in names.items()),
        *notes(result),
    ]


def section_table(result: Mapping[str, Any]) -> list[str]:
    """Return one section alone."""
    return [
        *_heading(result),
        *_sections(result, f"at IoU {result['iou']:g}" if "iou" in result else f"by '{result['criterion']}'"),
        *_absent_classes(result),
        *notes(result),
    ]


def notes(result: Mapping[str, Any]) -> list[str]:
    """Return the notes of a result as lines of text."""
    return [f"note: {note}" for note in result.get("notes", ())]


def cell(result: Mapping[str, Any], key: str) -> str:
    """Return a number and its interval."""
    return f"{result[key]:.3f}{_interval(result, key)}"


def _heading(result: Mapping[str, Any]) -> list[str]:
    counts = result["num_targets"]
    total = sum(counts.values()) if isinstance(counts, dict) else counts
    scans = counted_scans(result["num_cases"], num_patients(result))
    return [f"{scans}, {total} objects, {result['num_predictions']} detections{_resampled(result)}"]


def num_patients(result: Mapping[str, Any]) -> int:
    """Return how many patients a result rests on: as many as scans where it does not say."""
    return int(result.get("num_patients", result["num_cases"]))


def units(result: Mapping[str, Any]) -> str:
    """Return what varies in words: `scans`, or `patients` where some have several."""
    return "scans" if num_patients(result) >= result["num_cases"] else "patients"


def _resampled(result: Mapping[str, Any]) -> str:
    if result["num_bootstrap"] and num_patients(result) < MIN_PATIENTS:
        return f"; no intervals: {MIN_PATIENTS} {units(result)} are the least that hold one"
    if not result["num_bootstrap"]:
        return ""
    return f"; {result['confidence']:.0%} intervals over {units(result)}"


def _class_rows(result: Mapping[str, Any], columns: Mapping[str, str], with_objects: bool = False) -> list[str]:
    """Return numbers of all classes, of each, and of trivial baselines; a column each, and one of objects last."""
    num_targets = result["num_targets"]
    rows = [("all classes", str(sum(num_targets.values())), result, "")]
    if len(num_targets) > 1:
        rows += [(name, str(count), result, f"{name}_") for name, count in num_targets.items()]
    rows += [(name, "", numbers, "") for name, numbers in result.get("trivial_baselines", {}).items()]
    header = [*columns, *(["objects"] if with_objects else [])]
    lines = [_row("", header)]
    for name, count, numbers, prefix in rows:
        cells = [cell(numbers, prefix + key) for key in columns.values()]
        lines.append(_row(name, [*cells, *([count] if with_objects else [])]))
    return lines


def _row(name: str, cells: Sequence[str]) -> str:
    return "  ".join([f"{_shortened(name):<{NAME_WIDTH}}", *(f"{text:<20}" for text in cells)]).rstrip()


def _shortened(name: str, width: int = NAME_WIDTH) -> str:
    return name if len(name) <= width else f"{name[: width - 1]}…"


def _curve_rows(result: Mapping[str, Any], rates: Sequence[float], curves: Mapping[str, tuple[str, str]]) -> list[str]:
    """Return a curve in each line, and its mean behind it or, where that is too long, below."""
    width = 42 if len(rates) <= 5 else 16
    lines = [PER_SCAN, f"{'':<{width}}{' '.join(f'{rate:>5g}' for rate in rates)}  mean"]
    for name, (curve, score) in curves.items():
        values = " ".join(f"{value:>5.3f}" for value in result[curve])
        line, mean = f"{name if width == 16 else '  ' + name:<{width}}{values}", cell(result, score)
        lines += [f"{line}  {mean}"] if len(line) + len(mean) + 2 <= WIDTH else [line, f"{'  mean':<{width}}{mean}"]
    return lines


def _sections(result: Mapping[str, Any], hit: str) -> list[str]:
    lines = []
    if strata := result.get("size_strata", []):
        lines += ["", f"{'by size, IoU 0.1':<29}{'objects':>7}  {'AP':<20}  recall"]
    for stratum in strata:
        upper = "" if stratum["to_mm"] is None else f"{stratum['to_mm']:g}"
        bounds = f"{stratum['from_mm']:g} to {upper} mm" if upper else f"{stratum['from_mm']:g} mm and over"
        columns = "  ".join(f"{cell(stratum, name + '_IoU_0.10'):<20}" for name in ("AP", "recall"))
        lines.append(f"  diameter {bounds:<18}{stratum['num_targets']:>7}  {columns}".rstrip())
    if "case_level" in result:
        case = result["case_level"]
        called = f"called positive from score {case['threshold']:g} on"
        names = {
            "AUROC": "auroc",
            "AUPRC": "auprc",
            f"sensitivity, {called}": "sensitivity",
            "specificity": "specificity",
        }
        lines += ["", f"scans with objects ({case['num_positive']}) against scans without ({case['num_negative']})"]
        lines += [f"  {name:<50}{cell(case, key)}" for name, key in names.items()]
    if "operating_points" in result:
        lines += ["", f"score >=  {'sensitivity':<21}  {'precision':<21}  FP per scan, {hit}"]
        shown = ("sensitivity", "precision", "false_positives_per_scan")
        for point in result["operating_points"]:
            cells = "  ".join(f"{cell(point, name):<21}" for name in shown)
            lines.append(f"  {point['score']:<6.3g}  {cells}".rstrip())
    if "calibration" in result:
        lines.append(f"expected calibration error: {cell(result['calibration'], 'expected_calibration_error')}")
    return lines


def confusion_rows(result: Mapping[str, Any]) -> list[str]:
    """Return objects by their class (rows) and the class they are found as (columns); nothing of one class alone."""
    names, found = list(result["num_targets"]), result.get("confusion")
    if found is None or len(names) < 2:
        return []
    title = f"objects (rows) found as (columns), score >= {found['score']:g}, IoU {found['iou']:g}"
    matrix = found["matrix"]
    if len(names) > MOST_CLASSES:
        pairs = [
            (matrix[row][column], names[row], names[column])
            for row in range(len(names))
            for column in range(len(names))
            if row != column and matrix[row][column]
        ]
        most = sorted(pairs, key=lambda pair: -pair[0])[:10]
        said = [f"  {_shortened(one, 24)} found as {_shortened(other, 24)}: {count}" for count, one, other in most]
        return [title.replace("objects (rows) found as (columns)", "classes confused most"), *(said or ["  none"]), ""]
    width = 10
    lines = [
        title,
        f"{'':<{NAME_WIDTH}}" + "".join(f"{_shortened(name, width - 1):>{width}}" for name in [*names, "missed"]),
    ]
    for name, row in zip([*names, "no object"], matrix, strict=True):
        shown = [str(count) for count in row[: len(names)]] + ([str(row[-1])] if name != "no object" else [""])
        lines.append((f"{_shortened(name):<{NAME_WIDTH}}" + "".join(f"{count:>{width}}" for count in shown)).rstrip())
    return [*lines, ""]


def _error_rows(errors: Mapping[str, Any]) -> list[str]:
    """Return how often each kind of error occurs, and what AP gains without it."""
    iou = f"{errors['foreground_iou']:g}"
    lines = [f"{'errors at IoU ' + iou + ', and what AP gains without them:':<56}{'number':>7}  gain"]
    for kind, text in ERROR_TEXTS.items():
        one = errors[kind]
        gain = "-" if math.isnan(one["gain"]) else f"{one['gain']:+.3f}"
        lines.append(f"  {kind.replace('_', ' '):<16} {text:<37}{one['num']:>7}  {gain}")
    return lines


def _fit_rows(fit: Mapping[str, Any]) -> list[str]:
    """Return how well the boxes of hits fit along each axis."""
    title = f"hits at IoU {fit['iou']:g}, medians"
    lines = ["", f"{title:<26}{'IoU':>5}   {'overlap along x y z':<19}   faces off along x y z"]
    for name, one in fit["classes"].items():
        if one["num_hits"]:
            hits = f"  {_shortened(name):<{NAME_WIDTH}}{one['num_hits']:>5} hits"
            overlaps = "  ".join(f"{value:.2f}" for value in one["median_axis_iou"])
            errors = "".join(f"{value:<7.3g}" for value in one["median_face_error"])
            lines.append(f"{hits:<26}{one['median_iou']:>5.2f}   {overlaps:<19}   {errors}".rstrip())
    return lines if len(lines) > 2 else []


def _absent_classes(result: Mapping[str, Any]) -> list[str]:
    names = result["classes_without_targets"]
    if not names:
        return []
    how = "left out of the means" if result.get("compat", "none") in ("none", "coco") else "AP -1, counted in the means"
    return [f"classes without objects, {how}: {', '.join(names)}"]


def _interval(result: Mapping[str, Any], key: str) -> str:
    if key not in result["intervals"]:
        return ""
    low, high = result["intervals"][key]
    return "" if math.isnan(low) else f" [{low:.3f}, {high:.3f}]"

"""The recipe that a plan becomes: everything that `finetune` needs, each value with its reason in a comment."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import yaml

from medpretrain3d.errors import UserError
from medpretrain3d.planning.fingerprint import Fingerprint
from medpretrain3d.planning.plan import Plan
from medpretrain3d.planning.recipe_lines import (
    command,
    comment,
    fact,
    flow,
    listed_classes,
    plain_name,
    times,
    yaml_line,
    yaml_text,
)
from medpretrain3d.planning.setup import Setup
from medpretrain3d.store.left_right import left_right_pairs
from medpretrain3d.store.points import POINT_RADIUS_MM
from medpretrain3d.store.splits import Splits

LARGE_VOX = 16.0
"""Median longest edge from which a mean of many boxes is more exact than the best one."""
RADIUS_CELLS = 1.5
"""Least radius of a heat map's target in cells, so that some cell lies in it wherever a point does."""
PlannedDetector = Literal["HeatMap", "RetinaUNet", "RetinaNet"]
IN_WORDS: Mapping[PlannedDetector, str] = {
    "HeatMap": "Heat maps",
    "RetinaUNet": "Retina U-Net",
    "RetinaNet": "RetinaNet",
}
WHY: Mapping[PlannedDetector, str] = {
    "HeatMap": "of some objects the center is all that is known: no size is learnt",
    "RetinaUNet": "every object is outlined, so that masks are learnt beside the boxes",
    "RetinaNet": "objects are boxes: there is no outline to learn",
}
SOURCE = "# Planned for the store: "
SEAL = "# As `medpretrain3d plan` wrote it, while this holds: "


def recipe_text(
    plan: Plan,
    fingerprint: Fingerprint,
    setup: Setup,
    store: str,
    splits: Splits,
    place: str,
    warnings: Sequence[str],
    source: str = "",
) -> str:
    """Return a whole recipe of stage 2 as YAML.

    Args:
        plan: of a detector.
        fingerprint: of the data.
        setup: of the accelerator.
        store: at the spacing of the plan, as the recipe names it.
        splits: of that store.
        place: of the recipe, for its command.
        warnings: about the data.
        source: the store that was planned for, of which `store` was made; empty where it is `store` itself.

    Raises:
        UserError: the plan is of no detector, because no training case holds an object.
    """
    if plan.first_level is None:
        raise UserError(f"{store}: no training case holds an object, so there is no detector to plan")
    text = "\n".join(
        [
            *_head(plan, fingerprint, setup, store, len(splits.folds), place, warnings),
            *_body(plan, fingerprint, setup, store, splits),
            f"{SOURCE}{yaml_line(source or store)}",
        ]
    )
    return f"{text}\n{SEAL}{_seal(text)}\n"


def detector_of(plan: Plan, fingerprint: Fingerprint) -> PlannedDetector:
    """Return the class of the detector that is planned."""
    return "HeatMap" if plan.anchors is None else "RetinaUNet" if fingerprint.have_masks else "RetinaNet"


def is_as_written(text: str) -> bool:
    """Whether a recipe is one that `recipe_text` made and nobody has changed since."""
    body, _, seal = text.rpartition(f"\n{SEAL}")
    return bool(body) and seal.strip() == _seal(body)


def planned_for(text: str) -> tuple[str, str]:
    """Return the store that a recipe of `recipe_text` was planned for, empty in earlier ones, and the one it names."""
    named = [line.removeprefix(SOURCE) for line in text.splitlines() if line.startswith(SOURCE)]
    return (str(yaml.safe_load(named[-1])) if named else ""), yaml.safe_load(text)["data"]["store"]


def _seal(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _head(
    plan: Plan, fingerprint: Fingerprint, setup: Setup, store: str, num_folds: int, place: str, warnings: Sequence[str]
) -> Iterable[str]:
    device = f"a GPU of {setup.memory_gib:g} GiB" if setup.accelerator == "gpu" else "a CPU"
    held = ", ".join(f"{len(ids)} {name}" for name, ids in fingerprint.splits.items())
    spacing = " x ".join(f"{edge:g}" for edge in plan.spacing_mm)
    memory = f"about {plan.report['estimated_gib']} GiB at {plan.batch_size} x {times(plan.patch)} voxels"
    detector = IN_WORDS[detector_of(plan, fingerprint)]
    yield from comment(
        f"{detector} on {fingerprint.name}: {listed_classes(fingerprint.classes)}; planned for {device}."
    )
    yield from fact(
        "Data:",
        f"{store}: {len(fingerprint.case_ids)} cases ({held}) at {spacing} mm. After another call of `prepare` or "
        "`split` on the data, call `plan` again",
    )
    yield from fact("Hardware:", f"{device}; {memory}")
    yield from fact("Expect:", "not yet run")
    yield command("Run:", f"medpretrain3d finetune --config {shlex.quote(place)}")
    if num_folds > 1:
        yield command("", f"medpretrain3d finetune --config {shlex.quote(place)} --folds all")
    yield from fact("Start:", "from a pretrained encoder: --model.init_from FILE (docs/howto/choose_an_encoder.md)")
    for warning in warnings:
        yield from fact("Warning:", warning)


def _body(plan: Plan, fingerprint: Fingerprint, setup: Setup, store: str, splits: Splits) -> Iterable[str]:
    objects = fingerprint.training_objects
    edges = objects.extents_mm[~objects.is_speck] / plan.spacing_mm
    middle = sorted(edges.max(axis=1))[len(edges) // 2] if len(edges) else 0.0
    yield f"run: {{group: {plain_name(fingerprint.name)}, name: scratch}}"
    yield "model:"
    yield "  detector:"
    detector = detector_of(plan, fingerprint)
    yield f"    class_path: {detector:<10}   # {WHY[detector]}"
    yield "    init_args:"
    yield from comment(
        "Strides and kernels leave a coarse axis alone until the others have come to its spacing (nnU-Net).", 6
    )
    yield "      backbone:"
    yield "        class_path: ResEnc"
    yield "        init_args:"
    yield f"          preset: {plan.preset}"
    if len(fingerprint.channel_names) > 1:
        yield f"          in_channels: {len(fingerprint.channel_names)}   # {', '.join(fingerprint.channel_names)}"
    yield f"          strides: {flow(plan.strides)}"
    yield f"          kernel_sizes: {flow(plan.kernel_sizes)}"
    yield f"      num_classes: {len(fingerprint.classes)}"
    if plan.anchors is None:
        yield from _heat_map_lines(plan, setup)
    else:
        yield from _anchor_lines(plan, setup, middle)
    yield from comment(f"{setup.max_steps:,} steps: {setup.reasons}.", 2)
    yield f"  optim: {setup.optim}"
    yield "data:"
    yield f"  store: {yaml_text(store)}"
    scan = "x".join(map(str, plan.report["median_scan"]))
    yield from comment(
        f"As much of the median scan ({scan.replace('x', ' x ')} voxels) as fits; also the tile of inference.", 2
    )
    yield f"  patch: {list(plan.patch)}"
    yield f"  batch_size: {plan.batch_size}"
    if plan.window is not None:
        yield f"  window: {flow(plan.window)}   # of the voxels inside the training objects"
    yield from _split_lines(splits)
    yield f"  object_share: {0.8 if setup.accelerator == 'cpu' else 0.5}"
    if fingerprint.is_uneven:
        counts = ", ".join(
            f"{name} {count}"
            for name, count in zip(fingerprint.classes, fingerprint.counts["train"].tolist(), strict=True)
        )
        yield from comment(f"Objects are of very different numbers in training: {counts}.", 2)
        yield "  balance_classes: true"
    yield from _augment_lines(fingerprint, setup)
    yield "  intensity: {class_path: IntensityAugment}"
    yield f"  num_workers: {setup.num_workers}"
    yield "trainer:"
    yield "  devices: 1"
    yield f"  max_steps: {setup.max_steps}"
    yield f"  val_check_interval: {setup.val_check_interval}"
    yield f"  gradient_clip_val: {5.0 if setup.accelerator == 'cpu' else 12.0}"
    if setup.ema_decay is not None:
        yield "  callbacks:"
        yield "    - class_path: EMAWeightAveraging"
        yield f"      init_args: {{decay: {setup.ema_decay}}}"


def _anchor_lines(plan: Plan, setup: Setup, middle: float) -> Iterable[str]:
    report = plan.report
    reached = ", ".join(times(one) for one in plan.topology.reached[plan.first_level :][: len(plan.anchors or ())])
    yield from comment(
        f"Strides of the levels: {reached} voxels; objects nearest to each: {report.get('boxes_per_level')}.", 6
    )
    yield f"      first_level: {plan.first_level}"
    if setup.fpn_channels is not None:
        yield f"      fpn_channels: {setup.fpn_channels}"
    if middle >= LARGE_VOX:
        yield "      nms_iou: 0.9           # leave the merging to the whole volume"
    yield from comment(
        f"Extents in voxels, searched on {report['num_boxes']} training objects: the best anchor of an object overlaps "
        f"it with IoU {report['mean_best_iou']:.2f} in the mean, {report['worst_tenth_iou']:.2f} in the worst tenth.",
        6,
    )
    yield "      anchors:"
    yield "        class_path: AnchorGrid"
    yield "        init_args:"
    yield "          sizes:"
    for level in plan.anchors or ():
        yield f"            - {flow(level)}"
    if setup.accelerator == "cpu":
        yield "      classification: {class_path: FocalLoss}"
    if middle >= LARGE_VOX:
        yield from comment(
            f"Longest edges are {middle:.0f} voxels in the median: a mean of many boxes is more exact than the best. "
            "`medpretrain3d tune` looks for better ones on the validation cases.",
            2,
        )
        yield "  inference: {merge: wbc, nms_iou: 0.3, overlap: 0.6}"


def _heat_map_lines(plan: Plan, setup: Setup) -> Iterable[str]:
    assert plan.first_level is not None
    cell_mm = np.array(plan.topology.reached[plan.first_level]) * plan.spacing_mm
    radius_mm = round(max(POINT_RADIUS_MM, RADIUS_CELLS * float(cell_mm.max())), 1)
    yield f"      spacing_mm: {flow(plan.spacing_mm)}   # by which lengths in mm are measured"
    yield from comment(f"Cells of {' x '.join(f'{edge:g}' for edge in cell_mm.tolist())} mm.", 6)
    yield f"      first_level: {plan.first_level}"
    if setup.fpn_channels is not None:
        yield f"      fpn_channels: {setup.fpn_channels}"
    yield from comment(
        f"{POINT_RADIUS_MM:g} mm, within which a point counts as found, and at least {RADIUS_CELLS:g} cells. Nearer "
        "objects are found as one: take the radius of your lesions where you know it.",
        6,
    )
    yield f"      target: {{class_path: BallTarget, init_args: {{radius_mm: {radius_mm}}}}}"
    yield f"  inference: {{merge: distance, merge_distance_mm: {radius_mm}}}"


def _split_lines(splits: Splits) -> Iterable[str]:
    has_test = bool(splits.named.get("test"))
    if not splits.folds:
        if not splits.named.get("val"):
            yield from comment("No case is held out, so nothing is measured while training.", 2)
        return
    val, num_folds = splits.fold(0).get("val", ()), len(splits.folds)
    others = f" of {num_folds}; --data.fold 1 takes the next, --folds all takes all" if num_folds > 1 else ""
    yield from comment(f"Fold 0{others}: {len(val)} cases validate.", 2)
    yield "  fold: 0"
    if not has_test and not splits.folds[0].get("test"):
        yield from comment("No case is named for testing: the run ends with a test on those that its fold held out.", 2)
        yield "  test_on: held_out"


def _augment_lines(fingerprint: Fingerprint, setup: Setup) -> Iterable[str]:
    options = []
    if setup.accelerator == "cpu":
        options += ["rotation_deg: 15", "rotation_p: 0.3", "zoom: [0.8, 1.25]", "zoom_p: 0.3"]
    if pairs := left_right_pairs(fingerprint.classes):
        yield from comment(
            f"'{pairs[0][0]}' and '{pairs[0][1]}' are classes of their own: the left-right axis (2) is not mirrored.", 2
        )
        options.append("mirror_axes: [0, 1]")
    if not options:
        yield "  augment: {class_path: SpatialAugment}"
        return
    yield "  augment:"
    yield "    class_path: SpatialAugment"
    yield f"    init_args: {{{', '.join(options)}}}"


def recipe_name(store: Path) -> str:
    """Return the name of a recipe for a store: that of its folder, as a file can be called."""
    return re.sub(r"[^\w.-]+", "_", Path(store).resolve().name).strip("._-") or "own"

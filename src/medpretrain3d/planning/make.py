"""From the cases of a store to a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from medpretrain3d.backbones.resenc import PRESETS, Preset
from medpretrain3d.boxes import box_size
from medpretrain3d.detection.anchors_search import optimize_anchor_sizes
from medpretrain3d.errors import UserError
from medpretrain3d.planning.long_objects import LongObjects
from medpretrain3d.planning.memory import Shown, estimate, planned_memory
from medpretrain3d.planning.plan import Plan
from medpretrain3d.planning.setup import GPU, Setup
from medpretrain3d.planning.spacing import Spacing, coarser_spacing_mm, target_spacing_mm
from medpretrain3d.planning.topology import SMALLEST_MAP, Triple, plan_topology
from medpretrain3d.store.case import Case
from medpretrain3d.store.class_counts import missing_objects
from medpretrain3d.store.corpus import Corpus
from medpretrain3d.store.grid import ROUNDING_VOX
from medpretrain3d.store.points import POINT_RADIUS_MM, are_points
from medpretrain3d.store.specks import are_specks
from medpretrain3d.store.volume import check_resampled, check_spacing

FIRST_PATCH_VOX = 256**3
"""Volume of the patch that the search starts from, before it is cut to the scans."""
BATCH_SHARE = 0.05
"""A batch shows at most this share of the data set's voxels (nnU-Net)."""
CELLS_PER_OBJECT = 2.0
LEVEL_OF_POINTS = 1
"""Stage of a heat map: the finest but full resolution."""


@dataclass(frozen=True)
class _Facts:
    """Geometry statistics of the cases (nnU-Net's dataset fingerprint), along (D, H, W)."""

    spacings_mm: np.ndarray
    """(N, 3)."""
    shapes: np.ndarray
    """(N, 3) voxels."""
    extents_mm: np.ndarray
    """(boxes, 3)."""
    labels: np.ndarray
    """(boxes,)."""
    scans_mm: np.ndarray
    """(boxes, 3) extent of the scan of each."""
    shown: Shown
    num_specks: int = 0
    """Objects that were left out of `extents_mm`."""
    num_points: int = 0
    """Objects without a size, left out of it too."""


def make_plan(
    corpus: Corpus,
    memory_gib: float,
    preset: Preset = "L",
    anchors_per_level: int = 9,
    min_batch_size: int = 2,
    spacing_mm: Spacing | None = None,
    max_scan_voxels: float | None = None,
    setup: Setup = GPU,
    finds_points: bool = False,
) -> Plan:
    """Plan training on the cases of a corpus; reads sidecars, no voxel.

    A corpus whose stores have one spacing keeps it. The patch starts as a cube in millimetres, is cut to the median
    scan, and then shrinks along the axis on which it shows most of a scan, until `min_batch_size` samples fit. Where
    the whole median scan fits, the batch grows instead.

    Args:
        corpus: labelled or not; without objects the plan is for pretraining and estimates the encoder alone.
        memory_gib: of one device.
        preset: of ResEnc.
        anchors_per_level: anchors of each cell.
        min_batch_size: samples that have to fit.
        spacing_mm: along (D, H, W), where the scans keep their own; None is nnU-Net's rule.
        max_scan_voxels: of the median scan, to which that rule's spacing is made coarser; see `coarser_spacing_mm`.
        setup: of which the optimizer and the width of the detector count for the memory.
        finds_points: where some objects are points and others have a size, plan a heat map of all instead of anchors
            of those with a size.

    Raises:
        UserError: the smallest patch does not fit, the stores have another spacing than the one that is asked for, or
            at that one the median scan has a single voxel along an axis.
    """
    facts = _facts([ref.open() for ref in corpus.cases("all" if not corpus.classes[0] else "train")], corpus)
    spacing_mm = _spacing_mm(corpus, facts, spacing_mm, max_scan_voxels)
    shapes = facts.shapes * facts.spacings_mm / np.array(spacing_mm)
    median_scan = np.ceil(np.median(shapes, axis=0) - ROUNDING_VOX).astype(int)  # as scans are resampled
    native_scan = np.median(facts.shapes, axis=0).astype(int)
    # Of a scan of one voxel nothing is learnt, however small it was.
    check_resampled(spacing_mm, native_scan.tolist(), median_scan.tolist(), least=8 if median_scan.max() > 1 else 1)
    plan = Plan(spacing_mm, (1, 1, 1), min_batch_size, preset, *_plain(preset))
    plan, shows_all = _fit_patch(plan, facts, median_scan, memory_gib, anchors_per_level, setup, finds_points)
    if shows_all:
        voxels = float((facts.shapes * facts.spacings_mm / np.array(spacing_mm)).prod(axis=1).sum())
        most = max(min_batch_size, int(BATCH_SHARE * voxels / np.prod(plan.patch)))
        most = min(estimate(plan, facts.shown, setup).largest_batch(memory_gib), most)
        plan = replace(plan, batch_size=max(min_batch_size, most))
        while plan.batch_size > min_batch_size and planned_memory(plan, facts.shown, setup).gib > memory_gib:
            plan = replace(plan, batch_size=plan.batch_size - 1)
    if plan.anchors is not None:
        plan = _with_anchors(plan, facts, anchors_per_level)
    own = {} if corpus.spacing_mm else {"spacing_of_store": "each scan's own"}
    store = corpus.stores[0]
    extents_vox, scans_vox = (one / np.array(spacing_mm) for one in (facts.extents_mm, facts.scans_mm))
    scans_vox = np.ceil(scans_vox - ROUNDING_VOX)
    too_long = LongObjects(extents_vox, facts.labels, store.classes, plan.patch, scans_vox).note()
    missing = missing_objects(store, store.splits) if store.classes else []
    report = {
        "stores": corpus.name,
        **({"missing": "; ".join(missing)} if missing else {}),
        **own,
        "num_cases": len(facts.shapes),
        "median_scan": median_scan.tolist(),
        "memory_gib": memory_gib,
        "estimated_gib": round(planned_memory(plan, facts.shown, setup).gib, 2),
        "num_boxes": len(facts.extents_mm),
        **({"specks_left_out": facts.num_specks} if facts.num_specks else {}),
        **({"points_without_size": facts.num_points} if facts.num_points else {}),
        **({"long_objects": too_long} if too_long else {}),
    }
    return replace(plan, report={**report, **plan.report})


def _spacing_mm(corpus: Corpus, facts: _Facts, asked: Spacing | None, max_scan_voxels: float | None) -> Spacing:
    if corpus.spacing_mm is not None:
        if asked is not None and asked != corpus.spacing_mm:
            raise UserError(
                f"{corpus.name}: is resampled to {list(corpus.spacing_mm)} mm, asked for are {list(asked)}; plan a "
                "store of native spacing, which `medpretrain3d prepare RAW STORE` makes"
            )
        return corpus.spacing_mm
    if asked is not None:
        check_spacing(asked)
        return asked
    found = target_spacing_mm(facts.spacings_mm, facts.shapes)
    if max_scan_voxels is None:
        return found
    scan_mm = np.median(facts.shapes * facts.spacings_mm, axis=0)
    edges_mm = np.append(facts.extents_mm.min(axis=1), [2 * POINT_RADIUS_MM] * facts.num_points)
    return coarser_spacing_mm(found, scan_mm, edges_mm, max_scan_voxels)


def _facts(cases: Sequence[Case], corpus: Corpus) -> _Facts:
    spacings_mm = np.array([case.grid.spacing_mm for case in cases])
    shapes = np.array([case.grid.shape for case in cases])
    extents = np.concatenate([box_size(case.boxes) * case.grid.spacing_mm for case in cases])
    is_speck = np.concatenate(are_specks(cases))
    outlined = [case.has_mask and bool((case.instance_ids > 0).any()) for case in cases if len(case.labels)]
    if is_speck.all():  # of small objects alone, these are the objects
        is_speck[:] = False
    is_point = np.concatenate([are_points(case.boxes) for case in cases])
    is_speck, num_specks = is_speck | is_point, int((is_speck & ~is_point).sum())
    return _Facts(
        spacings_mm,
        shapes,
        extents[~is_speck].astype(np.float64),
        np.concatenate([case.labels for case in cases])[~is_speck],
        np.repeat(spacings_mm * shapes, [len(case.labels) for case in cases], axis=0)[~is_speck],
        Shown(max(len(corpus.classes[0]), 1), cases[0].num_channels, bool(outlined) and all(outlined)),
        num_specks,
        int(is_point.sum()),
    )


def _plain(preset: Preset) -> tuple[tuple[Triple, ...], tuple[Triple, ...]]:
    """Return no strides and no kernels, until a patch is found."""
    ones: tuple[Triple, ...] = ((1, 1, 1),) * len(PRESETS[preset].channels)
    return ones, ones


def _with_levels(plan: Plan, facts: _Facts, anchors_per_level: int) -> Plan:
    """Detection levels for all but the smallest and the largest twentieth of the objects; anchors are still to come."""
    num_stages = len(plan.strides)
    stage_edges = np.log(np.array(plan.topology.reached)).mean(axis=1)  # (stages,)
    object_edges = np.log(facts.extents_mm / np.array(plan.spacing_mm) / CELLS_PER_OBJECT).mean(axis=1)
    nearest = np.sort(np.abs(object_edges[:, None] - stage_edges).argmin(axis=1))
    twentieth = len(nearest) // 20
    # Full resolution has too many cells for anchors; one level above the first catches the larger objects.
    first = min(max(int(nearest[twentieth]), 1), num_stages - 2)
    last = min(max(int(nearest[-1 - twentieth]), first + 1), num_stages - 1)
    any_size = ((1.0, 1.0, 1.0),) * anchors_per_level
    return replace(plan, first_level=first, anchors=(any_size,) * (last - first + 1))


def _with_anchors(plan: Plan, facts: _Facts, anchors_per_level: int) -> Plan:
    assert plan.anchors is not None
    assert plan.first_level is not None
    strides = plan.topology.reached[plan.first_level : plan.first_level + len(plan.anchors)]
    extents_vox = torch.from_numpy(facts.extents_mm / np.array(plan.spacing_mm))
    choice = optimize_anchor_sizes(extents_vox, strides, anchors_per_level, CELLS_PER_OBJECT)
    report = {
        "mean_best_iou": round(choice.mean_best_iou, 4),
        "worst_tenth_iou": round(choice.worst_tenth_iou, 4),
        "boxes_per_level": list(choice.objects_per_level),
    }
    return replace(plan, anchors=choice.sizes, report=report)


def _first_patch(spacing_mm: Spacing, median_scan: np.ndarray) -> np.ndarray:
    edge = np.array(spacing_mm) ** -1.0
    edge *= (FIRST_PATCH_VOX / edge.prod()) ** (1 / 3)
    result: np.ndarray = np.minimum(np.rint(edge), median_scan).astype(int)
    return result


def _fit_patch(
    plan: Plan,
    facts: _Facts,
    median_scan: np.ndarray,
    memory_gib: float,
    anchors_per_level: int,
    setup: Setup,
    finds_points: bool,
) -> tuple[Plan, bool]:
    """Return the plan with the largest patch that fits, and whether the first patch already did."""
    patch, shrunk = _first_patch(plan.spacing_mm, median_scan), False
    while True:
        d, h, w = (int(size) for size in patch)
        topology = plan_topology(plan.spacing_mm, (d, h, w), len(plan.strides))
        step = np.array(topology.reached[-1])
        d, h, w = (int(size) for size in np.maximum(-(-patch // step) * step, step))
        plan = replace(plan, patch=(d, h, w), strides=topology.strides, kernel_sizes=topology.kernel_sizes)
        if facts.num_points and (finds_points or not len(facts.extents_mm)):
            plan = replace(plan, first_level=LEVEL_OF_POINTS)
        elif len(facts.extents_mm):
            plan = _with_levels(plan, facts, anchors_per_level)
        taken_gib = estimate(plan, facts.shown, setup).gib(plan.batch_size)
        if taken_gib <= memory_gib:
            taken_gib = planned_memory(plan, facts.shown, setup).gib
        if taken_gib <= memory_gib:
            return plan, not shrunk
        share = np.array(plan.patch) / median_scan
        share[np.array(plan.patch) - step < 2 * SMALLEST_MAP] = 0
        if not share.any():
            raise UserError(
                f"memory {memory_gib:g} GiB: a batch of {plan.batch_size} patches of {plan.patch} voxels with ResEnc-"
                f"{plan.preset} takes {taken_gib:.1f} GiB; choose a smaller preset or more memory"
            )
        axis = int(share.argmax())
        patch, shrunk = np.array(plan.patch), True
        patch[axis] -= step[axis]

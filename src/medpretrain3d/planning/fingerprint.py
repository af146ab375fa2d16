"""The fingerprint of a data set (nnU-Net's term): what its scans and objects are like, and what is doubtful there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medpretrain3d.planning.plan import Plan
from medpretrain3d.store.class_counts import count_objects, missing_objects
from medpretrain3d.store.left_right import left_right_pairs
from medpretrain3d.store.points import are_points, count_points
from medpretrain3d.store.specks import are_specks, speck_notes
from medpretrain3d.store.split_notes import split_notes
from medpretrain3d.store.store import Case, Store
from medpretrain3d.store.stratify import NUM_FOLDS
from medpretrain3d.store.unit import Unit

SPLITS = ("train", "val", "test")
FEW_CASES = 10
"""Training cases with an object of a class, below which its numbers are chance."""
UNTESTED = (
    "no case is named for testing, so a run ends without a test: name some in the split test, or deal out folds with "
    "`medpretrain3d split`, whose held-out cases are tested"
)
THIN_VOX = 2.0
"""An object that is thinner along an axis at the planned spacing is hardly seen."""
UNEVEN = 3.0
"""Ratio of the objects of the most frequent class to those of the rarest from which classes are balanced."""


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of a store, in millimetres along (D, H, W); specks are among them and marked."""

    labels: np.ndarray
    """(N,) index into the classes."""
    extents_mm: np.ndarray
    """(N, 3)."""
    is_speck: np.ndarray
    """(N,); points, which have no size, count as specks too."""
    cases: np.ndarray
    """(N,) index into the cases."""

    def edges_mm(self, label: int) -> np.ndarray:
        """Return the longest edge of each object of a class that is no speck."""
        result: np.ndarray = self.extents_mm[(self.labels == label) & ~self.is_speck].max(axis=1, initial=0.0)
        return result


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What planning, a recipe's comments and the plan's page say of a data set."""

    name: str
    classes: tuple[str, ...]
    channel_names: tuple[str, ...]
    unit: Unit
    case_ids: tuple[str, ...]
    num_patients: int
    spacings_mm: np.ndarray
    """(cases, 3) along (D, H, W)."""
    shapes: np.ndarray
    """(cases, 3) voxels."""
    intensities: np.ndarray
    """(cases, channels, 3): percentile 0.5, mean and percentile 99.5 of the voxels above padding, in stored units."""
    objects: Objects
    """Of all cases, to be shown."""
    training_objects: Objects
    """Of the training cases, by which a recipe is chosen; with folds, of all folds."""
    splits: Mapping[str, tuple[str, ...]]
    """Those that are named, and have cases."""
    num_folds: int
    counts: Mapping[str, np.ndarray]
    """Objects of each class (K,) by split."""
    cases_with: np.ndarray
    """(K,) training cases that hold an object of each class; with folds, those of all folds."""
    have_masks: bool
    """Whether every object of the training cases is outlined, and not marked by a box alone."""
    num_training_patients: int
    """Among whom folds are dealt out."""
    num_points: int = 0
    """Objects of the training cases that are points, without a size; with folds, of all folds."""

    @staticmethod
    def of(store: Store) -> Fingerprint:
        """Look into every sidecar of a labelled store; no voxel is read."""
        cases = [store.case(case_id) for case_id in store.case_ids]
        named = {name: ids for name, ids in store.splits.items() if ids}
        train = named.get("train", ())
        held = np.array([store.entries[case_id]["counts"] for case_id in train]).reshape(-1, len(store.classes)) > 0
        training = [store.case(case_id) for case_id in train]
        masked = [case.has_mask and bool((case.instance_ids > 0).any()) for case in training if len(case.labels)]
        patient_of = {case_id: store.entries[case_id]["patient"] or case_id for case_id in store.case_ids}
        return Fingerprint(
            store.path.name,
            store.classes,
            store.channel_names,
            store.unit,
            store.case_ids,
            len(set(patient_of.values())),
            np.array([case.grid.spacing_mm for case in cases]),
            np.array([case.grid.shape for case in cases]),
            np.array([[[one.low, one.mean, one.high] for one in case.statistics] for case in cases]),
            _objects(cases),
            _objects(training),
            named,
            len(store.all_splits.folds),
            {split: count_objects(store, named.get(split, ())) for split in SPLITS if split in named},
            held.sum(axis=0),
            bool(masked) and all(masked),
            len({patient_of[case_id] for case_id in train}),
            count_points(case.boxes for case in training)[0],
        )

    @property
    def is_uneven(self) -> bool:
        """Whether some class has several times as many training objects as another one."""
        train = self.counts.get("train", np.zeros(0))
        train = train[train > 0]
        return len(train) > 1 and bool(train.max() >= UNEVEN * train.min())


def warnings_of(store: Store, fingerprint: Fingerprint, plan: Plan) -> list[str]:
    """Return what may go wrong with this data, each with what to do; a line each.

    Args:
        store: the data as it was read, of native spacing.
        fingerprint: of that store.
        plan: for it.
    """
    found = [*missing_objects(store, store.splits), *_few(fingerprint), *_unmeasured(fingerprint)]
    if plan.report.get("long_objects"):
        found.append(str(plan.report["long_objects"]))
    if thin := _thin(fingerprint, plan):
        found.append(thin)
    found += [note.removeprefix(f"{store.path}: ") for note in [*speck_notes(store), *split_notes(store)]]
    for left, right in left_right_pairs(store.classes):
        found.append(
            f"'{left}' and '{right}' are classes of their own: the recipe leaves the left-right axis (2) out of "
            "mirror_axes, and so should what you change of it"
        )
    return found


def _few(fingerprint: Fingerprint) -> list[str]:
    few = [
        f"'{name}' {count}"
        for name, count in zip(fingerprint.classes, fingerprint.cases_with.tolist(), strict=True)
        if 0 < count < FEW_CASES
    ]
    if not few:
        return []
    return [
        f"training cases that hold a class: {', '.join(few)}; with fewer than {FEW_CASES} its numbers are chance: "
        "label more cases, or join classes"
    ]


def _unmeasured(fingerprint: Fingerprint) -> list[str]:
    if fingerprint.num_folds:
        return []
    if "val" in fingerprint.splits:
        return [] if "test" in fingerprint.splits else [UNTESTED]
    num_patients = fingerprint.num_training_patients  # cases for testing, or without labels, are in no fold
    if num_patients == 1:
        return ["one patient: nothing can be held out, so nothing is measured while training; label more patients"]
    if num_patients >= NUM_FOLDS:
        return []
    return [f"{num_patients} patients: there are as many folds; label more for a number to trust"]


def _thin(fingerprint: Fingerprint, plan: Plan) -> str:
    objects = fingerprint.training_objects
    extents_vox = objects.extents_mm[~objects.is_speck] / np.array(plan.spacing_mm)
    num_thin = int((extents_vox.min(axis=1, initial=np.inf) < THIN_VOX).sum())
    if not num_thin:
        return ""
    spacing = " x ".join(f"{edge:g}" for edge in plan.spacing_mm)
    return (
        f"{num_thin} of {len(extents_vox)} training objects are thinner than {THIN_VOX:g} voxels at {spacing} mm and "
        "hardly seen; plan with a finer --spacing-mm"
    )


def _objects(cases: Sequence[Case]) -> Objects:
    if not cases:
        none = np.zeros(0, dtype=np.int64)
        return Objects(none, np.zeros((0, 3)), none.astype(bool), none)
    extents = [(case.boxes[:, 3:] - case.boxes[:, :3]) * np.array(case.grid.spacing_mm) for case in cases]
    is_speck = np.concatenate(are_specks(cases))
    if is_speck.all():  # of small objects alone, these are the objects
        is_speck[:] = False
    is_speck |= np.concatenate([are_points(case.boxes) for case in cases])
    return Objects(
        np.concatenate([case.labels for case in cases]),
        np.concatenate(extents).astype(np.float64).reshape(-1, 3),
        is_speck,
        np.concatenate([np.full(len(case.labels), number) for number, case in enumerate(cases)]),
    )

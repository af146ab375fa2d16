"""Scores of two arms on the same scans, seed by seed: what effects and verdicts are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import TargetCase, TargetFile, pair, read_predictions, read_targets
from medpretrain3d.evaluation.cases import PredictedCase
from medpretrain3d.evaluation.named_metrics import LeftOut, NamedMetric, without_each
from medpretrain3d.evaluation.patients import Patients
from medpretrain3d.statistics import ArmScores
from medpretrain3d.study.encoders import alike_in_encoder
from medpretrain3d.study.run import Run

Pair = tuple[Run, Run]
"""A run of an arm and one of the arm that it is compared with, alike in seed and fold."""


class Scorer:
    """Scores runs from their test files, each once however often it is asked for.

    Args:
        metrics: that are computed.
    """

    def __init__(self, metrics: Sequence[NamedMetric]) -> None:
        self.metrics = tuple(dict.fromkeys(metrics))
        self._targets: dict[Path, TargetFile] = {}
        self._read: dict[bytes, TargetFile] = {}
        self._pooled: dict[tuple[int, ...], TargetFile] = {}
        self._scores: dict[tuple[tuple[Path, ...], frozenset[tuple[str, str]]], Mapping[str, LeftOut]] = {}

    def targets(self, runs: Sequence[Run]) -> TargetFile:
        """Return what runs were tested on, in the order of names: scans of their own pooled, or those that all share.

        Raises:
            UserError: a file is missing or damaged, or the runs are of other classes or share a part of their scans.
        """
        files = [self._file(run) for run in runs]
        key = tuple(map(id, files))
        if key not in self._pooled:
            if any(file.classes != files[0].classes for file in files):
                raise UserError("its folds are of different classes; prepare the data once and train all on it")
            own = files[:1] if self._are_on_the_same(runs) else files
            cases = sorted((case for file in own for case in file.cases), key=lambda one: one.case)
            if twice := next((one.case for one, other in pairwise(cases) if one.case == other.case), None):
                raise UserError(
                    f"its folds share a part of their test scans ('{twice}'), which would count as several; give folds "
                    "with test scans of their own, or the same ones for all"
                )
            self._pooled[key] = replace(files[0], cases=tuple(cases))
        return self._pooled[key]

    def _are_on_the_same(self, runs: Sequence[Run]) -> bool:
        """Return whether runs were tested on the same scans, as folds are that have a test set in common."""
        first, *others = (self._file(run).cases for run in runs)
        return all(_are_same(first, one) for one in others)

    def _file(self, run: Run) -> TargetFile:
        """Return the targets of a run; files with the same content are read once and are one object."""
        if run.folder not in self._targets:
            path = run.folder / "test" / "targets.json"
            try:
                content = hashlib.sha256(path.read_bytes()).digest()
            except OSError:
                return read_targets(path)  # which says why not
            if content not in self._read:
                self._read[content] = read_targets(path)
            self._targets[run.folder] = self._read[content]
        return self._targets[run.folder]

    def patients(self, runs: Sequence[Run]) -> dict[str, str]:
        """Return the patient of each test scan that any of some runs on one data set says.

        Those that earlier versions tested say none, and are compared with others by whose scans these are.
        """
        found: dict[str, str] = {}
        for run in runs:
            with suppress(UserError):  # which is said where the run is scored
                found |= {one.case: one.patient for one in self._file(run).cases if one.patient is not None}
        return found

    def scores(self, runs: Sequence[Run], patients: Mapping[str, str] | None = None) -> Mapping[str, LeftOut]:
        """Return the metrics of runs by name: of their test scans pooled; the mean over runs that share all of them.

        Args:
            runs: of an arm and seed.
            patients: of their scans; None for those that they say themselves.

        Raises:
            UserError: as `targets`, or predictions are missing, damaged, or of other scans.
        """
        known = self.patients(runs) if patients is None else patients
        key = tuple(run.folder for run in runs), frozenset(known.items())
        if key not in self._scores:
            targets = self.targets(runs)
            wanted = of_patients(targets.cases, known)
            if (stored := self._stored(runs, wanted)) is not None:
                self._scores[key] = stored
                return stored
            if len(runs) > 1 and self._are_on_the_same(runs):
                self._scores[key] = _mean([self.scores([run], known) for run in runs])
                return self._scores[key]
            found = [one for run in runs for one in _read(run, self._targets[run.folder])]
            found.sort(key=lambda one: one.case)
            self._scores[key] = without_each(self.metrics, found, wanted, targets.classes)
        return self._scores[key]

    def _stored(self, runs: Sequence[Run], targets: Sequence[TargetCase]) -> Mapping[str, LeftOut] | None:
        """Return the scores as the test of a run wrote them; None where it did not, or left out other groups."""
        metrics = runs[0].metrics
        cases, left_out = runs[0].tested_cases, metrics.get("left_out", {})
        by_name = {one.case: one for one in targets}
        is_same = sorted(cases) == [one.case for one in targets]
        if len(runs) > 1 or not is_same or metrics.get("compat", "none") != "none":
            return None
        patients, as_tested = Patients.of(targets), Patients.of([by_name[case] for case in cases])
        # Place of each patient in the test's order, found by its first scan in that of names.
        place = dict(zip(cases, as_tested.of_scan.tolist(), strict=True))
        _, first = np.unique(patients.of_scan, return_index=True)
        order = [place[targets[one].case] for one in first]
        num_behind = int(patients.num_with(np.array([len(one.labels) > 0 for one in targets])))
        found = {}
        for metric in self.metrics:
            one = left_out.get(metric.key)
            if one is None or not runs[0].num_patients == patients.num == len(one["without"]):
                return None
            without = np.array(one["without"], dtype=float)[order]
            value = float("nan") if one["value"] is None else float(one["value"])
            found[metric.name] = LeftOut(value, without, num_behind)
        return found


@dataclass(frozen=True)
class PairedScores:
    """Two arms over the seeds that both have, averaged where several begin from one encoder, see `alike_in_encoder`."""

    pairs: tuple[Pair, ...]
    arm: Mapping[str, ArmScores]
    """By the name of the metric."""
    other: Mapping[str, ArmScores]


def paired_scores(
    names: tuple[str, str], pairs: Sequence[Pair], scorer: Scorer
) -> tuple[PairedScores | None, list[str]]:
    """Return the scores of two arms and what could not be paired; None where nothing could.

    Args:
        names: of the arms.
        pairs: of runs; several of one seed are its folds.
        scorer: of the runs.
    """
    said: list[str] = []
    patients = scorer.patients([run for one in pairs for run in one])
    by_seed: dict[int | None, list[Pair]] = {}
    for one in pairs:
        by_seed.setdefault(one[0].metadata.seed, []).append(one)
    folds = {run.metadata.fold for run, _ in pairs}
    kept: list[Pair] = []
    rows: list[tuple[int, tuple[Mapping[str, LeftOut], ...]]] = []
    sides_of: dict[int, list[list[Run]]] = {}
    whole: list[tuple[int | None, list[Pair], TargetFile]] = []
    for seed, of_seed in by_seed.items():
        shown = ", ".join(run.name for run, _ in of_seed)
        if len({run.metadata.fold for run, _ in of_seed}) < len(of_seed):
            said.append(f"{shown}: the same arm, seed and fold several times; take all but one away")
            continue
        if {run.metadata.fold for run, _ in of_seed} != folds:
            said.append(
                f"{shown}: seed {seed} does not have all folds ({len(of_seed)} of {len(folds)}); it is left out"
            )
            continue
        try:
            targets, others = (scorer.targets([one[side] for one in of_seed]) for side in (0, 1))
            if targets.classes != others.classes or not _are_same(targets.cases, others.cases):
                raise UserError(
                    "they were tested on different cases or boxes; prepare the data once and test both on it"
                )
            whole.append((seed, of_seed, targets))
        except UserError as error:
            said.append(_unpaired(of_seed, error))
    first = _most_common([targets for *_, targets in whole])
    for seed, of_seed, targets in whole:
        try:
            if first is None or not _are_same(first.cases, targets.cases):
                raise UserError("other seeds were tested on different cases or boxes; test all on the same")
            sides = [[one[side] for one in of_seed] for side in (0, 1)]
            rows.append((seed if seed is not None else -1, tuple(scorer.scores(side, patients) for side in sides)))
        except UserError as error:
            said.append(_unpaired(of_seed, error))
            continue
        kept += of_seed
        sides_of[rows[-1][0]] = sides
    if first is None or not rows:
        return None, said
    seeds, scans = tuple(seed for seed, _ in rows), tuple(case.case for case in first.cases)
    of_scans = Patients.of(of_patients(first.cases, patients))
    patient = None if of_scans.has_one_scan_each else tuple(of_scans.of_scan.tolist())
    scores = []
    like = alike_in_encoder(sides_of)
    for side, name in enumerate(names):
        by_metric = {}
        for metric in scorer.metrics:
            found = [scored[side][metric.name] for _, scored in rows]
            values, without = np.array([one.value for one in found]), np.stack([one.without for one in found])
            by_metric[metric.name] = ArmScores(name, seeds, values, without, scans, patient).averaged(like)
        scores.append(by_metric)
    return PairedScores(tuple(kept), *scores), said


def _most_common(tested_on: Sequence[TargetFile]) -> TargetFile | None:
    """Return what most seeds were tested on, of several the first; None of no seed."""
    groups: list[list[TargetFile]] = []
    for one in tested_on:
        alike = next((group for group in groups if _are_same(group[0].cases, one.cases)), None)
        if alike is None:
            groups.append([one])
        else:
            alike.append(one)
    return max(groups, key=len)[0] if groups else None


def _unpaired(pairs: Sequence[Pair], error: UserError) -> str:
    """Return which runs of a seed have no difference, and why."""
    runs, baselines = (", ".join(pair[side].name for pair in pairs) for side in (0, 1))
    return f"{runs}: no paired difference from {baselines}: {error}"


def of_patients(cases: Sequence[TargetCase], patients: Mapping[str, str]) -> list[TargetCase]:
    """Return cases with their patients, as these are known by the names of the cases."""
    return [replace(one, patient=patients.get(one.case)) for one in cases]


def _mean(parts: Sequence[Mapping[str, LeftOut]]) -> dict[str, LeftOut]:
    """Return the mean of metrics on the same scans, on all of them and without each."""
    found = {}
    for name, first in parts[0].items():
        values, without = [one[name].value for one in parts], [one[name].without for one in parts]
        found[name] = LeftOut(float(np.mean(values)), np.mean(without, axis=0), first.num_patients_behind)
    return found


def _read(run: Run, targets: TargetFile) -> list[PredictedCase]:
    return pair(read_predictions(run.folder / "test" / "predictions.json"), targets)


def _are_same(a: Sequence[TargetCase], b: Sequence[TargetCase]) -> bool:
    if a is b:
        return True
    of_a, of_b = ({one.case: one for one in cases} for cases in (a, b))
    return of_a.keys() == of_b.keys() and all(_is_same_case(one, of_b[case]) for case, one in of_a.items())


def _is_same_case(a: TargetCase, b: TargetCase) -> bool:
    """Return whether two runs looked for the same in a scan; an older run's targets do not say on which grid."""
    same_boxes = [
        ours is None or theirs is None or np.array_equal(ours, theirs)
        for ours, theirs in ((a.boxes, b.boxes), (a.labels, b.labels), (a.boxes_vox, b.boxes_vox))
    ]
    return all(same_boxes) and (a.grid is None or b.grid is None or a.grid.is_close(b.grid))

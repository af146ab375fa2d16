"""Effect of pretraining: the seeds of an arm against those from scratch that are like them in everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import TargetCase, TargetFile, pair, read_predictions, read_targets
from medpretrain3d.evaluation.cases import PredictedCase
from medpretrain3d.evaluation.detection import MAP_KEY
from medpretrain3d.evaluation.leave_one_out import map_without_each
from medpretrain3d.statistics import ArmScores, arm_effect, judge
from medpretrain3d.statistics.verdicts import Judgement
from medpretrain3d.study.identity import BASELINE, Identity, Items
from medpretrain3d.study.run import AP50, Run
from medpretrain3d.study.table import Estimate

Scores = dict[str, tuple[float, np.ndarray]]


@dataclass(frozen=True)
class Difference:
    """Arm minus baseline over the seeds that both have, on the same test scans."""

    arm: str
    runs: tuple[Run, ...]
    baselines: tuple[Run, ...]
    seeds: tuple[int, ...]
    mean_ap: Judgement
    ap50: Judgement
    scores: ArmScores
    """mAP of the arm."""
    baseline_scores: ArmScores
    is_primary: bool
    """Whether it is at the full budget of labels; all else is exploratory."""
    folds: tuple[int, ...] = ()
    """Folds whose test scans are pooled, where there are several."""

    @property
    def estimate(self) -> Estimate:
        """The difference of mAP with its interval over seeds and scans, or of scans where there is one seed."""
        return _estimate(self.mean_ap)

    @property
    def ap50_estimate(self) -> Estimate:
        """The same for AP50."""
        return _estimate(self.ap50)

    @property
    def num_cases(self) -> int:
        """Test scans."""
        return self.mean_ap.effect.num_scans

    @property
    def setting(self) -> tuple[str, int]:
        """Data set and number of labeled cases."""
        return self.runs[0].setting


def paired_differences(
    runs: Sequence[Run],
    identities: Mapping[Run, Identity],
    arms: Mapping[Run, str],
    delta: float | None = None,
    confidence: float = 0.95,
) -> tuple[list[Difference], list[str]]:
    """Return the difference of each arm from its baseline, and a sentence for each run that has none.

    Args:
        runs: of fine-tuning.
        identities: of the runs.
        arms: what each arm is called.
        delta: difference of mAP that counts as none, if one was declared.
        confidence: of the intervals.
    """
    tested = [run for run in runs if run.is_tested]
    missing: list[str] = []
    found: list[tuple[str, list[tuple[Run, Run]], Items]] = []
    groups: dict[tuple[Items, Items], list[Run]] = {}
    for run in tested:
        if not run.is_baseline:
            groups.setdefault((identities[run].without_fold(), identities[run].start), []).append(run)
    for (setting, _), members in groups.items():
        pairs = []
        for run in members:
            baseline, why = _baseline_of(run, tested, identities)
            if baseline is None:
                missing.append(f"{run.name}: {why}")
            else:
                pairs.append((run, baseline))
        found += [(arms[part[0][0]], part, setting) for part in _parts(pairs)]
    effects = []
    for arm, pairs, _ in found:
        scored, said = _effects(arm, pairs)
        missing += said
        if scored is not None:
            effects.append((arm, *scored))
    return _judged(effects, delta, confidence), missing


def _parts(pairs: list[tuple[Run, Run]]) -> list[list[tuple[Run, Run]]]:
    """Split the pairs of an arm by number of labels and folds: folds are pooled where each has scans of its own."""
    by_fold: dict[int | None, set[str]] = {}
    for run, _ in pairs:
        by_fold.setdefault(run.metadata.fold, set()).update(run.tested_cases)
    cases = [case for of_fold in by_fold.values() for case in of_fold]
    if len(by_fold) > 1 and len(cases) == len(set(cases)) and all(by_fold.values()):
        shares: dict[str, list[tuple[Run, Run]]] = {}
        for run, baseline in pairs:  # folds differ by a case or two; what was asked for is the same
            fraction = run.metadata.label_fraction
            key = "all" if fraction in (None, 1) else f"{run.metadata.num_train_cases}"
            shares.setdefault(key, []).append((run, baseline))
        return list(shares.values())
    parts: dict[tuple[int, int | None], list[tuple[Run, Run]]] = {}
    for run, baseline in pairs:
        parts.setdefault((run.setting[1], run.metadata.fold), []).append((run, baseline))
    return list(parts.values())


def _baseline_of(run: Run, tested: Sequence[Run], known: Mapping[Run, Identity]) -> tuple[Run | None, str]:
    """Return the run from scratch that differs in nothing but the start, or why there is none."""
    own = known[run]
    scratch = [one for one in tested if one.is_baseline]
    alike = [one for one in scratch if known[one].setting == own.setting and known[one].seed == own.seed]
    if len(alike) == 1:
        return alike[0], ""
    if alike:
        return (
            None,
            f"has several runs from scratch like it ({', '.join(one.name for one in alike)}); take all but one away",
        )
    near = [one for one in scratch if one.setting[0] == run.setting[0]]
    if not near:
        return None, "no tested run from scratch on the same data"
    nearest = min(near, key=lambda one: (len(known[one].differing(own)), known[one].seed != own.seed))
    differing = [f"seed {own.seed} and {known[nearest].seed}"] if known[nearest].seed != own.seed else []
    differing += own.differing(known[nearest])
    return None, (
        f"no tested run from scratch with the same data, labels, seed and options; {nearest.name} differs in "
        f"{'; '.join(differing[:3])}{' ...' if len(differing) > 3 else ''}"
    )


def _effects(
    arm: str, pairs: list[tuple[Run, Run]]
) -> tuple[tuple[list[tuple[Run, Run]], ArmScores, ArmScores, ArmScores, ArmScores] | None, list[str]]:
    """Return the scores of the seeds of an arm and of its baseline, mAP and AP50, and what could not be paired."""
    said: list[str] = []
    by_seed: dict[int | None, list[tuple[Run, Run]]] = {}
    for one in pairs:
        by_seed.setdefault(one[0].metadata.seed, []).append(one)
    kept, rows, first = [], [], None
    folds = {run.metadata.fold for run, _ in pairs}
    for seed, of_seed in by_seed.items():
        names = ", ".join(run.name for run, _ in of_seed)
        if len({run.metadata.fold for run, _ in of_seed}) < len(of_seed):
            said.append(f"{names}: the same arm, seed and fold several times; take all but one away")
            continue
        if {run.metadata.fold for run, _ in of_seed} != folds:
            said.append(
                f"{names}: seed {seed} does not have all folds ({len(of_seed)} of {len(folds)}); it is left out"
            )
            continue
        try:
            targets = [_same_targets(run, baseline) for run, baseline in of_seed]
            classes = targets[0].classes
            cases = [case for one in targets for case in one.cases]
            order = np.argsort([case.case for case in cases], kind="stable")
            cases = [cases[place] for place in order]
            if first is not None and not _are_same(first, cases):
                raise UserError("other seeds were tested on different cases or boxes; test all on the same")
            first = first or cases
            scores = []
            for side in (0, 1):
                found = [one for pair_, file in zip(of_seed, targets, strict=True) for one in _read(pair_[side], file)]
                scores.append(map_without_each([found[place] for place in order], cases, classes))
        except UserError as error:
            baselines = ", ".join(baseline.name for _, baseline in of_seed)
            said.append(f"{names}: no paired difference from {baselines}: {error}")
            continue
        kept += of_seed
        rows.append((seed if seed is not None else -1, scores))
    if not rows or first is None:
        return None, said
    scans, seeds = tuple(case.case for case in first), tuple(seed for seed, _ in rows)
    made = []
    for key in (MAP_KEY, AP50):
        for side, name in ((0, arm), (1, BASELINE)):
            values = np.array([scores[side][key][0] for _, scores in rows])
            without = np.stack([scores[side][key][1] for _, scores in rows])
            made.append(ArmScores(name, seeds, values, without, scans))
    return (kept, *made), said  # type: ignore[return-value]  # four of them


def _judged(
    effects: list[tuple[str, list[tuple[Run, Run]], ArmScores, ArmScores, ArmScores, ArmScores]],
    delta: float | None,
    confidence: float,
) -> list[Difference]:
    """Judge all arms at the full budget of their data set as one family, and what is exploratory as another."""
    full: dict[str, int] = {}
    for _, pairs, *_ in effects:
        name, labels = pairs[0][0].setting
        full[name] = max(full.get(name, 0), *(run.setting[1] for run, _ in pairs), labels)
    is_primary = [any(run.setting[1] == full[run.setting[0]] for run, _ in pairs) for _, pairs, *_ in effects]
    result: dict[int, Difference] = {}
    for wanted in (True, False):
        places = [place for place, primary in enumerate(is_primary) if primary is wanted]
        of_map = judge([arm_effect(effects[one][2], effects[one][3]) for one in places], delta, confidence)
        of_ap50 = judge([arm_effect(effects[one][4], effects[one][5]) for one in places], None, confidence)
        for place, mean_ap, ap50 in zip(places, of_map, of_ap50, strict=True):
            arm, pairs, scores, *_ = effects[place]
            folds = sorted({run.metadata.fold for run, _ in pairs if run.metadata.fold is not None})
            result[place] = Difference(
                arm,
                tuple(run for run, _ in pairs),
                tuple(baseline for _, baseline in pairs),
                scores.seeds,
                mean_ap,
                ap50,
                scores,
                effects[place][3],
                wanted,
                tuple(folds) if len(folds) > 1 else (),
            )
    return [result[place] for place in sorted(result)]


def _estimate(one: Judgement) -> Estimate:
    return Estimate(one.effect.difference, *one.interval, is_signed=True)


def _read(run: Run, targets: TargetFile) -> list[PredictedCase]:
    return pair(read_predictions(run.folder / "test" / "predictions.json"), targets)


def _same_targets(run: Run, baseline: Run) -> TargetFile:
    targets = read_targets(run.folder / "test" / "targets.json")
    others = read_targets(baseline.folder / "test" / "targets.json")
    if targets.classes != others.classes or not _are_same(targets.cases, others.cases):
        raise UserError("they were tested on different cases or boxes; prepare the data once and test both on it")
    return targets


def _are_same(a: Sequence[TargetCase], b: Sequence[TargetCase]) -> bool:
    of_a, of_b = ({one.case: one for one in cases} for cases in (a, b))
    return of_a.keys() == of_b.keys() and all(_is_same_case(one, of_b[case]) for case, one in of_a.items())


def _is_same_case(a: TargetCase, b: TargetCase) -> bool:
    """Return whether two runs looked for the same in a scan; an older run's targets do not say on which grid."""
    same_boxes = [
        ours is None or theirs is None or np.array_equal(ours, theirs)
        for ours, theirs in ((a.boxes, b.boxes), (a.labels, b.labels), (a.boxes_vox, b.boxes_vox))
    ]
    return all(same_boxes) and (a.grid is None or b.grid is None or a.grid.is_close(b.grid))

"""Effect of pretraining: the seeds of an arm against those from scratch that are like them in everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medpretrain3d.evaluation.named_metrics import AP50, MAP, NamedMetric
from medpretrain3d.lines import counted, shown_p
from medpretrain3d.statistics import ArmScores, arm_effect, judge
from medpretrain3d.statistics.verdicts import Judgement
from medpretrain3d.study.design import Declaration
from medpretrain3d.study.identity import BASELINE, Identity, Items
from medpretrain3d.study.paired_scores import Pair, PairedScores, Scorer, paired_scores
from medpretrain3d.study.run import Run
from medpretrain3d.study.table import Estimate


@dataclass(frozen=True)
class Difference:
    """Arm minus baseline over the seeds that both have, on the same test scans."""

    arm: str
    runs: tuple[Run, ...]
    baselines: tuple[Run, ...]
    seeds: tuple[int, ...]
    judged: Judgement
    """Of the primary metric."""
    other: Judgement
    """Of the metric beside it, see `metric_beside`."""
    scores: ArmScores
    """Of the arm by the primary metric."""
    baseline_scores: ArmScores
    is_primary: bool
    """Whether it is at the budgets of labels and steps that the verdicts are about; all else is exploratory."""
    folds: tuple[int, ...] = ()
    """Folds whose test scans are pooled, where there are several."""
    fold: int | None = None
    """The fold that it is of, where several are tested on the same scans and each has a difference of its own."""

    @property
    def place(self) -> str:
        """Data set in words, with the fold where it is of one among others."""
        return self.setting[0] if self.fold is None else f"{self.setting[0]}, fold {self.fold}"

    @property
    def estimate(self) -> Estimate:
        """The difference with its interval over seeds and patients, corrected; of one seed over patients alone."""
        return signed_estimate(self.judged)

    @property
    def other_estimate(self) -> Estimate:
        """The same for the metric beside it."""
        return signed_estimate(self.other)

    @property
    def num_cases(self) -> int:
        """Test scans."""
        return self.judged.effect.num_scans

    @property
    def num_patients(self) -> int:
        """Patients that these are of."""
        return self.judged.effect.num_patients

    @property
    def setting(self) -> tuple[str, int]:
        """Data set and number of labeled cases."""
        return self.runs[0].setting


def metric_beside(metric: NamedMetric) -> NamedMetric:
    """Return what is shown beside the primary metric: one of the two usual ones that it is not."""
    return AP50 if metric is MAP else MAP


def paired_differences(
    runs: Sequence[Run],
    identities: Mapping[Run, Identity],
    arms: Mapping[Run, str],
    declaration: Declaration,
    scorer: Scorer | None = None,
    confidence: float = 0.95,
) -> tuple[list[Difference], list[str]]:
    """Return the difference of each arm from its baseline, and a sentence for each run that has none.

    Args:
        runs: of fine-tuning.
        identities: of the runs.
        arms: what each arm is called.
        declaration: metric, budget and delta of the verdicts.
        scorer: of the runs, by the metric and that beside it.
        confidence: of the intervals.
    """
    scorer = scorer or Scorer([declaration.metric, metric_beside(declaration.metric)])
    tested = [run for run in runs if run.is_tested]
    missing: list[str] = []
    found: list[tuple[str, list[Pair], int | None]] = []
    groups: dict[tuple[Items, Items], list[Run]] = {}
    for run in tested:
        if not run.is_baseline:
            groups.setdefault((identities[run].without_fold(), identities[run].start), []).append(run)
    for members in groups.values():
        pairs = []
        for run in members:
            baseline, why = _baseline_of(run, tested, identities)
            if baseline is None:
                missing.append(f"{run.name}: {why}")
            else:
                pairs.append((run, baseline))
        is_of_folds = len({run.metadata.fold for run, _ in pairs}) > 1
        for part in _parts(pairs):
            first, *others = {run.metadata.fold for run, _ in part}
            found.append((arms[part[0][0]], part, first if is_of_folds and not others else None))
    effects = []
    for arm, pairs, fold in found:
        scored, said = paired_scores((arm, _name_of(pairs[0][1])), pairs, scorer)
        missing += said
        if scored is not None:
            effects.append((arm, scored, fold))
    return _judged(effects, declaration, confidence), missing


def signed_estimate(one: Judgement) -> Estimate:
    """Return a difference with the interval that its verdict goes by, as tables show it."""
    return Estimate(one.effect.difference, *one.shown_interval, is_signed=True)


def after_holm(judged: Judgement) -> str:
    """Return the corrected p in words, with how many questions it is corrected for."""
    return f"p {shown_p(judged.corrected_p_value)} after Holm ({counted(judged.num_asked, 'question')})"


def _name_of(baseline: Run) -> str:
    return baseline.arm if baseline.design is not None else BASELINE


def _parts(pairs: list[Pair]) -> list[list[Pair]]:
    """Split the pairs of an arm by number of labels and folds: folds are pooled where each has scans of its own."""
    by_fold: dict[int | None, set[str]] = {}
    for run, _ in pairs:
        by_fold.setdefault(run.metadata.fold, set()).update(run.tested_cases)
    cases = [case for of_fold in by_fold.values() for case in of_fold]
    if len(by_fold) > 1 and len(cases) == len(set(cases)) and all(by_fold.values()):
        shares: dict[str, list[Pair]] = {}
        for run, baseline in pairs:  # folds differ by a case or two; what was asked for is the same
            fraction = run.metadata.label_fraction
            key = "all" if fraction in (None, 1) else run.asked_labels or f"{run.metadata.num_train_cases}"
            shares.setdefault(run.design["labels"] if run.design else key, []).append((run, baseline))
        return list(shares.values())
    parts: dict[tuple[int, int | None], list[Pair]] = {}
    for run, baseline in pairs:
        parts.setdefault((run.setting[1], run.metadata.fold), []).append((run, baseline))
    return list(parts.values())


def _baseline_of(run: Run, tested: Sequence[Run], known: Mapping[Run, Identity]) -> tuple[Run | None, str]:
    """Return the run from scratch that differs in nothing but the start, or why there is none."""
    own = known[run]
    scratch = [one for one in tested if one.is_baseline]
    alike = [one for one in scratch if known[one].setting == own.setting and known[one].seed == own.seed]
    others = [one for one in alike if not have_same_labels(run, one)]
    if alike and len(others) == len(alike):
        return None, f"was trained on other labeled cases than {others[0].name}; give both the same data.label_seed"
    alike = [one for one in alike if one not in others]
    if len(alike) == 1:
        return alike[0], ""
    if alike:
        return (
            None,
            f"has several runs from scratch like it ({', '.join(one.name for one in alike)}); take all but one away",
        )
    near = [one for one in scratch if one.metadata.dataset == run.metadata.dataset]
    if not near:
        return None, "no tested run from scratch on the same data"
    nearest = min(near, key=lambda one: (len(known[one].differing(own)), known[one].seed != own.seed))
    differing = [f"seed {own.seed} and {known[nearest].seed}"] if known[nearest].seed != own.seed else []
    differing += own.differing(known[nearest])
    return None, (
        f"no tested run from scratch with the same data, labels, seed and options; {nearest.name} differs in "
        f"{'; '.join(differing[:3])}{' ...' if len(differing) > 3 else ''}"
    )


def have_same_labels(run: Run, other: Run) -> bool:
    """Return whether two runs were trained on the same labeled cases; one that does not say them may have been."""
    return None in (run.training_cases, other.training_cases) or run.training_cases == other.training_cases


def _judged(
    effects: list[tuple[str, PairedScores, int | None]], declaration: Declaration, confidence: float
) -> list[Difference]:
    """Judge all arms at the budget that was declared as one family, and what is exploratory as another."""
    full: dict[str, int] = {}
    for _, scored, _ in effects:
        for run, _ in scored.pairs:
            name, labels = run.setting
            full[name] = max(full.get(name, 0), labels)

    def is_primary(scored: PairedScores) -> bool:
        runs = [run for run, _ in scored.pairs]
        if (design := runs[0].design) is not None:
            return design["labels"] == declaration.labels and "steps" not in design
        return any(run.setting[1] == full[run.setting[0]] for run in runs)

    of, beside = declaration.metric, metric_beside(declaration.metric)
    result: dict[int, Difference] = {}
    for wanted in (True, False):
        places = [place for place, (_, scored, _) in enumerate(effects) if is_primary(scored) is wanted]
        members = [effects[place][1] for place in places]
        # What comes out early is not easier to tell than at the end.
        number = declaration.num_verdicts if wanted else 0
        judged, others = (
            judge([arm_effect(one.arm[name], one.other[name]) for one in members], delta, confidence, number)
            for name, delta in ((of.name, declaration.delta), (beside.name, None))
        )
        for place, one, mine, other in zip(places, members, judged, others, strict=True):
            folds = sorted({run.metadata.fold for run, _ in one.pairs if run.metadata.fold is not None})
            result[place] = Difference(
                effects[place][0],
                tuple(run for run, _ in one.pairs),
                tuple(baseline for _, baseline in one.pairs),
                one.arm[of.name].seeds,
                mine,
                other,
                one.arm[of.name],
                one.other[of.name],
                wanted,
                tuple(folds) if len(folds) > 1 else (),
                effects[place][2],
            )
    return [result[place] for place in sorted(result)]

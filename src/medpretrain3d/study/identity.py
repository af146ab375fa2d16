"""What makes two runs replicates of each other, and what makes one the baseline of another: everything but the seed.

Facts come from `run.json`, options from the `config.yaml` beside it. What differs in any of them is another arm or
another setting; nothing of it is ever averaged or paired.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medpretrain3d.documents import read_yaml
from medpretrain3d.errors import UserError
from medpretrain3d.study.run import Run

SETTING_FACTS = (
    *("dataset", "num_train_cases", "label_fraction", "data_fingerprint", "backbone", "detector", "params"),
    *("budget_steps", "fold", "num_test_cases", "num_val_cases", "precision", "weights", "hard_negatives_sha256"),
)
"""Shared by an arm and its baseline."""
DATA_FACTS = (
    *("dataset", "num_train_cases", "label_fraction", "data_fingerprint"),
    *("fold", "num_test_cases", "num_val_cases"),
)
"""Of these, what is not the affair of an arm."""
BUDGET_FACTS = ("labels", "steps", "num_train_cases", "label_fraction")
"""Of an identity, what a comparison of two budgets is about."""
START_FACTS = (
    *("paradigm", "method", "corpus", "num_pretrain_volumes"),
    *("semi_supervised", "unlabeled_corpus", "num_unlabeled_volumes", "unlabeled_fingerprint"),
)
"""What the arm is."""
PRETRAIN_FACTS = (
    *("method", "backbone", "corpus", "num_pretrain_volumes", "data_fingerprint", "budget_steps", "params"),
    "precision",
)
FREE = re.compile(
    # Where a run is kept, who is told of it, how fast it goes; what the facts say better.
    r"run\..*|base|data\.(num_workers|prefetch_factor|stage_to|store|hard_negatives)"
    r"|trainer\.(logger|log_every_n_steps|profiler|default_root_dir|enable_\w+|detect_anomaly|barebones)(\..*)?"
)
"""Options that do not tell runs apart."""
OF_SEED = re.compile(
    r"seed_everything|data\.(seed|label_seed|fold|label_fraction|num_train_cases)|model\.(init_from|allow_seen_scans)"
)
"""What a seed decides, or a fact of fine-tuning says; which cases are labeled is compared by `Run.training_cases`."""
OF_SEED_OF_PRETRAINING = re.compile(r"seed_everything|data\.seed")
OF_VALIDATION = re.compile(
    r"trainer\.(val_check_interval|check_val_every_n_epoch|num_sanity_val_steps|limit_val_batches)"
)
"""Decides which weights there are to choose from, where the best by validation are kept, and nothing otherwise."""
OF_START = re.compile(
    r"model\.init(_.*)?|data\.pretrained_spacing_mm|model\.semi_supervised(\..*)?|data\.unlabeled(_\w+)?"
)
"""Options of how a run starts, and of scans without labels: the arm has them and its baseline does not."""

BASELINE = "scratch"

Items = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Identity:
    """A run without its seed: the setting that it shares with its baseline, and how it started."""

    setting: Items
    start: Items
    seed: int | None
    pretraining_seed: int | None = None

    def without_fold(self) -> Items:
        """Return the setting of which several folds are parts."""
        free = ("fold", "num_test_cases", "num_val_cases", "num_train_cases", "label_fraction")
        return tuple(pair for pair in self.setting if pair[0] not in free)

    def differing(self, other: Identity, but: Collection[str] = ()) -> list[str]:
        """Return in words what of the settings differs, but for some keys."""
        own, others = dict(self.setting), dict(other.setting)
        return [
            f"{key} {own.get(key, '-')} and {others.get(key, '-')}"
            for key in sorted(own | others)
            if own.get(key) != others.get(key) and key not in but
        ]


def identify(runs: Sequence[Run], pretraining: Sequence[Run], arm_options: Collection[str] = ()) -> dict[Run, Identity]:
    """Return the identity of fine-tuning runs; of their pretraining all is known whose run is among `pretraining`.

    Encoders of pretraining runs that differ in their seed alone are of one arm. An encoder whose run is not there is
    of an arm with the runs that began from the very same file.

    Args:
        runs: of fine-tuning.
        pretraining: runs of pretraining.
        arm_options: options that a study gives to its arms (keys with dots): part of the arm, not of the setting.
    """
    known = {one.name: one for one in pretraining}
    of_pretraining = {name: (*_facts(one, PRETRAIN_FACTS), *_options(one)) for name, one in known.items()}
    is_of_arm = "trainer.precision" in arm_options
    result = {}
    for run in runs:
        own = run.metadata
        if run.design is not None:
            result[run] = _in_study(run, run.design, is_of_arm)
            continue
        options = list(_options(run))
        is_start = [key in arm_options or bool(OF_START.fullmatch(key)) for key, _ in options]
        setting = [
            *_facts(run, SETTING_FACTS),
            *(one for one, is_its in zip(options, is_start, strict=True) if not is_its),
        ]
        source = str(own.pretrain_run)
        start, seed = [*_facts(run, START_FACTS)], None
        if run.method != BASELINE or arm_options:
            start += [one for one, is_its in zip(options, is_start, strict=True) if is_its]
        if source in known and known[source].metadata.checkpoint_sha256 in (None, own.checkpoint_sha256):
            start = _of_fold(run, start, of_pretraining[source])
            seed = known[source].metadata.seed
        elif own.checkpoint_sha256:
            start.append(("encoder", own.checkpoint_sha256[:12]))
        elif own.pretrain_run:
            start.append(("encoder of", source))
        result[run] = Identity(tuple(sorted(setting)), tuple(sorted(start)), own.seed, seed)
    return _apart(result)


def _of_fold(run: Run, start: list[tuple[str, str]], pretraining: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return how a run starts from a pretraining; one that left out the run's own fold is alike in all folds."""
    is_own = run.metadata.fold is not None and dict(pretraining).get("data.fold") == str(run.metadata.fold)
    if is_own:  # folds differ by a case or two
        start = [one for one in start if one[0] != "num_pretrain_volumes"]
        pretraining = [(key, "its own" if key == "data.fold" else value) for key, value in pretraining]
        pretraining = [one for one in pretraining if one[0] != "num_pretrain_volumes"]
    return [*start, *((f"pretraining {key}", value) for key, value in pretraining)]


def _in_study(run: Run, design: Mapping[str, str], has_own_precision: bool) -> Identity:
    """Return the identity of a run of a study: its document says what the arms are, its jobs hold everything else.

    The precision is the machine's choice where neither recipe nor arm names one.
    """
    names = DATA_FACTS if has_own_precision else (*DATA_FACTS, "precision")
    setting = list(_facts(run, names))
    setting += [(key, value) for key, value in design.items() if key not in ("arm", "seed", "fold")]
    return Identity(tuple(sorted(setting)), (("arm", run.arm),), run.metadata.seed)


def _apart(found: dict[Run, Identity]) -> dict[Run, Identity]:
    """Make arms of pretraining seeds where one fine-tuning seed was run from several of them."""
    places: dict[tuple[Any, ...], set[int | None]] = {}
    for one in found.values():
        places.setdefault((one.setting, one.start, one.seed), set()).add(one.pretraining_seed)
    mixed = {(setting, start) for (setting, start, _), seeds in places.items() if len(seeds) > 1}
    return {
        run: Identity(
            one.setting, (*one.start, ("pretraining seed", str(one.pretraining_seed))), one.seed, one.pretraining_seed
        )
        if (one.setting, one.start) in mixed
        else one
        for run, one in found.items()
    }


def arm_labels(runs: Sequence[Run], identities: Mapping[Run, Identity] | None = None) -> dict[Run, str]:
    """Return what to call the arm of each run: the method, with what tells arms of one method apart.

    Compared within a setting of data set and labels: steps that grow with the labels make one arm, not several.
    """
    known = identities or identify(runs, ())
    detectors = {run.design.get("detector") for run in runs if run.design is not None}
    names = {run: ", ".join(_words_of(run, len(detectors) > 1)) for run in runs}
    for method in {run.method for run in runs}:
        alike = [run for run in runs if run.method == method and run.design is None]  # a study names its arms
        for key in _telling(alike, known):
            for run in alike:
                names[run] += f", {_in_words(key, dict((*known[run].setting, *known[run].start)).get(key, '-'))}"
    return names


def _words_of(run: Run, has_detectors: bool) -> list[str]:
    detector = (run.design or {}).get("detector") if has_detectors else None
    return [run.arm, *([detector] if detector else [])]


def _telling(runs: Sequence[Run], known: Mapping[Run, Identity]) -> list[str]:
    """Return the keys in which runs of one method differ though data set and labels are the same."""
    groups: dict[tuple[str, int], list[dict[str, str]]] = {}
    for run in runs:
        groups.setdefault(run.setting, []).append(dict((*known[run].setting, *known[run].start)))
    keys = {
        key
        for members in groups.values()
        for key in set().union(*members) - {"fold", "num_test_cases", "num_val_cases", "label_fraction", "params"}
        if len({one.get(key) for one in members}) > 1
    }
    if "detector" in keys:  # its name says what its own options would say again
        all_of_them = [one for members in groups.values() for one in members]
        keys = {key for key in keys if key == "detector" or not _follows(key, "detector", all_of_them)}
    return sorted(keys, key=lambda key: (_ORDER.index(key) if key in _ORDER else len(_ORDER), key))


def _follows(key: str, other: str, runs: Sequence[Mapping[str, str]]) -> bool:
    """Return whether runs that are alike in one key are alike in the other, of those that have it."""
    values: dict[str | None, set[str | None]] = {}
    for one in runs:
        values.setdefault(one.get(other), set()).add(one.get(key))
    return key.startswith("model.detector.") and all(len(found) == 1 for found in values.values())


_ORDER = ("detector", "backbone", "corpus", "num_pretrain_volumes", "budget_steps")


def _in_words(key: str, value: str) -> str:
    if key in ("num_pretrain_volumes", "budget_steps"):
        return f"{value} {'volumes' if key == 'num_pretrain_volumes' else 'steps'}"
    if key in _ORDER:
        return value
    return f"{key.rpartition('.')[2].removeprefix('pretraining ').replace('_', ' ')} {value[:40]}"


def _facts(run: Run, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        value = getattr(run.metadata, name)
        if value is not None:
            yield name, str(value)


def _options(run: Run) -> Iterator[tuple[str, str]]:
    path = run.folder / "config.yaml"
    try:
        document = read_yaml(path, "repeat the run") if path.is_file() else {}
    except UserError as error:
        run.problems.append(str(error))
        yield "config.yaml", f"not readable, of {run.folder}"
        return
    options = dict(_flat(document))
    free = [FREE, *([] if options.get("model.weights") == "best" else [OF_VALIDATION])]
    free += [OF_SEED_OF_PRETRAINING] if run.metadata.stage == "pretrain" else [OF_SEED]
    for key, value in options.items():
        if value is not None and not any(one.fullmatch(key) for one in free):
            yield key, str(value)


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, value

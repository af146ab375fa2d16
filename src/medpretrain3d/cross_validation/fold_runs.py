"""The fine-tuning runs of all folds of a store, which must be runs of one recipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medpretrain3d.cross_validation.known_cases import known_by
from medpretrain3d.documents import read_yaml
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import read_targets
from medpretrain3d.evaluation.protocols import CENTER
from medpretrain3d.run_metadata import RunMetadata, read_run_metadata
from medpretrain3d.store.splits import label_budget
from medpretrain3d.store.store import Store
from medpretrain3d.store.stratify import seeded_label_order

MAY_DIFFER = (
    "data.fold",
    "data.hard_negatives",  # where they lie; what they are is in their hash
    "data.num_workers",
    "data.stage_to",
    "data.unlabeled",
    "data.store",  # where it lies; what it holds is in its fingerprint
    "data.seed",
    "model.init_from",  # pretraining that leaves a fold's cases out makes a file for each fold
    "run",
    "seed_everything",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
)
"""Keys of a configuration in which the runs of one cross-validation may differ, with all below them."""
BATCH = ("data.batch_size", "trainer.accumulate_grad_batches")
"""Keys in which they may differ as well where a step has the same samples, as a run's that went on on other devices."""
SAME_FACTS = (
    *("dataset", "data_fingerprint", "method", "paradigm", "backbone", "detector", "steps", "weights"),
    *("semi_supervised", "unlabeled_fingerprint", "hard_negatives_sha256"),
)
"""What `run.json` has to say alike of them."""


@dataclass(frozen=True)
class FoldRuns:
    """One finished run per fold of a store, in the order of the folds."""

    store: Store
    folders: tuple[Path, ...]
    metadata: tuple[RunMetadata, ...]

    @property
    def fold_of(self) -> dict[str, int]:
        """The fold that held each case out."""
        return self.store.all_splits.held_out

    @property
    def is_by_distance(self) -> bool:
        """Whether the runs were scored by the distance of centers whatever their objects are: `model.protocol`."""
        return bool(_flat(_config(self.folders[0])).get("model.protocol") == CENTER.name)

    def training_cases(self, number: int) -> list[str]:
        """Return the cases that the detector of a fold was trained on with their labels."""
        path = self.folders[number] / "test" / "train_targets.json"
        if path.is_file():
            return [case.case for case in read_targets(path).cases]
        # A run without test cases writes none; it tells its label budget and how that was drawn.
        train = self.store.all_splits.fold(number).get("train", ())
        count = self.metadata[number].num_train_cases
        if count is None or count >= len(train):
            return list(train)
        seed = _flat(_config(self.folders[number])).get("data.label_seed")
        order = self.store.all_splits.label_order if seed is None else seeded_label_order(self.store, train, int(seed))
        return list(label_budget(train, order, count))

    def notes(self) -> list[str]:
        """Return what a reader of the scores has to know: what has met the cases that folds hold out."""
        seen = sum(one.num_val_cases_seen or 0 for one in self.metadata)
        with_labels = sum(one.num_val_cases_seen_with_labels or 0 for one in self.metadata)
        is_unlabeled = any(one.num_unlabeled_volumes for one in self.metadata)
        how = "detectors were pretrained or trained without labels" if is_unlabeled else "encoders were pretrained"
        notes = []
        if seen:
            notes.append(
                f"{how} on {seen} of {len(self.fold_of)} cases that their folds hold out, {with_labels} of them with "
                "labels: what is measured there may be better than it will be on new scans"
            )
        if any(one.is_pretraining_data_known is False for one in self.metadata):
            notes.append("not every encoder lists the scans it was pretrained on; held-out cases may be among them")
        if related := self._related():
            notes.append(
                f"{len(related)} of {len(self.fold_of)} cases are held out by a fold that trains on another scan of "
                f"their patient or on a copy, first '{related[0]}': what is measured there is better than it will be "
                "on new patients; `medpretrain3d split` deals out folds that part no patient"
            )
        if any(one.weights == "best" for one in self.metadata):
            notes.append(
                "model.weights best: each fold's weights were chosen by the cases that it is scored on, so what is "
                "measured there is better than it will be on new scans; train with model.weights last to measure that"
            )
        return notes

    def _related(self) -> list[str]:
        """Return held-out cases that are copies of training cases of their fold, or of a patient of one."""
        known = [known_by(self.store, self.training_cases(number)) for number in range(len(self.folders))]
        return [case for case, fold in self.fold_of.items() if known[fold] & known_by(self.store, [case])]


def find_fold_runs(folders: Sequence[Path], store: Path | None = None) -> FoldRuns:
    """Find the runs of all folds in run folders, or in folders that hold run folders.

    Args:
        folders: of runs, or of groups of them.
        store: of their data; None is what their configurations name.

    Raises:
        UserError: no run, one that is no finished fine-tuning of a fold, two of one fold, runs of other recipes or
            data, a store that has changed since, or a fold without a run.
    """
    found = {folder: read_run_metadata(folder / "run.json") for folder in _run_folders(folders)}
    for folder, metadata in found.items():
        _check_run(folder, metadata)
    first = next(iter(found))
    configs = {folder: _flat(_config(folder)) for folder in found}
    for folder in found:
        _check_alike(first, found[first], configs[first], folder, found[folder], configs[folder])
    opened = Store(store or Path(str(configs[first].get("data.store"))))
    by_fold: dict[int, Path] = {}
    for folder, metadata in found.items():
        assert metadata.fold is not None
        if metadata.fold in by_fold:
            raise UserError(f"{by_fold[metadata.fold]} and {folder} are both of fold {metadata.fold}; name one of them")
        by_fold[metadata.fold] = folder
    _check_store(opened, found[first], sorted(by_fold))
    ordered = [by_fold[number] for number in sorted(by_fold)]
    return FoldRuns(opened, tuple(ordered), tuple(found[folder] for folder in ordered))


def _run_folders(folders: Sequence[Path]) -> list[Path]:
    result: list[Path] = []
    for folder in folders:
        inner = [folder] if (folder / "run.json").is_file() else sorted(one.parent for one in folder.glob("*/run.json"))
        if not inner:
            raise UserError(f"{folder}: holds no run (run.json); name the runs of all folds, or the folder they lie in")
        result += [one for one in inner if one not in result]
    return result


def _config(folder: Path) -> Any:
    return read_yaml(folder / "config.yaml", "repeat the run")


def _check_run(folder: Path, metadata: RunMetadata) -> None:
    if metadata.stage != "finetune":
        raise UserError(f"{folder}: is a run of stage {metadata.stage}, wanted fine-tuning; name the runs of all folds")
    if metadata.fold is None:
        raise UserError(f"{folder}: was trained on the named splits, wanted a run per fold; train with --data.fold")
    if not metadata.finished:
        raise UserError(f"{folder}: has not ended; start it again, it continues where it was")


def _check_alike(
    first: Path,
    metadata: RunMetadata,
    config: Mapping[str, Any],
    folder: Path,
    other_metadata: RunMetadata,
    other: Mapping[str, Any],
) -> None:
    batches = metadata.global_batch_size, other_metadata.global_batch_size  # earlier versions did not write it
    if None not in batches and batches[0] != batches[1]:
        raise UserError(
            f"{first} and {folder} differ in samples of a step: {batches[0]} and {batches[1]}, which data.batch_size x "
            "processes x trainer.accumulate_grad_batches make; wanted runs that differ in their fold alone"
        )
    free: tuple[str, ...] = () if None in batches else BATCH
    if config.get("data.unlabeled") or other.get("data.unlabeled"):
        free = free[1:]  # the number of unlabeled crops follows that of the others in a batch
    for key in [key for key in {**config, **other} if not _may_differ(key) and key not in free]:
        if config.get(key) != other.get(key):
            raise UserError(
                f"{first} and {folder} differ in {key}: {config.get(key)} and {other.get(key)}; wanted runs of one "
                "recipe that differ in their fold alone"
            )
    for fact in SAME_FACTS:
        values = getattr(metadata, fact), getattr(other_metadata, fact)
        if values[0] != values[1]:
            raise UserError(f"{first} and {folder} differ in {fact}: {values[0]} and {values[1]}; wanted runs alike")


def _may_differ(key: str) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in MAY_DIFFER)


def _check_store(store: Store, metadata: RunMetadata, folds: Sequence[int]) -> None:
    if store.fingerprint != metadata.data_fingerprint:
        raise UserError(
            f"{store.place}: is not what the runs were trained on (its fingerprint is another); name their store with "
            "--store, or train again"
        )
    num_folds = len(store.all_splits.folds)
    missing = sorted(set(range(num_folds)) - set(folds))
    if missing:
        numbers = ", ".join(map(str, missing))
        raise UserError(
            f"{store.place}: has {num_folds} folds, and no run is of fold {numbers}; train with --data.fold"
        )
    held_out = [case_id for fold in store.all_splits.folds for case_id in fold.get("val", ())]
    if twice := next((case_id for case_id, times in Counter(held_out).items() if times > 1), None):
        raise UserError(f"{store.place}: case '{twice}' is held out by two folds, so folds cannot be pooled")
    if empty := [number for number, fold in enumerate(store.all_splits.folds) if not fold.get("val")]:
        raise UserError(
            f"{store.place}: fold {empty[0]} has no validation case, which is what folds are pooled by; write "
            f"folds with `medpretrain3d split {store.place}`, and train them"
        )
    if strangers := sorted(set(folds) - set(range(num_folds))):
        raise UserError(f"{store.place}: has {num_folds} folds, and a run is of fold {strangers[0]}; train again")


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, by keys with dots."""

    def leaves(inner: Any, key: str) -> Iterator[tuple[str, Any]]:
        if isinstance(inner, dict) and inner:
            for name, below in inner.items():
                yield from leaves(below, f"{key}.{name}" if key else str(name))
        else:
            yield key, inner

    return dict(leaves(value, prefix))

"""Expansion of a study into its jobs: prepare, pretrain once per arm and pretraining seed, fine-tune and test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medpretrain3d.command_line.composition import composed, flattened, nested, recipe_layers
from medpretrain3d.command_line.precheck import Precheck
from medpretrain3d.command_line.trainer import check_steps
from medpretrain3d.documents import json_text
from medpretrain3d.errors import UserError
from medpretrain3d.plugins import loaded_plugins
from medpretrain3d.study.code_version import code_version
from medpretrain3d.study.design import ALL, NUM_FOLDS, Arm, Budget, Detector, Study
from medpretrain3d.study.document_recipes import BUDGETS
from medpretrain3d.study.fewer_steps import fewer_steps
from medpretrain3d.study.inputs import (
    content_hash,
    is_prepared,
    open_store,
    pretraining_hash,
    split_hash,
    weights_hash,
)
from medpretrain3d.study.jobs import UNKNOWN, Job, Jobs, Kind
from medpretrain3d.study.preparation import Preparation, option_of
from medpretrain3d.study.record import Record
from medpretrain3d.study.unseen_data import PLACES, UnseenData

HARMLESS = (
    "data.num_workers",
    "data.prefetch_factor",
    "data.stage_to",
    *PLACES,
    "model.init_from",
)
"""Options that change no result: how fast it is read, and from where; what is in a store or file counts by its hash."""
FILES = {
    "data.hard_negatives": (
        "hard_negatives",
        "give predictions.json of cross-validate, or add to the document prepare: {FOLDER: cross-validate ...}",
    ),
    "data.views.init_args.table": ("labels", "give a CSV file with the columns case and label"),
}
"""Options that name a file, the fact that its hash is, and what to do where it is not there."""
PLACE = "run."
"""Options of where a run is kept."""


class Expansion:
    """Expands a study; what is not there yet is unknown, and so are the jobs that read it.

    Args:
        study: the study.
        found: earlier results by the hash of their facts, the oldest first: that of the code as it is is taken where it
            is among them, otherwise the newest.
        unseen: records of results, the oldest first, by which jobs on data that are not there are known.
    """

    def __init__(
        self, study: Study, found: Mapping[str, Sequence[str]] | None = None, unseen: Sequence[Record] = ()
    ) -> None:
        self.study = study
        self._found = found or {}
        self._unseen = UnseenData(unseen)
        self._preparation = Preparation(study, self._adopted)
        self._encoders: dict[str, Job] = {}
        self._recipes: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def jobs(self) -> Jobs:
        """Return all jobs.

        Raises:
            UserError: a recipe is wrong, a store or encoder is missing that no job makes, or two runs are one.
        """
        self._read_recipes()
        preparing, finetuning = self._preparation.jobs(), list(self._finetuning())
        _check_unlike(self.study, finetuning)
        return Jobs((*preparing, *dict.fromkeys(self._encoders.values()), *finetuning), self._preparation.missing())

    def _read_recipes(self) -> None:
        """Read all recipes: the plugins that one of them names are part of the code of every job, also of the first."""
        for detector in self.study.detectors:
            for recipe in detector.recipes.values():
                self._recipe(recipe, "finetune")
        for arm in self.study.arms:
            for recipe in (one for of_data in arm.pretrain.values() for one in of_data):
                self._recipe(recipe, "pretrain")
        self._preparation.read_recipes()

    def _finetuning(self) -> Iterator[Job]:
        study = self.study
        for data in study.data:
            for detector in study.detectors:
                for budget in study.labels:
                    for seed in study.seeds:
                        for arm in study.arms:
                            shares = [one for one in study.steps if study.is_run(arm, data, detector, budget.name, one)]
                            for steps in shares:
                                yield from self._folds(data, detector, budget, seed, arm, steps)

    def _folds(self, data: str, detector: Detector, budget: Budget, seed: int, arm: Arm, steps: float) -> Iterator[Job]:
        layers = self._recipe(detector.recipes[data], "finetune")
        layers += [nested(options) for options in (detector.changes, budget.changes, arm.finetune) if options]
        flat = flattened(composed(layers))
        if arm.steps != 1:
            layers.append(nested(fewer_steps(flat, arm.steps, f"arms.{arm.name}.steps")))
        elif steps != 1:
            layers.append(nested(fewer_steps(flat, steps, "steps", self.study.steps)))
        store = str(flat.get("data.store", ""))
        for fold in self._fold_numbers(store):
            setting = {"arm": arm.name, "data": data}
            setting |= {"detector": detector.name} if detector.name else {}
            setting |= {"labels": budget.name, **({} if steps == 1 else {"steps": f"{steps:g}"})}
            setting |= {"seed": str(seed)} | ({} if fold is None else {"fold": str(fold)})
            options: dict[str, Any] = {"seed_everything": seed, **budget.options}
            if budget.options:  # in place of that of the recipe, beside which it would be refused
                options |= {key: value for key, value in BUDGETS.items() if key in flat and key not in budget.options}
                options["data.label_seed"] = seed
            # Each fold is tested on what it holds out, so that over all of them every labeled case is tested once.
            options |= {} if fold is None else {"data.fold": fold, "data.test_on": "held_out"}
            needs = self._encoder(arm, data, seed)
            if arm.init_from is not None:
                options["model.init_from"] = arm.init_from
            inputs = self._store_facts(store, flat.get("data.fold") if fold is None else fold)
            if unlabeled := _listed(flat.get("data.unlabeled")):
                inputs["unlabeled"] = self._pretraining_facts(unlabeled)
            yield self._job("finetune", setting, [*layers, nested(options)], inputs, needs)

    def _fold_numbers(self, store: str) -> list[int | None]:
        wanted = self.study.folds
        if wanted is None:
            return [None]
        known = self._num_folds(store)
        if known == 0:
            raise UserError(
                f"folds: {store} has no folds; write them with `medpretrain3d split {store}`, or add it to its prepare"
            )
        if wanted == ALL:
            return list(range(known))
        beyond = [fold for fold in wanted if int(fold) >= known]
        if beyond and is_prepared(store):
            raise UserError(f"folds: got {beyond[0]}, {store} has {known} folds, counted from 0")
        return [int(fold) for fold in wanted]

    def _num_folds(self, store: str) -> int:
        if is_prepared(store):
            return len(open_store(store).all_splits.folds)
        given = [option_of(words, "--folds") for words in self._preparation.commands(store)]
        numbers = [int(value) for value in given if value is not None and value.isdigit()]
        return numbers[-1] if numbers else NUM_FOLDS

    def _encoder(self, arm: Arm, data: str, seed: int) -> tuple[Job, ...]:
        """Return the last pretraining of an arm: arms and data sets that begin from the same one share it."""
        if not arm.pretrain:
            return ()
        number = seed % self.study.pretrain_seeds
        recipes = arm.pretrain[data]
        needs: tuple[Job, ...] = ()
        for count, recipe in enumerate(recipes, 1):
            is_last = count == len(recipes)
            changes = dict(arm.changes) if is_last else {}
            key = json_text([recipes[:count], sorted(changes.items()), number])
            if key not in self._encoders:
                setting = {"arm": arm.name} | ({"data": data} if len(set(arm.pretrain.values())) > 1 else {})
                setting |= ({} if is_last else {"stage": str(count)}) | {"seed": str(number)}
                made = self._pretraining(recipe, changes, number, setting, needs)
                # Two recipes may say the same: it is one encoder then.
                alike = [one for one in self._encoders.values() if _whole(one) == _whole(made)]
                self._encoders[key] = alike[0] if alike else made
            needs = (self._encoders[key],)
        return needs

    def _pretraining(
        self, recipe: str, changes: Mapping[str, Any], number: int, setting: dict[str, str], needs: tuple[Job, ...]
    ) -> Job:
        layers = self._recipe(recipe, "pretrain")
        layers += [nested(changes)] if changes else []
        options = flattened(composed(layers))
        stores, excluded = (_listed(options.get(key)) for key in ("data.store", "data.exclude"))
        inputs = {"data": self._pretraining_facts(stores), "excluded": self._pretraining_facts(excluded)}
        inputs = {key: value for key, value in inputs.items() if value}
        return self._job("pretrain", setting, [*layers, {"seed_everything": number}], inputs, needs)

    def _recipe(self, path: str, kind: str) -> list[dict[str, Any]]:
        if (path, kind) not in self._recipes:
            self._recipes[path, kind] = recipe_layers(Path(path), kind)
        return list(self._recipes[path, kind])

    def _store_facts(self, store: str, fold: int | None) -> dict[str, Any]:
        if not self._is_there(store):
            return {"data": UNKNOWN}
        opened = open_store(store)
        return {"data": opened.fingerprint[:16], "split": split_hash(opened, fold)}

    def _pretraining_facts(self, stores: list[str]) -> str:
        if not all(self._is_there(store) for store in stores):
            return UNKNOWN
        opened = [open_store(store) for store in stores]
        prints = [one.fingerprint[:16] for one in opened]
        return ", ".join([*prints, pretraining_hash(opened)]) if opened else ""

    def _is_there(self, store: str) -> bool:
        if is_prepared(store):
            return True
        if store in self.study.prepare:
            return False
        raise UserError(
            f"{store or 'data.store'}: no store, and nothing in the study makes it; run `medpretrain3d prepare`, or "
            f"add to the document prepare: {{{store or 'STORE'}: prepare RAW {{store}}}}"
        )

    def _job(
        self,
        kind: Kind,
        setting: dict[str, str],
        layers: Sequence[Mapping[str, Any]],
        inputs: dict[str, Any],
        needs: Any,
    ) -> Job:
        check, source = Precheck(kind, bool(loaded_plugins())), f"{kind} {', '.join(setting.values())}"
        for layer in layers:
            check.layer(layer, source)
        flat = flattened(composed(layers))
        check_steps(flat, source)  # not after the jobs that it needs, in a queue
        kept = {key: value for key, value in flat.items() if not key.startswith(PLACE) and key not in HARMLESS}
        if flat.get("model.init_from") and not needs:
            inputs["encoder"] = weights_hash(str(flat["model.init_from"]))
        for option, (fact, advice) in FILES.items():
            if file := flat.get(option):
                is_awaited = self._preparation.makes(Path(file)) and not Path(file).exists()
                inputs[fact] = UNKNOWN if is_awaited else content_hash(Path(file), advice)
        job = Job(
            kind,
            setting,
            {**kept, **inputs},
            code_version(kind),
            tuple(layers),
            str(flat.get("data.store")),
            needs=needs,
        )
        return self._adopted(job)

    def _adopted(self, job: Job) -> Job:
        job = self._unseen.known(job)
        earlier = self._found.get(job.recipe, ())
        if not earlier or job.identity in earlier:
            return job
        return Job(**{**_fields(job), "adopted": earlier[-1]})


def _check_unlike(study: Study, finetuning: Sequence[Job]) -> None:
    """Refuse two runs of which one result would stand for both, so that an arm or data set is missing in silence.

    Raises:
        UserError: names both.
    """
    found: dict[str, Job] = {}
    for job in finetuning:
        other = found.setdefault(_whole(job), job)
        if other is not job:
            keys = [key for key in job.setting if job.setting[key] != other.setting.get(key)]
            one, two = (", ".join(each.setting.get(key, "-") for key in keys) for each in (other, job))
            raise UserError(
                f"study {study.name}: {keys[0]} {one} and {two} are the same run: options, data and start of "
                f"'{other.name}' are those of '{job.name}'; wanted runs that differ in one of them, drop {two} or "
                "change an option of it"
            )


def _whole(job: Job) -> str:
    """Return all that distinguishes a job, also from one whose data are not there yet: where these will be."""
    options = {} if job.is_known else flattened(composed(job.layers))
    return json_text([job.recipe, sorted(options.items()), [_whole(one) for one in job.needs]])


def expand(study: Study, found: Mapping[str, Sequence[str]] | None = None, unseen: Sequence[Record] = ()) -> Jobs:
    """Return the jobs of a study, see `Expansion`.

    Raises:
        UserError: a recipe is wrong, a store or encoder is missing that no job makes, or two runs are one.
    """
    return Expansion(study, found, unseen).jobs()


def _listed(value: Any) -> list[str]:
    """Return the stores that an option names, be it one or several."""
    return [str(one) for one in value] if isinstance(value, list) else [str(value)] if value else []


def _fields(job: Job) -> dict[str, Any]:
    return {name: getattr(job, name) for name in job.__dataclass_fields__}

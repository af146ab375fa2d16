"""What `plan` writes for a store: the store at the planned spacing, the recipe, and the page."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

from medpretrain3d.atomic import locked, locked_folder, write_text
from medpretrain3d.commands.beside import beside
from medpretrain3d.errors import UserError
from medpretrain3d.plan_page import is_plan_page, write_plan_page
from medpretrain3d.planning import Plan
from medpretrain3d.planning.fingerprint import Fingerprint, warnings_of
from medpretrain3d.planning.recipe import is_as_written, planned_for, recipe_name, recipe_text
from medpretrain3d.planning.setup import Setup
from medpretrain3d.store.resampled_store import resample_store, spacing_in_words, spacing_of
from medpretrain3d.store.store import Store
from medpretrain3d.store.stratify import NUM_FOLDS, split_store

RECIPES = Path("configs")


def write_plan_files(args: argparse.Namespace, plan: Plan, setup: Setup) -> Iterator[str]:
    """Write them; yields a line for each, the last of which says what to do next.

    Raises:
        UserError: the recipe that is there was edited or is of another store, the page is none of a plan, another call
            is at work at a place, or the disk is full.
    """
    store = Store(args.source)
    path: Path = args.recipe or RECIPES / f"{recipe_name(store.path)}.yaml"
    with locked(path):
        _check_recipe(path, store, args.resampled)
        page = path.with_suffix(".html")
        if page.exists() and not is_plan_page(page):
            raise UserError(f"{page}: is no page of a plan; rename it, or write another recipe with --recipe FILE.yaml")
        fingerprint = Fingerprint.of(store)
        warnings = warnings_of(store, fingerprint, plan)
        place, said = _planned_store(args, store, plan)
        yield from said
        planned = Store(place)
        command = f"medpretrain3d finetune --config {shlex.quote(str(path))}"
        recipe = recipe_text(plan, fingerprint, setup, place, planned.all_splits, str(path), warnings, store.place)
        write_plan_page(page, planned, fingerprint, plan, warnings, recipe, command)
        write_text(path, recipe)
    yield f"{page}: the data in pictures; warnings: {len(warnings)}"
    yield f"{path}: the recipe, with all reasons; next:"
    yield command


def _check_recipe(path: Path, store: Store, resampled: Path | None) -> None:
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"--recipe {path}: wanted a name that ends on .yaml")
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    if not is_as_written(text):
        raise UserError(
            f"{path}: was changed since it was planned, or is no plan's recipe; rename it to keep it, or write another "
            "one with --recipe FILE.yaml"
        )
    source, trained_on = planned_for(text)
    place = source or trained_on
    if _real(place) != _real(store.place) and (source or not _is_made_of(trained_on, store, resampled)):
        raise UserError(
            f"{path}: is the recipe of {place}, asked for is one of {store.place}; write another one with --recipe "
            "FILE.yaml"
        )


def _is_made_of(trained_on: str, store: Store, resampled: Path | None) -> bool:
    """Whether a recipe that names no source, as those of earlier versions, trains on what is made of this store."""
    if resampled is not None and _real(trained_on) == _real(str(resampled)):
        return True
    return _real(trained_on).startswith(_real(str(beside(_folder(store), "_at_"))))


def _real(place: str) -> str:
    return place if "://" in place else os.path.realpath(place)


def _planned_store(args: argparse.Namespace, store: Store, plan: Plan) -> tuple[str, list[str]]:
    """Return the place of the store at the planned spacing, with folds, and what was done for it."""
    if store.spacing_mm is not None:
        if args.resampled:
            raise UserError(f"--resampled {args.resampled}: {store.place} has one spacing already and is trained on")
        return store.place, _with_folds(store)
    target = args.resampled or _beside(store, plan)
    with locked_folder(target, clean=False):
        summary = resample_store(store.place, target, plan.spacing_mm, args.workers, _with_bar)
        said = f"{target}: {summary.num_cases} cases at {' x '.join(f'{one:g}' for one in plan.spacing_mm)} mm"
        reused = f", {summary.num_reused} of them were there" if summary.num_reused else ""
        return str(target), [said + reused, *_with_folds(Store(target), is_locked=True)]


def _beside(store: Store, plan: Plan) -> Path:
    """Return the default place; where an earlier version, which wrote three digits, made this very store, its place."""
    places = [
        beside(_folder(store), f"_at_{'x'.join(f'{edge:{digits}}' for edge in plan.spacing_mm)}mm")
        for digits in ("g", ".3g")
    ]
    made = [place for place in places if spacing_of(place) == spacing_in_words(plan.spacing_mm)]
    return made[0] if made else places[0]


def _folder(store: Store) -> Path:
    """Return the folder beside which the planned store lies."""
    return Path(store.place) if "://" not in store.place else Path("data") / store.path.name


def _with_folds(store: Store, is_locked: bool = False) -> list[str]:
    """Deal out folds where nothing else is held out; fewer than usual where there are fewer patients."""
    splits = store.all_splits
    if splits.folds or splits.named.get("val") or "://" in store.place:
        return []
    with nullcontext() if is_locked else locked_folder(store.path, clean=False):
        for num_folds in range(min(NUM_FOLDS, len(splits.named["train"])), 1, -1):
            with suppress(UserError):  # fewer patients than that, or copies of one scan
                split_store(store, num_folds)
                return [f"{store.place}: {num_folds} folds, see `medpretrain3d split`"]
    return []


def _with_bar(case_ids: Iterable[str], total: int) -> Iterable[str]:
    from tqdm import tqdm

    bar: Iterable[str] = tqdm(case_ids, total=total, desc="resample", unit="case", disable=not total)
    return bar

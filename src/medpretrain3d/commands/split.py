"""Deal out the labelled cases of a store to folds, and put them into an order for label budgets.

Cases of one patient and scans that are there twice stay together. Folds and order are stratified by the number of
objects, their classes and their sizes, and written to STORE/splits.json; the same store and seed give the same file.
Cases of the splits `test` and `unlabelled` take no part. Use them with `data.fold` and `data.label_fraction` of a
fine-tuning recipe.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medpretrain3d.atomic import locked_folder, remove_unfinished
from medpretrain3d.commands.numbers import Number
from medpretrain3d.errors import UserError
from medpretrain3d.store.class_counts import missing_objects
from medpretrain3d.store.splits import LABEL_FRACTIONS, SPLITS, fraction_count
from medpretrain3d.store.store import Store
from medpretrain3d.store.stratify import NUM_FOLDS, split_store
from medpretrain3d.urls import refuse_url
from medpretrain3d.values import Count, Seed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Store, number of folds, seed."""
    parser.add_argument("store", type=Path, metavar="STORE")
    parser.add_argument("--folds", type=Number(Count), default=NUM_FOLDS)
    parser.add_argument("--seed", type=Number(Seed), default=0)


@contextmanager
def lock(args: argparse.Namespace) -> Iterator[None]:
    """Neither a call of `prepare` nor another one of `split` writes to the store meanwhile."""
    refuse_url(args.store)
    if not args.store.is_dir():
        raise UserError(f"{args.store}: no such folder; wanted a store, written by `medpretrain3d prepare`")
    with locked_folder(args.store, clean=False):
        remove_unfinished(args.store, {SPLITS})
        yield


def run(args: argparse.Namespace) -> int:
    """Write, then say how even the folds are."""
    splits = split_store(Store(args.store), args.folds, args.seed)
    store = Store(args.store)
    entries = store.entries
    for number, fold in enumerate(splits.folds):
        objects = [entries[case_id]["num_objects"] for case_id in fold["val"]]
        print(
            f"fold {number}: train {len(fold['train'])}, val {len(fold['val'])} "
            f"with {sum(objects)} objects, {objects.count(0)} cases without"
        )
        for doubt in missing_objects(store, fold):
            print(f"warning: fold {number}: {doubt}")
    num_train = len(splits.folds[0]["train"])
    counts = ", ".join(f"{fraction:.0%} {fraction_count(num_train, fraction)}" for fraction in LABEL_FRACTIONS)
    print(f"label budgets of fold 0, each part of the next: {counts}")
    return 0

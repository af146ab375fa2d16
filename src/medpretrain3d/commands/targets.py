"""Write the true boxes of a store's split as JSON, in LPS millimetres, for `medpretrain3d evaluate`."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from medpretrain3d.atomic import locked, write_text
from medpretrain3d.commands.numbers import Number
from medpretrain3d.documents import json_text
from medpretrain3d.store.corpus import Corpus
from medpretrain3d.store.targets import targets_json
from medpretrain3d.values import Whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Store, split, output."""
    parser.add_argument("store", type=Path, metavar="STORE")
    parser.add_argument("--split", default="test", help="train, val, test or all (default: test)")
    parser.add_argument("--fold", type=Number(Whole), help="whose split is meant; default: the named splits")
    parser.add_argument("-o", "--output", type=Path, required=True)


def lock(args: argparse.Namespace) -> AbstractContextManager[None]:
    """Return one call writes the file at a time."""
    return locked(args.output) if args.output else nullcontext()


def run(args: argparse.Namespace) -> int:
    """Write the file."""
    corpus = Corpus([args.store])
    refs, note = corpus.scored_cases(args.split, args.fold)
    document = targets_json(corpus.stores[0], [ref.case_id for ref in refs])
    write_text(args.output, json_text(document))
    if note:
        print(note)
    num_boxes = sum(len(entry["labels"]) for entry in document["targets"])
    print(f"{args.output}: {num_boxes} boxes of {len(document['targets'])} cases")
    return 0

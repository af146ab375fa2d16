"""Test detector bundles on a labelled data set: predict its scans, write its true boxes, score.

DATA is a store, or a folder of a labelled data set in a layout that `medpretrain3d datasets` lists, such as nnU-Net's
imagesTs and labelsTs; of a folder a store is made in OUT first, at each scan's own spacing. Give it the options that
`prepare` got for the data of training: what is one object, how small it may be; and say which scans are of one patient.

OUT receives predictions.json, predictions.csv, targets.json, metrics.json and metrics.csv (one row per scan). Classes
are matched by name: a class that the bundle does not find is refused, boxes of classes that the data do not name do
not count, and are counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

from medpretrain3d.atomic import locked_folder, write_text
from medpretrain3d.commands import predict, prepare
from medpretrain3d.commands.evaluate import per_case_csv
from medpretrain3d.commands.numbers import Number
from medpretrain3d.commands.precision_option import add_precision
from medpretrain3d.commands.region_options import add_region_to_look_at, refuse_without_region
from medpretrain3d.commands.unused_options import refuse_unused
from medpretrain3d.documents import json_text
from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers.base import OBJECT_RULES
from medpretrain3d.values import Rows, Whole

SAVES_MEMORY = predict.SAVES_MEMORY
"""What to change where memory runs out."""
OF_FOLDER = (
    *("dataset", "objects", "min_voxels", "as_points", "intensity", "straighten"),
    *("patients", "patient_pattern", "patient_column"),
)
"""Options by which a folder becomes a store as that of training did; beside them `option`, which is repeated."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Bundles, data, place of the results."""
    parser.add_argument("bundle", type=Path, help="folder with bundle.json: a detector, or an ensemble")
    parser.add_argument(
        "data",
        type=Path,
        nargs="+",
        metavar="[BUNDLE ...] DATA",
        help="more bundles for an ensemble, then the data set",
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="folder for the results")
    parser.add_argument("--split", help="of DATA: train, val, test or all (default: test where there is one, else all)")
    parser.add_argument("--fold", type=Number(Whole), help="of a store, whose split is meant; default: named splits")
    parser.add_argument("--dataset", "--layout", metavar="NAME", help="layout of a folder (default: by its tree)")
    as_there = "of a folder, see medpretrain3d prepare"
    parser.add_argument("--objects", choices=OBJECT_RULES, help=as_there)
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help=f"{as_there}; repeatable")
    parser.add_argument("--min-voxels", type=Number(Whole), help=as_there)
    parser.add_argument("--as-points", action="store_true", help=as_there)
    parser.add_argument("--intensity", choices=("hu", "any"), help=as_there)
    parser.add_argument("--straighten", action="store_true", help=as_there)
    prepare.add_patients(parser)
    parser.add_argument(
        "--rename", action="append", default=[], metavar="OLD=NEW", help="a class of DATA as the bundle calls it"
    )
    add_region_to_look_at(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    add_precision(parser)
    parser.add_argument(
        "--batch-size", type=Number(Rows), help="tiles per forward pass (default: 1 on a CPU, 4 on a GPU if they fit)"
    )


def lock(args: argparse.Namespace) -> AbstractContextManager[None]:
    """Return one call fills the folder at a time."""
    return locked_folder(args.out)


def run(args: argparse.Namespace) -> int:
    """Predict, write targets, score; 1 if some scans could not be used.

    Raises:
        UserError: no bundle, no labelled data, classes the bundle does not know, a scan that could not be predicted,
            or see `prepare` and `predict`.
    """
    from medpretrain3d.evaluation import pair, read_predictions, read_targets
    from medpretrain3d.evaluation.class_names import of_classes
    from medpretrain3d.evaluation.protocols import protocol_of
    from medpretrain3d.evaluation.size_strata import DIAMETERS_MM
    from medpretrain3d.inference import load_members
    from medpretrain3d.store.corpus import LABELED, Corpus
    from medpretrain3d.store.store import Store
    from medpretrain3d.store.targets import targets_json

    refuse_without_region(args)
    predict.check_place(args.out)
    bundles, (data, *more) = predict.split_bundles(args.bundle, args.data)
    if more:
        raise UserError(f"{more[0]}: a second data set; test one after the other")
    if Store.is_at(data):
        why = f"is of a folder of a labelled data set, {data} is a store; leave it out"
        refuse_unused(args, add_arguments, (*OF_FOLDER, "option"), why)
    first = load_members(bundles[0])[0]
    classes = first.classes
    code, path = 0, data
    if not Store.is_at(data):
        path = args.out / "store"
        layout = [word for one in args.option for word in ("--option", one)]
        code = _call(prepare, [data, path, *layout, *_given(args, *OF_FOLDER)])
    corpus = Corpus([path])
    store = corpus.stores[0]
    names = _renamed(store.classes, args.rename)
    _check_classes(path, names, classes)
    split = args.split or ("test" if store.all_splits.fold(args.fold).get("test") else "all")
    refs, note = corpus.scored_cases(split, args.fold)
    if note:
        print(note)
    passed_on = ("fold", "region", "region_parts", "region_margin_mm", "device", "precision", "batch_size")
    chosen = ["--split", LABELED if split == "all" else split, *_given(args, *passed_on)]
    failed = _call(predict, [*bundles, path, "-o", args.out, *chosen])
    if failed:
        raise UserError(f"{data}: some scans could not be predicted, so there is no score of all of them")
    document = {**targets_json(store, [ref.case_id for ref in refs]), "classes": names}
    write_text(args.out / "targets.json", json_text(document))
    targets, found = read_targets(args.out / "targets.json"), read_predictions(args.out / "predictions.json")
    known, num_others = of_classes(found, names)
    paired = pair(known, targets)
    protocol = protocol_of(targets.cases, first.is_scored_by_distance)
    result = protocol.score(paired, targets.cases, targets.classes, size_edges_mm=DIAMETERS_MM)
    unnamed = [name for name in classes if name not in names]
    left_out = {"num_unlabeled_left_out": len(store.case_ids) - len(refs)} if note else {}
    facts = {
        "split": split,
        "fold": args.fold,
        **left_out,
        "classes_not_tested": unnamed,
        "num_boxes_not_tested": num_others,
    }
    write_text(args.out / "metrics.json", json_text({"protocol": protocol.name, **result, "test": facts}, indent=1))
    write_text(args.out / "metrics.csv", per_case_csv(result["per_case"]))
    print("\n".join(protocol.table(result)))
    if unnamed:
        print(f"note: the data do not name {', '.join(unnamed)}: {num_others} boxes of it were found and do not count")
    print(f"all numbers: {args.out / 'metrics.json'}")
    return code


def _call(command: ModuleType, words: Sequence[object]) -> int:
    """Run another command in this process."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return int(command.run(parser.parse_args([str(word) for word in words])))


def _given(args: argparse.Namespace, *names: str) -> list[object]:
    """Return options of this command as words for another, those that have a value."""
    words: list[object] = []
    for name in names:
        value = getattr(args, name)
        several = value if isinstance(value, list) else [] if value is None or value is False else [value]
        words += [f"--{name.replace('_', '-')}", *(one for one in several if one is not True)] if several else []
    return words


def _renamed(classes: Sequence[str], pairs: Sequence[str]) -> list[str]:
    names = {}
    for text in pairs:
        old, equals, new = text.partition("=")
        if not (old and equals and new):
            raise UserError(f"--rename {text!r}: wanted OLD=NEW, as lesion=nodule")
        if old not in classes:
            raise UserError(f"--rename {text}: the data have no class '{old}', they have {', '.join(classes)}")
        names[old] = new
    return [names.get(name, name) for name in classes]


def _check_classes(path: Path, names: Sequence[str], classes: Sequence[str]) -> None:
    if not names:
        raise UserError(f"{path}: holds no classes, so there is nothing to score; give a labelled data set")
    if unknown := [name for name in names if name not in classes]:
        raise UserError(
            f"{path}: names {', '.join(unknown)}, the bundle finds {', '.join(classes)}; say which is which with "
            f"--rename {unknown[0]}={classes[0]}, or leave such objects out of the labels"
        )
    if twice := next((name for name in names if list(names).count(name) > 1), None):
        raise UserError(f"{path}: two classes are called '{twice}'; --rename one of them otherwise")

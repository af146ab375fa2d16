"""Probe encoders: how well a linear layer on their frozen features tells objects of a store from background.

Minutes on a CPU, before days on GPUs. Points inside and outside of objects are drawn in crops of the training cases, on
which the layer is fitted, and of the validation cases, on which it is judged: the area under the ROC curve (AUC), of
each level and of all together, at the same points for every encoder. Beside them stand the same network with random
weights and the intensities around the points. The effective rank says in how many directions features differ at these
points (Roy and Vetterli, 2007), beside that of random weights in brackets. It all says what can be read off the
features as they are, not what fine-tuning makes of them.

ENCODER is whatever --model.init_from takes: an encoder file, a checkpoint of another project, a hub id.
"""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medpretrain3d.atomic import locked, write_text
from medpretrain3d.commands.numbers import Number
from medpretrain3d.commands.precision_option import add_precision, tell_precision
from medpretrain3d.commands.read_options import add_read_options, read_options
from medpretrain3d.documents import json_text
from medpretrain3d.errors import UserError
from medpretrain3d.lines import counted
from medpretrain3d.values import Count, Rows, Whole

if TYPE_CHECKING:
    import torch

    from medpretrain3d.backbones import Backbone, EncoderFile
    from medpretrain3d.probing import Auc
    from medpretrain3d.store.corpus import CaseRef
    from medpretrain3d.store.store import Store

SAVES_MEMORY = "a smaller --patch"
"""What to change where memory runs out."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Store, encoders, what is drawn."""
    parser.add_argument("store", help="labelled store written by medpretrain3d prepare")
    parser.add_argument("encoders", nargs="+", metavar="ENCODER", help="encoder file, checkpoint, folder or hub id")
    parser.add_argument(
        "--split",
        default="val",
        help="that judges (default: val), without cases and patients of train, which fit the layer",
    )
    parser.add_argument(
        "--fold", type=Number(Whole), help="of the store, whose splits are meant (default: named splits)"
    )
    parser.add_argument("--class", dest="class_name", metavar="NAME", help="that is told from background; default: all")
    parser.add_argument("--patch", type=Number(Count), default=64, help="least edge of a crop in voxels (default: 64)")
    parser.add_argument("--crops", type=Number(Count), default=4, help="of each case (default: 4)")
    parser.add_argument("--points", type=Number(Rows), default=64, help="of each crop (default: 64)")
    parser.add_argument("--seed", type=Number(Whole), default=0, help="of points and random weights (default: 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="JSON file for all numbers")
    add_precision(parser)
    add_read_options(parser)


def lock(args: argparse.Namespace) -> AbstractContextManager[None]:
    """Return one call writes the file at a time."""
    return locked(args.out) if args.out else nullcontext()


def run(args: argparse.Namespace) -> int:
    """Print a row per encoder and level, and write the numbers.

    Raises:
        UserError: no labelled store, no such split or class, no points of both kinds, or an unreadable encoder.
    """
    from medpretrain3d.backbones.checkpoints import read_encoder
    from medpretrain3d.inference.predictor import device_named
    from medpretrain3d.statistics import MIN_PATIENTS
    from medpretrain3d.store.corpus import Corpus

    corpus = Corpus([args.store])
    store = corpus.stores[0]
    label = _label(store, args.class_name)
    train, (scored, note) = corpus.cases("train", args.fold), corpus.scored_cases(args.split, args.fold)
    judged, told = _judging(scored, train, args.split)
    for line in (note, *told):
        if line:
            print(line)
    encoders = {name: read_encoder(name, read_options(args)) for name in args.encoders}
    device = device_named(args.device)
    tell_precision(args.precision, device)
    num_patients = len({case.patient or case.case_id for case in judged})
    has_several = num_patients < len(judged)
    print(
        f"{args.store}: {args.class_name or 'objects of all classes'} against background; the layer is fitted on "
        f"{len(train)} cases of train and judged on {len(judged)} of {args.split}"
        f"{f', which are of {num_patients} patients' if has_several else ''}"
    )
    rows = []
    for name, encoder in encoders.items():
        rows += _rows(name, encoder, train, judged, label, device, args)
    told = _table(rows)
    if (num_behind := rows[-1]["auc"].num_patients) < MIN_PATIENTS:
        units = "patients" if has_several else "scans"
        told.append(
            f"note: {num_behind} of the {num_patients} {units} that judge have points of the rarer kind, objects or "
            f"background; an interval needs {MIN_PATIENTS}"
        )
    if args.out:
        asked = {
            name: getattr(args, name) for name in ("split", "fold", "class_name", "patch", "crops", "points", "seed")
        }
        document = {"store": store.fingerprint, **asked, "rows": [_plain(row) for row in rows]}
        write_text(args.out, json_text(document, indent=1))
        told.append(f"all numbers: {args.out}")
    print("\n".join(told))
    return 0


def _judging(scored: list[CaseRef], train: list[CaseRef], split: str) -> tuple[list[CaseRef], list[str]]:
    """Return the cases that can judge the layer, which are neither those that fit it nor of their patients, and notes.

    Raises:
        UserError: none can.
    """
    fitting, patients = set(train), {case.patient for case in train} - {None}
    others = [case for case in scored if case not in fitting]
    judged = [case for case in others if case.patient not in patients]
    if not judged:
        whose = "cases are of patients of those that" if others else "cases"
        raise UserError(
            f"--split {split}: its {whose} fit the linear layer and cannot judge it too; choose another one"
        )
    notes = []
    if len(others) < len(scored):
        first = next(case.case_id for case in scored if case in fitting)
        notes.append(
            f"note: {counted(len(scored) - len(others), 'case')} of train left out, first '{first}': they fit the "
            "linear layer and cannot judge it too"
        )
    if len(judged) < len(others):
        first = next(case.case_id for case in others if case.patient in patients)
        notes.append(
            f"note: {counted(len(others) - len(judged), 'case')} left out, first '{first}', whose patients have scans "
            "that fit the linear layer: it would be judged by patients that it knows"
        )
    return judged, notes


def _rows(
    name: str,
    encoder: EncoderFile,
    train: list[CaseRef],
    judged: list[CaseRef],
    label: int | None,
    device: torch.device,
    args: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Return a row per level, one of all levels, and one of the intensities that the encoder sees."""
    import torch

    from medpretrain3d.backbones.checkpoints import load_encoder
    from medpretrain3d.precision.choice import precision_of
    from medpretrain3d.probing import LinearProbe, auc_of, difference_of, frozen_features, intensity_features
    from medpretrain3d.store.preprocessing import other_sizes

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        network = _network(encoder, judged[0])
    patch = _patch(network, args.patch)
    window = _window(encoder, judged[0])
    probe = LinearProbe(train, judged, patch, window, args.crops, args.points, label, args.seed)
    precision = precision_of(args.precision, device)
    random = probe.probed(lambda points: frozen_features(network, points, device, precision))
    print(f"{name}: {load_encoder(network, encoder)}")
    print(f"  {_seen(encoder, judged)}; seen through {window}, crops of {' x '.join(map(str, patch))}")
    if sizes := other_sizes(judged[0].store.spacing_mm, (encoder.card.get("preprocessing") or {}).get("spacing_mm")):
        print(f"  warning: it was {sizes} to ask it at the sizes that it knows")
    found = probe.probed(lambda points: frozen_features(network, points, device, precision))
    names = [f"level {number}, stride {_stride(level.stride)}" for number, level in enumerate(network.levels)]
    if len(names) > 1:
        names.append("all levels")
    rows = [
        {
            "encoder": name,
            "features": features,
            "channels": own.num_channels,
            "effective_rank": round(own.effective_rank, 2),
            "effective_rank_of_random_weights": round(other.effective_rank, 2),
            "auc": auc_of(own.log_odds, probe.is_object, probe.patient),
            "random_weights": auc_of(other.log_odds, probe.is_object, probe.patient),
            "gain": difference_of(own.log_odds, other.log_odds, probe.is_object, probe.patient),
        }
        for features, own, other in zip(names, found, random, strict=True)
    ]
    (alone,) = probe.probed(lambda points: [intensity_features(points)])
    rows.append(
        {
            "encoder": name,
            "features": "intensities alone",
            "channels": alone.num_channels,
            "auc": auc_of(alone.log_odds, probe.is_object, probe.patient),
        }
    )
    return rows


def _label(store: Store, name: str | None) -> int | None:
    if not store.classes:
        raise UserError(f"{store.path}: has no classes; a probe wants a store with labels")
    if name is None:
        return None
    if name not in store.classes:
        raise UserError(f"--class {name}: {store.path} has {', '.join(store.classes)}")
    return store.classes.index(name)


def _network(encoder: EncoderFile, case: CaseRef) -> Backbone:
    """Return the encoder's network with random weights, for the number of channels of the store."""
    from medpretrain3d.backbones import Backbone
    from medpretrain3d.configurable import from_config

    arguments = {**encoder.architecture.get("init_args", {}), "in_channels": case.open().num_channels}
    return from_config({**encoder.architecture, "init_args": arguments}, Backbone)


def _patch(network: Backbone, edge: int) -> tuple[int, int, int]:
    """Return the least patch that the network takes with no edge below what was asked for."""
    d, h, w = (-(-edge // stride) * stride for stride in network.levels[-1].stride)
    return d, h, w


def _window(encoder: EncoderFile, case: CaseRef) -> Any:
    """Return the window of the encoder's pretraining, or what fine-tuning would take where none is stated."""
    from medpretrain3d.store.intensity import PerUnit
    from medpretrain3d.store.preprocessing import stated_window

    unit = case.open().unit
    return stated_window(encoder.card.get("preprocessing") or {}, unit) or PerUnit().of_unit(unit)


def _seen(encoder: EncoderFile, judged: list[CaseRef]) -> str:
    """Return how many of the scans that judge the encoder was trained on."""
    from medpretrain3d.backbones import VolumesSeen

    seen = VolumesSeen.of_encoder(encoder)
    found = seen.among({case.case_id: case.voxels for case in judged})
    if seen.unknown and not found:
        return f"not known whether it was trained on these scans: {', '.join(seen.unknown)} does not list its own"
    return f"trained on {len(found)} of the {len(judged)} scans that judge{' at least' if seen.unknown else ''}"


def _stride(stride: tuple[int, int, int]) -> str:
    return str(stride[0]) if len(set(stride)) == 1 else "x".join(map(str, stride))


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the rows as lines, the encoder's name above its own."""
    head = f"{'features':<22}{'channels':>9}{'rank':>7}{'(random)':>10}  {'AUC':<22}{'random weights':<22}{'gain':<22}"
    lines = [head.rstrip()]
    above = None
    for row in rows:
        if row["encoder"] != above:
            above = row["encoder"]
            lines.append(str(above))
        cells = "".join(f"{row[name]!s:<22}" for name in ("auc", "random_weights", "gain") if name in row)
        ranks = "".join(
            f"{f'{row[name]:.1f}' if name in row else '':>{width}}"
            for name, width in (("effective_rank", 7), ("effective_rank_of_random_weights", 10))
        )
        lines.append(f"  {row['features']:<20}{row['channels']:>9}{ranks}  {cells}".rstrip())
    return lines


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    def of(value: str | float | Auc) -> Any:
        return value if isinstance(value, str | int | float) else {"value": value.value, "interval": value.interval}

    return {name: of(value) for name, value in row.items()}

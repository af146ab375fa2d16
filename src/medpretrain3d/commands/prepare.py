"""Read raw volumes and labels into a store.

RAW is the folder of a data set that `medpretrain3d datasets` lists, recognised by its tree or named by --dataset, or
any folder of scans without labels. Several RAW folders make one store; their case ids must differ. Finished cases are
kept as long as their files and the options stay the same, so a killed call continues.
A case whose stored files are missing, of another size or changed is made again. --check reads every byte of the store:
with RAW what is damaged is made again; without RAW it is named, and the exit code is 1.
At the end a table says which layout was recognised and why, and what was not used; it is kept as STORE/report.json.
Exit code: 0 when every case was used, 1 when some were left out (see STORE/skipped.json) or a labelled data set holds
no object at all, 2 on bad input.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from medpretrain3d.commands.numbers import Number, Processes
from medpretrain3d.commands.unused_options import refuse_unused
from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers.base import OBJECT_RULES
from medpretrain3d.ingest.patients import PatientPattern, Patients, PatientTable
from medpretrain3d.ingest.prepare import prepare
from medpretrain3d.ingest.prepare_options import PrepareOptions
from medpretrain3d.store.damage import check_store
from medpretrain3d.store.specks import speck_notes
from medpretrain3d.store.split_notes import every_split_note
from medpretrain3d.store.store import Store
from medpretrain3d.store.stratify import NUM_FOLDS, split_store
from medpretrain3d.values import Real, Whole

SAVES_MEMORY = "use fewer --workers"
"""What to change where memory runs out."""


OF_RAW = (
    *("spacing_mm", "plan", "objects", "as_points", "min_voxels", "dataset", "option", "fold", "patients"),
    *("patient_pattern", "patient_column", "intensity", "straighten", "containers", "shard"),
)
"""Options that decide what becomes of raw data."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Folders and options."""
    parser.add_argument("raw", type=Path, nargs="*", metavar="RAW")
    parser.add_argument("store", type=Path, metavar="STORE")
    spacing = parser.add_mutually_exclusive_group()
    spacing.add_argument(
        "--spacing-mm",
        type=Number(Real),
        nargs=3,
        metavar=("D", "H", "W"),
        help="resample to this; default: each scan's own",
    )
    spacing.add_argument("--plan", type=Path, metavar="PLAN.json", help="resample to the spacing of this plan")
    parser.add_argument(
        "--objects",
        choices=OBJECT_RULES,
        help="one object is a connected component, all voxels of a label value, or (instances) a label value that "
        "means nothing else; default: as the data set says, else components",
    )
    parser.add_argument(
        "--as-points",
        action="store_true",
        help="keep of each object the middle of its box alone, as a point without a size, for heat maps",
    )
    parser.add_argument("--min-voxels", type=Number(Whole), default=1, help="smaller objects become background")
    parser.add_argument("--dataset", "--layout", metavar="NAME", help="layout of RAW; default: recognised by its tree")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="of the data set; repeatable"
    )
    parser.add_argument(
        "--fold", type=Number(Whole), default=0, help="official fold that decides on train, val and test"
    )
    add_patients(parser)
    parser.add_argument(
        "--intensity",
        choices=("hu", "any"),
        help="any: values have no unit, as in MR, and are stretched where they do not fit; default: hu, unless the "
        "data set names its channels and not all of them are CT",
    )
    parser.add_argument(
        "--straighten",
        action="store_true",
        help="move the slices of DICOM series from a tilted gantry back within their planes; default: such cases are "
        "left out",
    )
    parser.add_argument(
        "--containers",
        action="store_true",
        help="many cases in one file (tar, up to 16 GiB and a case), for file systems that count files; default: a "
        "folder for each case, or as the store already is; `medpretrain3d pack` converts",
    )
    parser.add_argument("--check", action="store_true", help="compare every byte of the store with its checksum")
    parser.add_argument(
        "--workers", type=Number(Processes), default=1, help="cases at a time, each in a process of its own"
    )
    parser.add_argument(
        "--shard",
        type=_shard,
        default=(1, 1),
        metavar="i/n",
        help="prepare every n-th case only, i from 1 to n, as tasks of a job array do; the last one makes the index",
    )


def add_patients(parser: argparse.ArgumentParser) -> None:
    """Whose each scan is."""
    patients = parser.add_mutually_exclusive_group()
    patients.add_argument(
        "--patients",
        type=Path,
        metavar="FILE.csv",
        help="table with the columns case and patient; scans of one patient come into one fold, and are one unit of "
        "intervals (default: as the data set says, else each case is a patient of its own)",
    )
    patients.add_argument(
        "--patient-pattern",
        metavar="REGEX",
        help="or the part of a case id that is the patient, as its group: '(\\w+)_scan\\d+'",
    )
    parser.add_argument("--patient-column", metavar="NAME", help="of the --patients table (default: patient)")


def run(args: argparse.Namespace) -> int:
    """Prepare, then say what happened."""
    if not args.raw:
        return _check(args)
    options = PrepareOptions(
        _spacing_mm(args),
        args.objects,
        args.min_voxels,
        args.fold,
        args.dataset,
        tuple(map(_option, args.option)),
        args.intensity,
        _patients(args),
        args.straighten,
        args.as_points,
    )
    began = time.monotonic()
    summary = prepare(
        args.raw, args.store, options, args.workers, True, args.shard, check=args.check, containers=args.containers
    )
    said = [] if summary.awaited else _said_of(args.store)
    _tell_again(summary.again)
    _tell_time(summary.seconds, time.monotonic() - began, args.workers)
    for skipped in summary.skipped:
        print(f"skipped {skipped['case']}: {skipped['kind']}: {skipped['reason']}", file=sys.stderr)
    kinds = Counter(skipped["kind"] for skipped in summary.skipped)
    message = f" ({', '.join(f'{kind} {count}' for kind, count in sorted(kinds.items()))})" if kinds else ""
    done = f"{summary.prepared} prepared, {summary.reused} reused, {len(summary.skipped)} skipped{message}"
    splits = ", ".join(f"{name} {count}" for name, count in summary.splits.items())
    rest = f"{summary.awaited} cases of other shards to come, then the index" if summary.awaited else f"cases: {splits}"
    print(f"{args.store}: {done}; {rest}")
    for line in said:
        print(line)
    if summary.report:
        print("\n".join(summary.report.lines()))
    return int(bool(summary.skipped or (summary.report and summary.report.is_without_objects)))


def _check(args: argparse.Namespace) -> int:
    """Verify a store without the raw data at hand."""
    if not args.check:
        raise UserError(f"{args.store}: give the raw folders before the store, or --check to verify a store")
    why = "is of raw folders, which --check without them does not read; name them before the store, or leave it out"
    refuse_unused(args, add_arguments, OF_RAW, why)
    damages = check_store(args.store, lambda folders: tqdm(folders, desc="check", unit="case"))
    for damage in damages:
        print(f"damaged {damage.case or args.store}: {damage.reason}", file=sys.stderr)
    if damages:
        print(f"{args.store}: {len(damages)} damaged; `medpretrain3d prepare RAW {args.store}` makes them again")
    else:
        print(f"{args.store}: {len(Store(args.store))} cases, all as they were written")
    return int(bool(damages))


def _tell_again(again: Mapping[str, str]) -> None:
    cases_of: dict[str, list[str]] = {}
    for case_id, reason in again.items():
        cases_of.setdefault(reason, []).append(case_id)
    for reason, case_ids in cases_of.items():
        message = ", ".join(case_ids[:3]) + (" ..." if len(case_ids) > 3 else "")
        print(f"made again: {message} ({len(case_ids)}): {reason}")


def _tell_time(seconds: Mapping[str, float], total_s: float, workers: int) -> None:
    """Say how long cases took, and which took longest: the slowest hundredth, at least one."""
    if not seconds:
        return
    slowest = sorted(seconds, key=lambda case_id: -seconds[case_id])[: -(-len(seconds) // 100)]
    shown = ", ".join(f"{case_id} {seconds[case_id]:.1f} s" for case_id in slowest[:3])
    middle = sorted(seconds.values())[len(seconds) // 2]
    print(
        f"time: {total_s:.1f} s for {len(seconds)} cases by {workers} worker{'s' if workers > 1 else ''}, "
        f"{len(seconds) / max(total_s, 1e-3):.2f} cases/s; median {middle:.1f} s; slowest 1 % ({len(slowest)}): {shown}"
        f"{' ...' if len(slowest) > 3 else ''}"
    )


def _spacing_mm(args: argparse.Namespace) -> tuple[float, float, float] | None:
    if args.plan:
        from medpretrain3d.planning import read_plan  # brings torch, for which no other call needs to wait

        return read_plan(args.plan).spacing_mm
    return tuple(args.spacing_mm) if args.spacing_mm else None


def _patients(args: argparse.Namespace) -> Patients | None:
    if args.patient_column and not args.patients:
        raise UserError(f"--patient-column {args.patient_column} is of a table; name it with --patients FILE.csv")
    if args.patients:
        return PatientTable(args.patients, *([args.patient_column] if args.patient_column else []))
    return None if args.patient_pattern is None else PatientPattern(args.patient_pattern)


def _said_of(place: Path) -> list[str]:
    """Deal out folds where there is nothing held out; return what to say of a store that is complete."""
    dealt = _deal_out_folds(Store(place))
    store = Store(place)
    return [*dealt, *(f"note: {note}" for note in (*every_split_note(store), *speck_notes(store)))]


def _deal_out_folds(store: Store) -> list[str]:
    """Deal out folds of a labelled store whose data set names neither folds nor validation cases; say so."""
    splits = store.all_splits
    if not store.classes or splits.folds or splits.named.get("val"):
        return []
    patients = {store.entries[case_id]["patient"] or case_id for case_id in splits.named["train"]}
    if len(patients) < NUM_FOLDS:
        return []
    split_store(store)
    return [f"{store.place}: {NUM_FOLDS} folds, see `medpretrain3d split`"]


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--option {text!r}: wanted NAME=VALUE, as min_readers=3")
    return name, value


def _shard(text: str | tuple[int, int]) -> tuple[int, int]:
    if not isinstance(text, str):
        return text  # jsonargparse looks at what it has read once more
    number, slash, count = text.partition("/")
    if not (slash and number.isdigit() and count.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r}: wanted i/n, as 1/4")
    return int(number), int(count)

"""Test whether two prediction files differ by more than the choice of patients: B - A, paired by patient.

Two files are one run each. Whether a method is better takes several seeds of each: `medpretrain3d report`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from medpretrain3d.atomic import locked, write_text
from medpretrain3d.commands.evaluate import add_resampling_arguments
from medpretrain3d.commands.prediction_options import add_prediction_arguments, read_found, read_wanted
from medpretrain3d.commands.protocols import hit_criterion
from medpretrain3d.documents import json_text
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import compare, pair
from medpretrain3d.evaluation.protocols import CENTER, PROTOCOLS, protocol_of
from medpretrain3d.evaluation.tables import notes, num_patients, units
from medpretrain3d.lines import counted_scans, shown_p
from medpretrain3d.statistics import MIN_PATIENTS
from medpretrain3d.statistics.sign_flip import MAX_EXACT
from medpretrain3d.study.table import Estimate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Two sets of predictions and what they looked for."""
    parser.add_argument(
        "a", type=Path, help="predictions, the reference: JSON, or as `evaluate` reads those of other programs"
    )
    parser.add_argument("b", type=Path, help="predictions of the same scans, the challenger")
    parser.add_argument("--targets", type=Path, required=True, help="JSON file with what was to be found")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        help="overlap of boxes, or distance of centres (default: centre where any object is a point, else detection)",
    )
    parser.add_argument("--hit", help="centre: radius, box, or a distance in mm (default: radius)")
    add_resampling_arguments(parser)
    add_prediction_arguments(parser)


def lock(args: argparse.Namespace) -> AbstractContextManager[None]:
    """Return one call writes the file at a time."""
    return locked(args.output) if args.output else nullcontext()


def run(args: argparse.Namespace) -> int:
    """Compare, write, print."""
    targets = read_wanted(args.targets, [args.a, args.b], args)
    a, b = (read_found(path, targets, args) for path in (args.a, args.b))
    protocol = PROTOCOLS[args.protocol] if args.protocol else protocol_of(targets.cases)
    if args.hit is not None and protocol is not CENTER:
        raise UserError(f"--hit {args.hit} is of protocol centre; these are boxes: give --protocol centre, or no --hit")
    result = compare(
        pair(a, targets),
        pair(b, targets),
        targets.cases,
        targets.classes,
        num_bootstrap=args.bootstrap,
        seed=args.seed,
        confidence=args.confidence,
        protocol=protocol.name,
        criterion=hit_criterion(args.hit or "radius", targets),
    )
    said = [f"{name}: {note}" for name, one in (("A", a), ("B", b)) for note in one.notes]
    result["notes"] = [*said, *result["notes"]]
    if args.output is not None:
        write_text(args.output, json_text(result, indent=1))
    print(table(result))
    if args.output is not None:
        print(f"all numbers: {args.output}")
    return 0


def table(result: Mapping[str, Any]) -> str:
    """Return one line per metric: A, B, B - A with its interval, p alone and corrected for all lines."""
    width = max(len(name) for name in result["differences"])
    number, of = num_patients(result), units(result)
    exact = "all" if number <= MAX_EXACT else str(result["num_bootstrap"])
    few = "" if number >= MIN_PATIENTS else f", none with fewer than {MIN_PATIENTS} {of}"
    how = f"by the distance of centres, hit by {result['criterion']}; " if "criterion" in result else ""
    lines = [
        f"{how}{counted_scans(result['num_cases'], number)}; {result['confidence']:.0%} intervals over {of}{few}; "
        f"two-sided p from {exact} sign flips of {of}, and corrected for all {len(result['differences'])} lines (Holm)",
        f"{'':<{width}}  {'A':>6}  {'B':>6}  {'B - A':<24}  {'p':<6}  corrected",
    ]
    for name, row in result["differences"].items():
        low, high = row["interval"]
        difference = str(Estimate(row["difference"], low, high, is_signed=True))
        p_values = f"{shown_p(row['p_value']):<6}  {shown_p(row['p_corrected'])}"
        lines.append(f"{name:<{width}}  {row['a']:>6.3f}  {row['b']:>6.3f}  {difference:<24}  {p_values}")
    return "\n".join([*lines, *notes(result)])

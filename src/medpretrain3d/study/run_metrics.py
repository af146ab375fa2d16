"""`test/metrics.json` of a run, checked: what `evaluate` wrote and a report computes with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NotRequired

from pydantic import with_config
from typing_extensions import TypedDict

from medpretrain3d.documents import LARGE, SCHEMA, Number, Text, Whole, checked, read_json
from medpretrain3d.errors import UserError

ADVICE = "not readable JSON of a run, repeat the run or take its folder away"
_Value = float | None  # NaN, too, where nothing was measured


@with_config(SCHEMA)
class _CaseScore(TypedDict):
    case: Text | int
    score: NotRequired[_Value]


@with_config(SCHEMA)
class _Error(TypedDict):
    num: Whole
    gain: _Value


_Stratum = TypedDict(
    "_Stratum",
    {"from_mm": Number, "to_mm": Number | None, "num_targets": Whole, "recall_IoU_0.10": _Value},
)


@with_config(SCHEMA)
class _LeftOut(TypedDict):
    value: _Value
    without: list[_Value]


@with_config(SCHEMA)
class _Metrics(TypedDict):
    """Schema of the `test/metrics.json` fields that a report computes with."""

    num_cases: NotRequired[Whole]
    num_patients: NotRequired[Whole]
    confidence: NotRequired[Number]
    per_case: NotRequired[list[_CaseScore]]
    intervals: NotRequired[dict[str, list[_Value] | list[list[_Value]] | None]]
    precision_recall: NotRequired[dict[str, list[_Value] | dict[str, list[list[_Value]]]]]
    error_analysis: NotRequired[dict[str, _Value | _Error]]
    size_strata: NotRequired[list[_Stratum]]
    left_out: NotRequired[dict[str, _LeftOut]]
    trivial_baselines: NotRequired[dict[str, dict[str, _Value | dict[str, list[_Value]]]]]


def read_metrics(path: Path) -> dict[str, Any]:
    """Return the numbers of a test.

    Raises:
        UserError: the file is damaged, or an interval in it is none.
    """
    metrics: Any = read_json(path, _Metrics, ADVICE, LARGE, allow_nan=True)
    numbers = {key: metrics.get(key) for key in metrics.get("intervals", {})}
    checked(numbers, dict[str, float | list[_Value] | None], str(path), ADVICE)
    wrong = [
        key
        for key, pair in metrics.get("intervals", {}).items()
        if pair is not None and not _is_interval(pair, numbers[key])
    ]
    if wrong:
        raise UserError(f"{path}: the interval of {wrong[0]} is not two numbers; {ADVICE}")
    return dict(metrics)


def _is_interval(pair: list[Any], value: Any) -> bool:
    """Return low and high of a number, or of each of several."""
    if isinstance(value, list) and value:
        return len(pair) == len(value) and all(isinstance(one, list) and len(one) == 2 for one in pair)
    return len(pair) == 2 and not any(isinstance(one, list) for one in pair)

"""Operating points: what a detector scored in scans that it was not trained on, from which thresholds are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired

import numpy as np
from pydantic import Field, with_config
from typing_extensions import TypedDict

from medpretrain3d.documents import SCHEMA, Number, Text, Whole, checked
from medpretrain3d.errors import UserError
from medpretrain3d.inference.written_scores import narrowed, read, written

MAX_RATE = 16.0
"""False positives per scan up to which a threshold can be asked for; lower scores are not kept."""
_Scores = list[Annotated[Number, Field(ge=0, le=1)]]


@with_config(SCHEMA)
class ClassScores(TypedDict):
    """Scores of one class, the highest first: of detections that hit an object, and of false positives."""

    num_targets: Whole
    hits: _Scores
    false_positives: _Scores


@with_config(SCHEMA)
class OperatingPointsDocument(TypedDict):
    """Operating points as a bundle has them: `iou` is the least overlap of a hit, `criterion` the rule for points."""

    scans: Text
    num_scans: Annotated[Whole, Field(ge=1)]
    iou: NotRequired[Number]
    criterion: NotRequired[Text]
    classes: dict[str, ClassScores]
    positive_scans: _Scores
    negative_scans: _Scores


@dataclass(frozen=True)
class Threshold:
    """A threshold, and what it gave in the scans that it was read from."""

    score: float
    sensitivity: float
    """nan without objects."""
    false_positives_per_scan: float


@dataclass(frozen=True)
class OperatingPoints:
    """Scores of a detector in validation scans.

    Args:
        document: plain data, see `OperatingPointsDocument`; `scans` says which they are, `positive_scans` and
            `negative_scans` have the highest score of each scan with objects and without.

    Example:
        >>> from medpretrain3d.inference.operating_points import OperatingPoints
        >>> scores = {"num_targets": 2, "hits": [0.9, 0.3], "false_positives": [0.8, 0.5, 0.4, 0.2]}
        >>> document = {"scans": "validation", "num_scans": 2, "iou": 0.1, "classes": {"nodule": scores}}
        >>> points = OperatingPoints({**document, "positive_scans": [0.9, 0.3], "negative_scans": []})
        >>> points.at_rate(1.0)  # two false positives in two scans
        Threshold(score=0.4..., sensitivity=0.5, false_positives_per_scan=1.0)
    """

    document: OperatingPointsDocument

    @staticmethod
    def from_json(document: object) -> OperatingPoints:
        """Check plain data.

        Raises:
            UserError: something is missing, or of another type.
        """
        return OperatingPoints(checked(document, OperatingPointsDocument, "operating_points", "make the file again"))

    @property
    def num_scans(self) -> int:
        """Of validation."""
        return self.document["num_scans"]

    def at_rate(self, rate: float, name: str | None = None) -> Threshold:
        """Return the lowest threshold with at most so many false positives per scan.

        Args:
            rate: false positives per scan.
            name: of the class whose detections are meant; None for those of all classes.

        Raises:
            UserError: a rate beyond `MAX_RATE`, or an unknown class.
        """
        if not 0 <= rate <= MAX_RATE:
            raise UserError(f"{rate:g} false positives per scan: wanted 0 to {MAX_RATE:g}")
        classes = self.document["classes"]
        if name is not None and name not in classes:
            raise UserError(f"operating points of class '{name}': known are {', '.join(classes)}")
        chosen = list(classes.values()) if name is None else [classes[name]]
        false = -np.sort(-np.concatenate([read(one["false_positives"]) for one in chosen]))
        hits = np.concatenate([read(one["hits"]) for one in chosen])
        dtype = np.result_type(false, hits)
        false, hits = false.astype(dtype), hits.astype(dtype)
        num_allowed = int(np.floor(rate * self.num_scans + 1e-9))
        # Just above the first false positive that is one too many; detections are kept from the threshold on.
        score = float(np.nextafter(false[num_allowed], dtype.type(2))) if num_allowed < len(false) else 0.0
        num_targets = sum(one["num_targets"] for one in chosen)
        sensitivity = float((hits >= score).sum()) / num_targets if num_targets else float("nan")
        return Threshold(score, sensitivity, float((false >= score).sum()) / self.num_scans)

    def case_threshold(self) -> float | None:
        """Return the score from which a scan is called positive: where sensitivity + specificity is highest (Youden,
        1950), of equal ones the highest; None where the scans are of one kind."""
        positive, negative = read(self.document["positive_scans"]), read(self.document["negative_scans"])
        if not len(positive) or not len(negative):
            return None
        scores = np.unique(np.concatenate([positive, negative]))[::-1]
        found = (positive[None] >= scores[:, None]).mean(axis=1) - (negative[None] >= scores[:, None]).mean(axis=1)
        return float(scores[int(found.argmax())])


def operating_points_document(
    scans: str,
    num_scans: int,
    hit_rule: Mapping[str, Any],
    classes: Mapping[str, ClassScores],
    by_scan: Sequence[tuple[float, bool]],
) -> dict[str, Any]:
    """Return operating points as plain data, without what no threshold needs.

    Args:
        scans: which they are of: `validation`, `out of fold`.
        num_scans: how many.
        hit_rule: what decides a hit, `iou` or `criterion`.
        classes: scores in any order.
        by_scan: highest score of each scan, and whether it has objects.
    """
    limit = int(MAX_RATE * num_scans) + 1

    def falling(scores: Sequence[float]) -> list[float]:
        return written(narrowed(np.array(sorted(scores, reverse=True), dtype=np.float64)))

    return {
        "scans": scans,
        "num_scans": num_scans,
        **hit_rule,
        "classes": {
            name: {
                "num_targets": one["num_targets"],
                "hits": falling(one["hits"]),
                "false_positives": falling(one["false_positives"])[:limit],
            }
            for name, one in classes.items()
        },
        "positive_scans": falling([score for score, is_positive in by_scan if is_positive]),
        "negative_scans": falling([score for score, is_positive in by_scan if not is_positive]),
    }

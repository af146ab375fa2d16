from __future__ import annotations

import numpy as np
import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import PredictedCase, TargetCase, evaluate
from medpretrain3d.evaluation.center_distance import center
from medpretrain3d.evaluation.named_metrics import METRICS, metric_named, without_each

CLASSES = ("a", "b")


def data_set(num_scans: int = 12) -> tuple[list[PredictedCase], list[TargetCase]]:
    """Two objects a scan, one of each class; a box near each, some off by much, and false ones."""
    generator = np.random.default_rng(0)
    found, wanted = [], []
    for number in range(num_scans):
        low = generator.uniform(0, 40, (2, 3))
        boxes = np.concatenate([low, low + 10], axis=1)
        moved = boxes + generator.choice([0.0, 1.0, 3.0, 8.0], (2, 1)) * np.array([1, 0, 0, 1, 0, 0])
        false = np.concatenate([low[:1] + 60, low[:1] + 70], axis=1)
        scores = generator.uniform(0, 1, 3)
        found.append(PredictedCase(f"{number}", np.concatenate([moved, false]), scores, np.array([0, 1, 0])))
        wanted.append(TargetCase(f"{number}", boxes, np.array([0, 1])))
    return found, wanted


def test_values_and_intervals_are_those_of_the_protocols():
    found, wanted = data_set()
    ours = without_each(list(METRICS.values()), found, wanted, CLASSES)
    theirs, by_center = evaluate(found, wanted, CLASSES), center(found, wanted, CLASSES)
    for name, metric in METRICS.items():
        result, key = (
            (theirs, metric.key) if metric.key else (by_center, {"CPM": "FROC_score", "AP_center": "AP"}[name])
        )
        assert ours[name].value == pytest.approx(result[key], abs=1e-6), name
        assert ours[name].interval() == pytest.approx(result["intervals"][key], abs=1e-6), name
    assert len({round(one.value, 6) for one in ours.values()}) > 6  # they are not all alike


def test_what_is_left_out_is_one_scan():
    found, wanted = data_set()
    whole = without_each([METRICS["AP50"]], found, wanted, CLASSES)["AP50"]
    fewer = without_each([METRICS["AP50"]], found[1:], wanted[1:], CLASSES)["AP50"]
    assert whole.without.shape == (12,)
    assert whole.without[0] == pytest.approx(fewer.value)


def test_only_what_is_asked_for_is_given():
    found, wanted = data_set()
    assert set(without_each([METRICS["CPM"], METRICS["mAP"]], found, wanted, CLASSES)) == {"CPM", "mAP"}
    assert set(without_each([METRICS["AP_center"]], found, wanted, CLASSES)) == {"AP_center"}


@pytest.mark.parametrize(("name", "nearest"), [("map", "mAP"), ("cpm", "CPM"), ("APcenter", "AP_center")])
def test_an_unknown_name_is_answered_with_the_nearest(name: str, nearest: str):
    with pytest.raises(UserError, match=f"got '{name}', wanted a metric: mAP, .* did you mean '{nearest}'"):
        metric_named(name)

from __future__ import annotations

import numpy as np
import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import TargetCase
from medpretrain3d.evaluation.bootstrap import Resampling
from medpretrain3d.evaluation.detection import MAP_KEY
from medpretrain3d.evaluation.trivial_baselines import position_prior, random_boxes, trivial_baselines
from medpretrain3d.store.grid import Grid

ORGAN = [10.0, 10, 10, 20, 20, 20]


def scan(name: str, boxes: list[list[float]], labels: list[int] | None = None) -> TargetCase:
    return TargetCase(name, np.array(boxes, float).reshape(-1, 6), np.array(labels or [0] * len(boxes), dtype=int))


def test_an_organ_that_lies_always_there_is_found_by_the_prior_alone():
    train = [scan(str(i), [ORGAN]) for i in range(5)]
    test = [scan(f"t{i}", [ORGAN]) for i in range(12)]
    numbers = trivial_baselines(train, test, ["organ"], Resampling())
    assert numbers["position prior"][MAP_KEY] == pytest.approx(1)
    assert numbers["position prior"]["intervals"][MAP_KEY] == pytest.approx([0.735, 1], abs=1e-3)
    elsewhere = [scan(f"t{i}", [[50 + i, 50, 50, 60 + i, 60, 60]]) for i in range(12)]
    assert trivial_baselines(train, elsewhere, ["organ"], Resampling(0))["position prior"][MAP_KEY] == 0


def test_boxes_are_chosen_by_what_they_add():
    far = [80.0, 80, 80, 90, 90, 90]
    train = [scan("a", [ORGAN, far]), scan("b", [ORGAN]), scan("c", [[11.0, 10, 10, 21, 20, 20]]), scan("d", [])]
    (found,) = position_prior(train, [scan("t", [])])
    assert found.boxes[0].tolist() == ORGAN
    # Of four scans three hold it; the shifted one (IoU 9/11) passes all thresholds, too, and adds nothing.
    assert found.scores.tolist() == [0.75, 0.25]
    assert found.boxes[1].tolist() == far


def test_each_class_has_its_places():
    train = [scan("a", [ORGAN, [40.0, 40, 40, 50, 50, 50]], [0, 1])]
    (found,) = position_prior(train, [scan("t", [])])
    assert found.labels.tolist() == [0, 1]
    (drawn,) = random_boxes(train, [scan("t", [])])
    assert set(drawn.labels.tolist()) == {0, 1}
    assert len(drawn.scores) == 100


def on_grid(name: str, flip: bool, spacing: float, shape: tuple[int, int, int] = (40, 40, 40)) -> TargetCase:
    """An object in the same anatomical place of a scan, whose file runs the other way along its first axis."""
    affine = np.diag([spacing, spacing, spacing, 1.0])
    box = np.array([[0.25, 0.5, 0.5, 0.5, 0.75, 0.75]]) * np.array([*shape, *shape])
    if flip:
        affine[0, 0], affine[0, 3] = -spacing, spacing * (shape[0] - 1)
        box = np.array([[shape[0] - box[0, 3], *box[0, 1:3], shape[0] - box[0, 0], *box[0, 4:]]])
    grid = Grid(shape, affine)
    return TargetCase(name, grid.boxes_to_lps_mm(box), np.array([0]), None, grid, box)


def test_places_are_shares_of_the_scan_along_anatomical_axes():
    train = [on_grid("a", False, 1.0), on_grid("b", True, 2.0, (20, 30, 50))]
    test = [on_grid(f"t{i}", bool(i % 2), 0.5 + i, (16 + 4 * i, 20, 24)) for i in range(4)]
    assert trivial_baselines(train, test, ["a"], Resampling(0))["position prior"][MAP_KEY] == pytest.approx(1)
    for case, found in zip(test, random_boxes(train, test), strict=True):
        assert found.boxes_vox is not None
        assert (found.boxes_vox >= -1e-6).all()
        assert (found.boxes_vox[:, 3:] <= np.array(case.grid.shape) + 1e-6).all()


def test_random_boxes_are_the_same_every_time_and_find_little():
    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 200, (40, 3))
    cases = [scan(str(i), [[*corner, *(corner + 8)]]) for i, corner in enumerate(corners)]
    first, again = (random_boxes(cases[:20], cases[20:]) for _ in range(2))
    assert all((a.boxes == b.boxes).all() for a, b in zip(first, again, strict=True))
    assert trivial_baselines(cases[:20], cases[20:], ["a"], Resampling(0))["random boxes"][MAP_KEY] < 0.05


def test_no_training_box_is_refused():
    with pytest.raises(UserError, match="hold no box"):
        position_prior([scan("a", [])], [scan("t", [])])

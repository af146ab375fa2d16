"""Crops around false positives of an earlier detector."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medpretrain3d.boxes import Detections
from medpretrain3d.errors import UserError
from medpretrain3d.loading.crops import CropReader
from medpretrain3d.loading.hard_negatives import HardNegatives
from medpretrain3d.loading.object_crops import ObjectCrops
from medpretrain3d.loading.sampling import CaseOrder, CropSampler
from medpretrain3d.store.case import CaseData, Instance, write_case
from medpretrain3d.store.corpus import Corpus
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.intensity import Window
from medpretrain3d.store.store import write_index

SHAPE, PATCH = (24, 24, 24), (8, 8, 8)
OBJECT, IGNORED = (1.0, 1, 1, 5, 5, 5), (18.0, 0, 0, 24, 6, 6)
FALSE = (16.0, 16, 16, 19, 19, 19)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Four cases, each voxel of which tells its place, with an object and a region to ignore."""
    store = tmp_path_factory.mktemp("stores") / "store"
    grid, rows = Grid(SHAPE, np.eye(4)), []
    place = np.arange(24**3, dtype=np.int16).reshape(1, *SHAPE)
    for name in "abcd":
        one = CaseData(name, place, grid, grid, name, [Instance(0, 0, OBJECT)], ignore_boxes=[IGNORED])
        rows.append(write_case(store, one))
    write_index(store, ["x"], (1.0, 1.0, 1.0), rows, {})
    return Corpus([store]).cases("all")


def found(*boxes, scores=None):
    return Detections(
        torch.tensor(boxes, dtype=torch.float64).reshape(-1, 6),
        torch.tensor(scores or [0.5] * len(boxes), dtype=torch.float64),
        torch.zeros(len(boxes), dtype=torch.long),
    )


def crops_of(cases, hard_negatives, seed=0, object_share=0.5):
    reader = CropReader(PATCH, Window(0, 24**3), crop_sampler=CropSampler(object_share))
    return ObjectCrops(CaseOrder(cases, seed), reader, hard_negatives=hard_negatives)


def start_of(image):
    """The crop's lowest corner, which its first voxel tells."""
    return np.array(np.unravel_index(round((float(image[0, 0, 0, 0]) + 1) / 2 * 24**3), SHAPE))


def test_candidates_that_touch_an_annotation_or_are_in_no_training_case_are_left_out_and_counted(cases):
    candidates = {
        "a": found(OBJECT, (5, 5, 5, 7, 7, 7), FALSE),  # the second shares one corner with the object
        "b": found((20, 2, 2, 21, 3, 3)),  # in the region to ignore
        "c": found(FALSE, (10, 10, 10, 12, 12, 12)),
        "d": found(FALSE, FALSE),
        "elsewhere": found(FALSE),
    }
    negatives = HardNegatives.among(candidates, cases[:3], share=0.5)
    assert [ref.case_id for ref in negatives.cases] == ["a", "c", "c"]
    assert negatives.boxes[:2].tolist() == [list(FALSE)] * 2
    assert str(negatives) == (
        "3 hard negatives in 2 of 3 training cases; left out: 3 candidates that touch an annotated object or a region "
        "to ignore, 3 in no training case"
    )
    with pytest.raises(UserError, match=r"data.hard_negatives: 0 hard negatives in 0 of 1 training cases; left out: 1"):
        HardNegatives.among({"b": candidates["b"]}, cases[1:2], share=0.5)


def test_a_candidate_that_hits_a_point_is_no_hard_negative_however_small_it_is(tmp_path):
    grid, point = Grid(SHAPE, np.diag([2.0, 1, 1, 1])), (10.0, 10, 10, 10, 10, 10)
    one = CaseData("a", np.zeros((1, *SHAPE), np.int16), grid, grid, "a", [Instance(0, 0, point)])
    write_index(tmp_path / "store", ["x"], (2.0, 1.0, 1.0), [write_case(tmp_path / "store", one)], {})
    # 4 and 6 mm along an axis of 2 mm, 4 and 6 mm along one of 1 mm: a hit is within 5 mm.
    middles = np.array([(12.0, 10, 10), (13, 10, 10), (10, 14, 10), (10, 10, 16)])
    small = np.concatenate([middles - 0.25, middles + 0.25], axis=1)
    negatives = HardNegatives.among({"a": found(*small.tolist())}, Corpus([tmp_path / "store"]).cases("all"), share=0.5)
    assert negatives.boxes.tolist() == small[[1, 3]].tolist()
    assert negatives.num_touching == 2


def test_a_false_positive_is_drawn_with_a_chance_in_proportion_to_its_score(cases):
    other = (10.0, 10, 10, 12, 12, 12)
    negatives = HardNegatives.among({"a": found(FALSE, other, scores=[0.6, 0.2])}, cases, share=1.0)
    random = np.random.default_rng(0)
    drawn = [tuple(negatives.draw(random)[1]) for _ in range(2000)]
    assert drawn.count(FALSE) / 2000 == pytest.approx(0.75, abs=0.03)
    silent = HardNegatives.among({"a": found(FALSE, other, scores=[0.0, 0.0])}, cases, share=1.0)
    assert {tuple(silent.draw(random)[1]) for _ in range(50)} == {FALSE, other}


def test_a_share_of_the_crops_that_would_be_anywhere_is_on_false_positives_and_no_other_moves(cases):
    plain = crops_of(cases, None)
    crops = crops_of(cases, HardNegatives.among({"c": found(FALSE)}, cases, share=0.4))
    again = crops_of(cases, HardNegatives.among({"c": found(FALSE)}, cases, share=0.4))
    middle, num_moved = np.array(FALSE).reshape(2, 3).mean(axis=0), 0
    for position in range(200):
        image, targets = crops[position]
        assert torch.equal(image, again[position][0])  # a function of seed and position
        before, before_targets = plain[position]
        is_on_object = plain.reader.crop_sampler.choose(_random(position)) == "object"
        if is_on_object:
            assert torch.equal(image, before)
            assert torch.equal(targets.boxes, before_targets.boxes)
        elif _random_after_choice(position) < 0.4:
            num_moved += 1
            # The middle of the crop is at most a quarter of it from a point of the box, or at the volume's end.
            assert (np.abs(start_of(image) + 4 - middle) <= 1.5 + 2 + 1).all()
    assert num_moved == pytest.approx(200 * 0.5 * 0.4, abs=15)


def _random(position):
    from medpretrain3d.loading.batches import generator_at

    return generator_at(0, position)


def _random_after_choice(position):
    random = _random(position)
    random.random()
    return random.random()

"""Merging by the distance of centers: over tiles, mirrored views and models, whatever boxes stand for the points."""

from __future__ import annotations

import pytest
import torch

from medpretrain3d.boxes import Detections, Targets, box_center
from medpretrain3d.detection import Detector
from medpretrain3d.errors import UserError
from medpretrain3d.inference import InferenceConfig, RawDetections, detect_volume, merge_raw_detections
from medpretrain3d.inference.cached_detections import CachedCase
from medpretrain3d.inference.sweep import sweep

PATCH, SHAPE = (16, 16, 16), (16, 24, 40)
POINTS = torch.tensor([[3.0, 4, 5], [8, 12, 16], [8, 12, 22], [0.5, 23.5, 39.5], [15, 2, 31]])


class SeesPoints(Detector):
    """Finds bright voxels, as cubes of 6 voxels about their middle, that reach over its tile; scores differ by tile."""

    num_classes = 1

    def detect(self, image):
        found = []
        for one in image:
            centers = torch.nonzero(one[0] > 0.5) + 0.5
            scores = one[0][one[0] > 0.5]
            found.append(Detections(torch.cat([centers - 3, centers + 3], 1), scores, torch.zeros(len(centers)).long()))
        return found


def volume():
    image = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0)) * 0.4
    for row, (d, h, w) in enumerate(POINTS.floor().int().tolist()):
        image[0, d, h, w] = 0.6 + 0.05 * row
    return image


@pytest.mark.parametrize("mirror_axes", [(), (0, 1, 2)])
def test_every_point_is_found_once_over_tiles_and_views_at_its_place(mirror_axes):
    config = InferenceConfig(merge="distance", merge_distance_mm=4.0, mirror_axes=mirror_axes)
    found = detect_volume(SeesPoints(), volume(), PATCH, config)
    assert len(found) == len(POINTS)
    centers = box_center(found.boxes)
    voxels = POINTS.floor() + 0.5
    assert torch.cdist(centers, voxels).amin(dim=1).max() < 1e-4  # at the faces of the scan too
    assert found.scores.tolist() == pytest.approx([0.8, 0.75, 0.7, 0.65, 0.6])
    assert (found.boxes >= 0).all()
    assert (found.boxes <= torch.tensor([*SHAPE, *SHAPE])).all()


def seen(centers, scores, size=4.0):
    centers = torch.tensor(centers)
    boxes = torch.cat([centers - size / 2, centers + size / 2], dim=1)
    found = Detections(boxes, torch.tensor(scores), torch.zeros(len(scores), dtype=torch.long))
    return RawDetections.in_tile(found, (0, 0, 0), (64, 64, 64), (64, 64, 64), keeps_centers=True)


def test_points_of_several_models_are_one_within_the_distance_in_mm():
    # 4 voxels of 1 mm and 3 of 2 mm: the second model's points are those of the first, once in 4 mm and once not.
    models = [seen([[20.0, 20, 20], [40, 40, 40]], [0.9, 0.5]), seen([[20.0, 20, 24], [43, 40, 40]], [0.8, 0.6])]
    config = InferenceConfig(merge="distance", merge_distance_mm=4.0, border_weight=1.0)
    found = merge_raw_detections(RawDetections.cat(models), config, spacing_mm=(2.0, 1.0, 1.0))
    assert box_center(found.boxes).tolist() == [[20, 20, 20], [43, 40, 40], [40, 40, 40]]
    assert found.scores.tolist() == pytest.approx([0.9, 0.6, 0.5])


def test_extents_decide_nothing_and_all_that_is_above_the_threshold_comes_in_order():
    parts = [seen([[20.0, 20, 20]], [0.3], size=1.0), seen([[20.0, 20, 22]], [0.4], size=30.0)]
    for options, count in (
        ({"merge_distance_mm": 1.9}, 2),
        ({"merge_distance_mm": 2.0}, 1),
        ({"score_threshold": 0.5}, 0),
    ):
        config = InferenceConfig(merge="distance", **options)
        assert len(merge_raw_detections(RawDetections.cat(parts), config)) == count


def test_a_sweep_tries_distances():
    case = CachedCase(
        "a",
        (1.0, 1.0, 1.0),
        seen([[20.0, 20, 20], [20, 20, 23]], [0.9, 0.8]),
        Targets(torch.tensor([[20.0, 20, 20, 20, 20, 20], [20, 20, 23, 20, 20, 23]]), torch.tensor([0, 0])),
    )
    trials = sweep([case], InferenceConfig(merge="distance"), lambda found, _: len(found[0]))
    assert {trial.config.merge for trial in trials} == {"distance"}
    assert max(trial.score for trial in trials) == 2
    assert all((trial.score == 2) == (trial.config.merge_distance_mm < 3) for trial in trials)


def test_a_distance_is_above_0():
    with pytest.raises(UserError, match="merge_distance_mm"):
        InferenceConfig(merge="distance", merge_distance_mm=0.0)
    assert InferenceConfig.from_json({"merge": "distance", "merge_distance_mm": 3}).merge_distance_mm == 3

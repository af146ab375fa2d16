"""Merging by the distance of centers: over tiles, mirrored views and models, whatever boxes stand for the points."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medpretrain3d.boxes import Detections, Targets, box_center
from medpretrain3d.detection import Detector
from medpretrain3d.errors import UserError
from medpretrain3d.inference import (
    Bundle,
    InferenceConfig,
    Prediction,
    Predictor,
    RawDetections,
    detect_volume,
    merge_raw_detections,
)
from medpretrain3d.inference.cached_detections import CachedCase
from medpretrain3d.inference.sweep import sweep
from medpretrain3d.inference.writers.overlay import box_map
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.preprocessing import Preprocessing
from medpretrain3d.store.volume import Volume

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


class SaysPoints(SeesPoints):
    """The same as boxes without extent."""

    def detect(self, image):
        return [Detections(box_center(one.boxes).repeat(1, 2), one.scores, one.labels) for one in super().detect(image)]


@pytest.mark.parametrize("detector", [SeesPoints(), SaysPoints()])
def test_every_point_of_a_resampled_scan_reaches_its_prediction_at_its_place(detector):
    # The volume of 3 mm reaches 2 mm beyond the scan along D, whose last slice alone lies in its last one.
    source = Grid((46, 24, 40), np.diag([1.0, 3, 3, 1])[[2, 1, 0, 3]])
    grid = source.resampled((3.0, 3.0, 3.0))
    assert grid.shape == SHAPE
    image = volume()
    image[0, 15, 20, 10] = 0.95
    config = InferenceConfig(merge="distance", merge_distance_mm=4.0)
    found = detect_volume(detector, image, PATCH, config)
    assert len(found) == len(POINTS) + 1
    result = Prediction.of("a", found, grid, source, keeps_centers=config.keeps_centers)
    centers = box_center(grid.map_boxes(found.boxes.double().numpy(), source))
    assert (centers[:, 0] > 46).sum() == 2  # in the middle of voxels that the scan ends in
    np.testing.assert_allclose(box_center(result.boxes_vox), np.minimum(centers, [45.99, 24, 40]), atol=1e-3)
    assert result.scores.tolist() == found.scores.tolist()
    assert (np.array([box_map(result)[tuple(box_center(box).astype(int))] for box in result.boxes_vox]) == 1).all()


def test_a_predicted_point_at_the_end_of_a_scan_is_in_its_prediction():
    source = Grid((46, 24, 40), np.diag([1.0, 3, 3, 1])[[2, 1, 0, 3]])
    hu = np.zeros((1, *source.shape), dtype=np.int16)
    hu[0, 43:, 20, 10] = hu[0, 18:21, 4, 4] = 1000
    bundle = Bundle(
        SaysPoints(), ("a",), Preprocessing(spacing_mm=(3.0, 3.0, 3.0), patch=PATCH), InferenceConfig(), {}, ""
    )
    changes = {"merge": "distance", "merge_distance_mm": 4.0}
    result = Predictor(bundle, device="cpu", changes=changes).predict(Volume(hu, source, source), "a")
    np.testing.assert_allclose(sorted(box_center(result.boxes_vox).tolist()), [[19.5, 4.5, 4.5], [45.99, 20.5, 10.5]])


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

"""Detection metrics against MONAI's COCOMetric: matching and counting, from boxes to AP and AR; and against themselves
on a quarter of the scans, as time and memory shall grow with their number and not with its square."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from monai.apps.detection.metrics.coco import COCOMetric
from monai.apps.detection.metrics.matching import matching_batch
from monai.data import box_utils

from benchmarks.timing import Row, race
from medpretrain3d.evaluation import PredictedCase, TargetCase, evaluate
from medpretrain3d.evaluation.data_set import match_data_set
from medpretrain3d.evaluation.detection import AP_IOUS, AR_MAX_DETECTIONS, IOU_THRESHOLDS, coco_metrics

CLASSES = ("a", "b", "c")


def rows() -> Iterator[Row]:
    predictions, targets = _scans(num_scans=100, num_boxes=100, num_objects=10)

    def ours() -> dict[str, np.ndarray]:
        scans = match_data_set(predictions, targets, CLASSES, IOU_THRESHOLDS)
        return coco_metrics(scans, np.ones((1, scans.num_scans)), compat="monai")

    def theirs() -> dict[str, float]:
        metric = COCOMetric(CLASSES, iou_list=AP_IOUS, max_detection=AR_MAX_DETECTIONS, verbose=False)
        matches = matching_batch(
            iou_fn=box_utils.box_iou,
            iou_thresholds=metric.iou_thresholds,
            pred_boxes=[found.boxes for found in predictions],
            pred_classes=[found.labels for found in predictions],
            pred_scores=[found.scores for found in predictions],
            gt_boxes=[wanted.boxes for wanted in targets],
            gt_classes=[wanted.labels for wanted in targets],
        )
        return metric(matches)[0]

    result = ours()
    for key, value in theirs().items():
        # MONAI's mAR is a mean over all IoUs asked for, whatever its name says; ours follows its default list.
        assert "mAR" in key or abs(float(result[key][0]) - value) < 1e-6, key
    yield race("AP and AR, 100 images x 100 boxes x 3 classes", "monai COCOMetric", theirs, ours, rounds=3, bar=10)

    found, wanted = _scans(num_scans=2000, num_boxes=2, num_objects=1)
    quarters = [(found[start::4], wanted[start::4]) for start in range(4)]
    yield race(
        "evaluate, 2,000 scans x 6 boxes",
        "4 times 500 scans",
        lambda: [evaluate(*quarter, CLASSES) for quarter in quarters],
        lambda: evaluate(found, wanted, CLASSES),
        rounds=1,
        bar=0.8,
    )


def _scans(num_scans: int, num_boxes: int, num_objects: int) -> tuple[list[PredictedCase], list[TargetCase]]:
    """Per class and scan `num_objects` objects and `num_boxes` detections, a third of them near an object."""
    random = np.random.default_rng(0)
    predictions, targets = [], []
    for scan in range(num_scans):
        corner = random.uniform(0, 400, (len(CLASSES) * num_objects, 3))
        boxes = np.concatenate([corner, corner + random.uniform(5, 30, corner.shape)], axis=1)
        labels = np.repeat(np.arange(len(CLASSES)), num_objects)
        targets.append(TargetCase(str(scan), boxes, labels))
        of_object = random.integers(0, len(boxes), len(CLASSES) * num_boxes)
        found = boxes[of_object] + random.normal(0, 2, (len(of_object), 6)) * [1, 1, 1, 0, 0, 0]
        found[random.random(len(found)) > 1 / 3] += 500
        found[:, 3:] = np.maximum(found[:, 3:], found[:, :3])
        label = labels[of_object]
        predictions.append(PredictedCase(str(scan), found, random.uniform(0, 1, len(found)), label))
    return predictions, targets

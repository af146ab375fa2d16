"""Scores of detections: AP and mAP, FROC, intervals over patients, paired comparison."""

from medpretrain3d.evaluation.cases import PredictedCase, TargetCase
from medpretrain3d.evaluation.comparison import compare
from medpretrain3d.evaluation.detection import evaluate, mean_average_precision
from medpretrain3d.evaluation.files import PredictionFile, TargetFile, pair, read_predictions, read_targets

__all__ = [
    "PredictedCase",
    "PredictionFile",
    "TargetCase",
    "TargetFile",
    "compare",
    "evaluate",
    "mean_average_precision",
    "pair",
    "read_predictions",
    "read_targets",
]

"""From a scan to boxes: tiles, mirrored views, merging, the detector bundle and what is written out of it."""

from __future__ import annotations

from medpretrain3d.inference.bundle import Bundle, load_bundle, save_bundle
from medpretrain3d.inference.clustering import weighted_box_clustering
from medpretrain3d.inference.config import InferenceConfig
from medpretrain3d.inference.ensemble import load_members, save_ensemble
from medpretrain3d.inference.merging import merge_raw_detections
from medpretrain3d.inference.prediction import Prediction
from medpretrain3d.inference.predictor import Predictor
from medpretrain3d.inference.raw_detections import RawDetections
from medpretrain3d.inference.regions import Regions
from medpretrain3d.inference.rescorer import Rescorer
from medpretrain3d.inference.scan import ScanTiles
from medpretrain3d.inference.sliding_window import detect_tiles, detect_volume
from medpretrain3d.inference.tiles import tile_starts
from medpretrain3d.inference.writers import predictions_json, write_predictions

__all__ = [
    "Bundle",
    "InferenceConfig",
    "Prediction",
    "Predictor",
    "RawDetections",
    "Regions",
    "Rescorer",
    "ScanTiles",
    "detect_tiles",
    "detect_volume",
    "load_bundle",
    "load_members",
    "merge_raw_detections",
    "predictions_json",
    "save_bundle",
    "save_ensemble",
    "tile_starts",
    "weighted_box_clustering",
    "write_predictions",
]

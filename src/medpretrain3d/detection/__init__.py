"""Detectors and the parts they are made of."""

from __future__ import annotations

from medpretrain3d.detection.anchors import AnchorGrid
from medpretrain3d.detection.anchors_search import AnchorChoice, optimise_anchor_sizes
from medpretrain3d.detection.base import Detector
from medpretrain3d.detection.coder import BoxCoder, DistanceCoder
from medpretrain3d.detection.fcos import FCOS
from medpretrain3d.detection.matching import ATSSMatcher, IoUMatcher, Matcher
from medpretrain3d.detection.point_matching import CenterSampling, NearestPoints
from medpretrain3d.detection.retina_unet import RetinaUNet
from medpretrain3d.detection.retinanet import RetinaNet
from medpretrain3d.detection.sampling import ClassificationLoss, FocalLoss, HardNegativeBCE

__all__ = [
    "FCOS",
    "ATSSMatcher",
    "AnchorChoice",
    "AnchorGrid",
    "BoxCoder",
    "CenterSampling",
    "ClassificationLoss",
    "Detector",
    "DistanceCoder",
    "FocalLoss",
    "HardNegativeBCE",
    "IoUMatcher",
    "Matcher",
    "NearestPoints",
    "RetinaNet",
    "RetinaUNet",
    "optimise_anchor_sizes",
]

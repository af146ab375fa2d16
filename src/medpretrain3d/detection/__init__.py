"""Detectors and the parts they are made of."""

from __future__ import annotations

from medpretrain3d.detection.anchors import AnchorGrid
from medpretrain3d.detection.anchors_search import AnchorChoice, optimize_anchor_sizes
from medpretrain3d.detection.auxiliary_queries import ContrastiveDenoising, Denoising, DenoisingQueries, OneToMany
from medpretrain3d.detection.base import Detector
from medpretrain3d.detection.box_grid import BoxGrid
from medpretrain3d.detection.box_losses import BoxLoss, DIoULoss, GIoULoss, L1Loss, RegressionLoss, SmoothL1Loss
from medpretrain3d.detection.classification_losses import ClassificationLoss, FocalLoss, HardNegativeBCE
from medpretrain3d.detection.coder import BoxCoder, DistanceCoder
from medpretrain3d.detection.deformable_detr import DeformableDETR
from medpretrain3d.detection.fcos import FCOS
from medpretrain3d.detection.heat_map import HeatMap
from medpretrain3d.detection.heat_targets import BallTarget, GaussianTarget, HeatTarget
from medpretrain3d.detection.mask_head import InstanceMasks
from medpretrain3d.detection.matching import ATSSMatcher, IoUMatcher, Matcher
from medpretrain3d.detection.point_matching import CenterSampling, NearestPoints
from medpretrain3d.detection.points import PointGrid
from medpretrain3d.detection.post_processing import PostProcessing
from medpretrain3d.detection.retina_unet import RetinaUNet
from medpretrain3d.detection.retinanet import RetinaNet
from medpretrain3d.detection.set_loss import SetLoss, VarifocalSetLoss
from medpretrain3d.registry import import_modules

__all__ = [
    "FCOS",
    "ATSSMatcher",
    "AnchorChoice",
    "AnchorGrid",
    "BallTarget",
    "BoxCoder",
    "BoxGrid",
    "BoxLoss",
    "CenterSampling",
    "ClassificationLoss",
    "ContrastiveDenoising",
    "DIoULoss",
    "DeformableDETR",
    "Denoising",
    "DenoisingQueries",
    "Detector",
    "DistanceCoder",
    "FocalLoss",
    "GIoULoss",
    "GaussianTarget",
    "HardNegativeBCE",
    "HeatMap",
    "HeatTarget",
    "InstanceMasks",
    "IoUMatcher",
    "L1Loss",
    "Matcher",
    "NearestPoints",
    "OneToMany",
    "PointGrid",
    "PostProcessing",
    "RegressionLoss",
    "RetinaNet",
    "RetinaUNet",
    "SetLoss",
    "SmoothL1Loss",
    "VarifocalSetLoss",
    "optimize_anchor_sizes",
]

import_modules(__name__, __path__)  # what is here is known by name

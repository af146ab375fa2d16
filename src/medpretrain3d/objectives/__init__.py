"""Pretraining tasks, one file each."""

from medpretrain3d.objectives.base import Batch, Objective, ObjectiveOutput
from medpretrain3d.objectives.classification import CaseClassification
from medpretrain3d.objectives.consistent_views import ConsistentViews
from medpretrain3d.objectives.detector_pretraining import DetectorPretraining
from medpretrain3d.objectives.dino import DINO
from medpretrain3d.objectives.dino_v2 import DINOv2
from medpretrain3d.objectives.gram_anchoring import GramAnchoring
from medpretrain3d.objectives.mae import MAE
from medpretrain3d.objectives.models_genesis import ModelsGenesis
from medpretrain3d.objectives.multi_talent import MultiTalent
from medpretrain3d.objectives.simclr import SimCLR
from medpretrain3d.objectives.simmim import SimMIM
from medpretrain3d.objectives.slice_wise import SliceWise
from medpretrain3d.objectives.spark import SparK
from medpretrain3d.objectives.swin_multi_task import SwinMultiTask
from medpretrain3d.objectives.voco import VoCo
from medpretrain3d.objectives.volume_fusion import VolumeFusion
from medpretrain3d.registry import import_modules

__all__ = [
    "DINO",
    "MAE",
    "Batch",
    "CaseClassification",
    "ConsistentViews",
    "DINOv2",
    "DetectorPretraining",
    "GramAnchoring",
    "ModelsGenesis",
    "MultiTalent",
    "Objective",
    "ObjectiveOutput",
    "SimCLR",
    "SimMIM",
    "SliceWise",
    "SparK",
    "SwinMultiTask",
    "VoCo",
    "VolumeFusion",
]

import_modules(__name__, __path__)  # what is here is known by name

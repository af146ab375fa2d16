"""Pretraining tasks, one file each."""

from medpretrain3d.objectives.base import Batch, Objective, ObjectiveOutput
from medpretrain3d.objectives.classification import CaseClassification
from medpretrain3d.objectives.dino import DINO
from medpretrain3d.objectives.mae import MAE
from medpretrain3d.objectives.multi_talent import MultiTalent
from medpretrain3d.objectives.simclr import SimCLR
from medpretrain3d.objectives.simmim import SimMIM
from medpretrain3d.objectives.slice_wise import SliceWise
from medpretrain3d.objectives.spark import SparK
from medpretrain3d.objectives.voco import VoCo

__all__ = [
    "DINO",
    "MAE",
    "Batch",
    "CaseClassification",
    "MultiTalent",
    "Objective",
    "ObjectiveOutput",
    "SimCLR",
    "SimMIM",
    "SliceWise",
    "SparK",
    "VoCo",
]

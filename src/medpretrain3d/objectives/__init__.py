"""Pretraining tasks, one file each."""

from medpretrain3d.objectives.base import Batch, Objective, ObjectiveOutput
from medpretrain3d.objectives.classification import CaseClassification
from medpretrain3d.objectives.mae import MAE
from medpretrain3d.objectives.multi_talent import MultiTalent

__all__ = ["MAE", "Batch", "CaseClassification", "MultiTalent", "Objective", "ObjectiveOutput"]

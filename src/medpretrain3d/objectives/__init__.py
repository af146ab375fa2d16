"""Pretraining tasks, one file each."""

from medpretrain3d.objectives.base import Batch, Objective, ObjectiveOutput
from medpretrain3d.objectives.mae import MAE

__all__ = ["MAE", "Batch", "Objective", "ObjectiveOutput"]

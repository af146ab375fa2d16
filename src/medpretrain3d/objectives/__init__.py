"""Pretraining tasks, one file each."""

from medpretrain3d.objectives.base import Batch, Objective, ObjectiveOutput
from medpretrain3d.objectives.mae import MAE
from medpretrain3d.objectives.simmim import SimMIM
from medpretrain3d.objectives.slice_wise import SliceWise
from medpretrain3d.objectives.spark import SparK

__all__ = ["MAE", "Batch", "Objective", "ObjectiveOutput", "SimMIM", "SliceWise", "SparK"]

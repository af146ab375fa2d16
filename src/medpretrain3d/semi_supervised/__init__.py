"""What a detector learns from scans without labels beside those with them, one file each method."""

from __future__ import annotations

from medpretrain3d.registry import import_modules
from medpretrain3d.semi_supervised.base import SemiSupervised, UnlabeledLosses
from medpretrain3d.semi_supervised.focal_mix import FocalMix
from medpretrain3d.semi_supervised.mean_teacher import MeanTeacher

__all__ = ["FocalMix", "MeanTeacher", "SemiSupervised", "UnlabeledLosses"]

import_modules(__name__, __path__)  # what is here is known by name

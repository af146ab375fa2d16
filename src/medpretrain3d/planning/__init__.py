"""Planning of spacing, patch, network and anchors from a dataset and a memory budget."""

from medpretrain3d.planning.long_objects import LongObjects
from medpretrain3d.planning.make import make_plan
from medpretrain3d.planning.plan import Plan, read_plan

__all__ = ["LongObjects", "Plan", "make_plan", "read_plan"]

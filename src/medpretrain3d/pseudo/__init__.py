"""Pseudo-objects: regions of unlabelled scans that a detector can learn to find, and the store of them."""

from medpretrain3d.pseudo.options import KINDS, PseudoOptions
from medpretrain3d.pseudo.region import Region
from medpretrain3d.pseudo.scan import PseudoScan, find_pseudo_objects

__all__ = ["KINDS", "PseudoOptions", "PseudoScan", "Region", "find_pseudo_objects"]

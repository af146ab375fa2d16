"""The phantom: synthetic chest CTs with lung nodules, the data every part of the project can be tried on.

Bodies, vessels, nodules and their look-alikes are drawn from (seed, case): the same call gives the same bytes.
"""

from __future__ import annotations

from medpretrain3d.phantom.case import PhantomCase, make_case, planned_diameters_mm
from medpretrain3d.phantom.dataset import PhantomFolder, write_phantom

__all__ = ["PhantomCase", "PhantomFolder", "make_case", "planned_diameters_mm", "write_phantom"]

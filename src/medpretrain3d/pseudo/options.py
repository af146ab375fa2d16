"""What decides which pseudo-objects a scan has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from medpretrain3d.errors import UserError
from medpretrain3d.store.unit import Unit

KINDS = ("bone", "air", "tissue", "blob", "organ")
"""Of CT; where values have no unit, `bright` and `dark` are in the place of `bone` and `air`."""
_OTHER_NAMES = {"bone": "bright", "air": "dark"}


@dataclass(frozen=True)
class PseudoOptions:
    """Options that determine the pseudo-objects of a store, beside its scans.

    Raises:
        UserError: thresholds, quantiles or scales that leave nothing to find.

    Example:
        >>> from medpretrain3d.pseudo import PseudoOptions
        >>> PseudoOptions(num_blob=5).kinds("hu"), PseudoOptions(num_air=0).kinds("any")
        (('bone', 'air', 'tissue', 'blob'), ('bright', 'tissue'))
    """

    num_bone: int = 20
    """Components above `bone_hu` per scan and threshold, the largest; 0 for none."""
    num_air: int = 8
    """Components below `air_hu` inside the body, the largest."""
    num_tissue: int = 15
    """Watershed basins of the gradient of each scale, those with the sharpest edge."""
    num_blob: int = 0
    """Lesion-like blobs pasted into the image."""
    bone_hu: tuple[float, ...] = (300.0,)
    air_hu: tuple[float, ...] = (-300.0,)
    bright_quantile: tuple[float, ...] = (0.98,)
    """Of the body's voxels, in the place of `bone_hu` where values have no unit (MR, PET)."""
    dark_quantile: tuple[float, ...] = (0.02,)
    sigma_mm: tuple[float, ...] = (5.0,)
    """Standard deviations of the Gaussians whose gradient is flooded: one scale or several."""
    bone_cm3: tuple[float, float] = (0.8, 1500.0)
    """Smallest and largest volume."""
    air_cm3: tuple[float, float] = (0.5, 500.0)
    tissue_cm3: tuple[float, float] = (1.5, 80.0)
    blob_mm: tuple[float, float] = (6.0, 40.0)
    """Smallest and largest diameter of a pasted blob."""
    has_organs: bool = False
    """Whether masks of organs are read beside the scans."""
    seed: int = 0
    """Of the places and shapes of blobs, with the scan's voxels."""

    def __post_init__(self) -> None:
        """Refuse what leaves nothing to find."""
        for name in ("bone_cm3", "air_cm3", "tissue_cm3", "blob_mm"):
            low, high = getattr(self, name)
            if not 0 < low < high:
                raise UserError(f"{name} {low:g} {high:g}: wanted a smallest and a larger largest size above 0")
        for name in ("bright_quantile", "dark_quantile"):
            if not all(0 < share < 1 for share in getattr(self, name)):
                raise UserError(f"{name} {list(getattr(self, name))}: wanted shares between 0 and 1")
        if not all(sigma > 0 for sigma in self.sigma_mm):
            raise UserError(f"sigma_mm {list(self.sigma_mm)}: wanted numbers above 0")
        if not self.kinds("hu"):
            raise UserError("no kind of pseudo-object is left; give a number above 0, or masks of organs")

    def kinds(self, unit: Unit) -> tuple[str, ...]:
        """Return the kinds that are looked for, the classes of the store."""
        wanted = [name for name in KINDS[:4] if getattr(self, f"num_{name}")] + (["organ"] if self.has_organs else [])
        return tuple(kind_name(name, unit) for name in wanted)

    def to_json(self) -> Mapping[str, Any]:
        """Return plain data, by which a finished case is known again."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def kind_name(kind: str, unit: Unit) -> str:
    """Return what a kind is called where intensities are of a unit."""
    return kind if unit == "hu" else _OTHER_NAMES.get(kind, kind)

"""Preprocessing of a scan for a network: one class for both stages, encoder files and bundles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from medpretrain3d.configurable import from_config, to_config
from medpretrain3d.documents import SCHEMA, Number, Text, Whole, checked
from medpretrain3d.store.intensity import Window
from medpretrain3d.store.normalization import Normalization
from medpretrain3d.store.unit import Unit

LARGEST_SPACING_RATIO = 1.5
"""Of a store's spacing to that of an encoder's pretraining, up to which what it learned about sizes still holds."""
_Edge = Annotated[Whole, Field(ge=1)]
_Step = Annotated[Number, Field(gt=0)]


@with_config({**SCHEMA, "extra": "forbid"})
class StoreWindow(TypedDict):
    """Schema of the intensity normalization of one of several stores."""

    store: Text
    unit: Literal["hu", "any"]
    window: dict[str, Any]


@with_config({**SCHEMA, "extra": "forbid"})
class PreprocessingDocument(TypedDict):
    """Plain data of a `Preprocessing`."""

    patch: Annotated[list[_Edge], Field(min_length=3, max_length=3)]
    spacing_mm: NotRequired[Annotated[list[_Step], Field(min_length=3, max_length=3)] | None]
    window: NotRequired[dict[str, Any]]
    num_channels: NotRequired[_Edge]
    unit: NotRequired[Literal["hu", "any"]]
    stores: NotRequired[list[StoreWindow]]


@dataclass(frozen=True)
class Preprocessing:
    """Spacing, intensities and patch of the images that a network was trained on.

    Args:
        patch: (D, H, W) of the crops in training and of the tiles in prediction, in voxels.
        spacing_mm: along (D, H, W), to which scans are resampled; `None` keeps each scan's own.
        window: from stored intensities to the network's input.
        num_channels: of the image.
        unit: `hu`, or `any` for scans that are read as the stores of MR images are; of several stores the first one's.
        stores: of a pretraining: each store's unit, and its window as a description.

    Example:
        >>> from medpretrain3d.store import Preprocessing
        >>> preprocessing = Preprocessing(patch=(32, 64, 64), spacing_mm=(2.5, 1.0, 1.0))
        >>> preprocessing.to_json()["window"]
        {'class_path': 'medpretrain3d.store.intensity.Window', 'init_args': {'low_hu': -1024, 'high_hu': 1024}}
    """

    patch: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] | None = None
    window: Normalization = Window()  # noqa: RUF009 (immutable)
    num_channels: int = 1
    unit: Unit = "hu"
    stores: tuple[StoreWindow, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain data, the window as its description."""
        document: dict[str, Any] = {
            "patch": list(self.patch),
            "spacing_mm": None if self.spacing_mm is None else list(self.spacing_mm),
            "window": to_config(self.window),
            "num_channels": self.num_channels,
            "unit": self.unit,
        }
        return document | ({"stores": list(self.stores)} if self.stores else {})

    @staticmethod
    def from_json(document: Mapping[str, Any], place: str = "preprocessing") -> Preprocessing:
        """Invert `to_json`; what has a default may be absent.

        Args:
            document: plain data.
            place: of the document, for messages.

        Raises:
            UserError: another type of value, or a window that is no normalisation.
        """
        known: dict[str, Any] = dict(checked(dict(document), PreprocessingDocument, place, "export the file again"))
        for name in ("patch", "spacing_mm", "stores"):
            if known.get(name) is not None:
                known[name] = tuple(known[name])
        if "window" in known:
            known["window"] = from_config(known["window"], Normalization)
        return Preprocessing(**known)


def stated_window(card: Mapping[str, Any], unit: Unit) -> Normalization | None:
    """Return the window that pretraining scans in a unit had, or None where there were none or none is stated.

    Args:
        card: `preprocessing` of an encoder's card. Those of others, and ours before they named units, hold a window
            only: one in HU serves none but CT.
        unit: of the scans to be mapped.
    """
    if not card.get("window"):
        return None
    window: Normalization = from_config(card["window"]).of_unit(unit)
    units = {one["unit"] for one in (card, *(card.get("stores") or ())) if "unit" in one}
    return window if (unit in units if units else window.suits(unit)) else None


def other_sizes(ours_mm: Sequence[float] | None, theirs_mm: Sequence[float] | None) -> str:
    """Return in words at which other spacing weights were trained, and what to do; empty where sizes are alike.

    Args:
        ours_mm: of the stores along (D, H, W); None where each scan has its own.
        theirs_mm: of the pretraining; None where it is not stated.
    """
    if theirs_mm is None or not differ_in_size(ours_mm, theirs_mm):
        return ""
    return (
        f"trained at a spacing of {list(theirs_mm)} mm, the stores are at "
        f"{None if ours_mm is None else list(ours_mm)}: prepare them with --spacing-mm {' '.join(map(str, theirs_mm))}"
    )


def differ_in_size(ours: Sequence[float] | None, theirs: Sequence[float]) -> bool:
    """Return whether an axis of two spacings in mm differs by more than `LARGEST_SPACING_RATIO`; None has no size."""
    return ours is None or any(max(a / b, b / a) > LARGEST_SPACING_RATIO for a, b in zip(ours, theirs, strict=True))

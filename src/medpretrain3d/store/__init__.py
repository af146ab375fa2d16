"""Volumes and their storage: grid and intensities, the store that holds many, and preprocessing for a network."""

from medpretrain3d.store.grid import Grid
from medpretrain3d.store.intensity import Window
from medpretrain3d.store.normalization import Normalization
from medpretrain3d.store.preprocessing import Preprocessing
from medpretrain3d.store.store import Case, Store
from medpretrain3d.store.volume import Volume, read_volume
from medpretrain3d.store.volume_intensity import ClippedZScore, PercentileWindow

__all__ = [
    "Case",
    "ClippedZScore",
    "Grid",
    "Normalization",
    "PercentileWindow",
    "Preprocessing",
    "Store",
    "Volume",
    "Window",
    "read_volume",
]

"""From files to crops: volumes and their grids, the store, importers, augmentation, sampling."""

from medpretrain3d.store.grid import Grid
from medpretrain3d.store.intensity import Normalisation, Window
from medpretrain3d.store.store import Case, Store
from medpretrain3d.store.volume import Volume, read_volume

__all__ = ["Case", "Grid", "Normalisation", "Store", "Volume", "Window", "read_volume"]

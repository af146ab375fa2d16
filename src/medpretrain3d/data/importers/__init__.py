"""One file per raw layout, from a folder to the cases in it. A module that holds `LAYOUTS` is found by being here."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path

from medpretrain3d.data.importers.base import ObjectRule, RawCase, RawDataset
from medpretrain3d.data.importers.files import glance, tree
from medpretrain3d.data.importers.layout import Layout
from medpretrain3d.errors import UserError

__all__ = ["Layout", "ObjectRule", "RawCase", "RawDataset", "layouts", "read_raw"]

_KINDS = ("detection", "corpus", "generic")


@functools.cache
def layouts() -> dict[str, Layout]:
    """Every layout by name: data sets for detection, corpora, then the generic layouts, those of most signs first."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    found = [layout for module in modules for layout in getattr(module, "LAYOUTS", ())]
    found.sort(key=lambda layout: (_KINDS.index(layout.kind), -len(layout.signs), layout.name))
    return {layout.name: layout for layout in found}


def read_raw(
    raw: Path, fold: int = 0, dataset: str | None = None, options: Mapping[str, str] | None = None
) -> RawDataset:
    """List the cases of a raw folder.

    Args:
        raw: the folder.
        fold: which of the official folds decides on train, val and test.
        dataset: name of its layout; None recognises it by its tree.
        options: of that layout, by name.

    Raises:
        UserError: the folder is missing, has no known layout, or is not what the layout promises.
    """
    raw = Path(raw)
    if not raw.is_dir():
        raise UserError(f"{raw}: no such folder; give the folder that holds the raw data")
    if dataset is not None and dataset not in layouts():
        raise UserError(f"--dataset {dataset}: unknown; known are {', '.join(layouts())}")
    if dataset is None:
        if (raw / "dataset.json").is_file() and not any((raw / name).is_dir() for name in ("imagesTr", "raw_splitted")):
            raise UserError(f"{raw}: has dataset.json but no imagesTr beside it; found", tree(raw))
        names = glance(raw)
        dataset = next(name for name, layout in layouts().items() if layout.fits(names))
    return layouts()[dataset].open(raw, {**(options or {}), **({"fold": str(fold)} if fold else {})})

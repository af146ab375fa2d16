"""One file per raw layout, from a folder to the cases in it. A module that holds `LAYOUTS` is found by being here; a
plugin calls `register_layout`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from medpretrain3d.documents import Name, checked
from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers.base import Leftover, ObjectRule, RawCase, RawDataset
from medpretrain3d.ingest.importers.files import list_names, tree
from medpretrain3d.ingest.importers.layout import REGISTERED, Layout, register_layout
from medpretrain3d.ingest.importers.unused import unused
from medpretrain3d.registry import import_modules
from medpretrain3d.store.sidecar import MAX_CLASSES

SPLITS = ("train", "val", "test", "unlabelled")
"""What a case may be for."""

__all__ = [
    "SPLITS",
    "Layout",
    "Leftover",
    "ObjectRule",
    "RawCase",
    "RawDataset",
    "layouts",
    "read_raw",
    "register_layout",
]


def layouts() -> dict[str, Layout]:
    """Return every layout by name, those of plugins included, by rank, those of most signs first."""
    _register_own()
    found = sorted(REGISTERED.parts().values(), key=lambda layout: (layout.rank, -len(layout.patterns), layout.name))
    return {layout.name: layout for layout in found}


@functools.cache
def _register_own() -> None:
    for module in import_modules(__name__, __path__):
        for layout in getattr(module, "LAYOUTS", ()):
            register_layout(layout)


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
    options = {**(options or {}), **({"fold": str(fold)} if fold else {})}
    doubts: list[str] = []
    if dataset is not None:
        layout, why = layouts()[dataset], "as --dataset says"
    else:
        layout, why, doubts = _recognised(raw)
    read = layout.open(raw, options)
    _check_splits(layout, read)
    _check_classes(raw, layout, read)
    doubtful = [Leftover(text, "layouts whose names fit and whose content does not") for text in doubts]
    left = unused(raw, read, is_named=dataset is not None)
    why = why if dataset is not None else read.recognised_by or why
    return replace(read, recognised_by=why, leftovers=(*doubtful, *read.leftovers, *left))


def _recognised(raw: Path) -> tuple[Layout, str, list[str]]:
    """Return the layout of a folder, by what shows it, and what speaks against others whose names fit."""
    folders = ("imagesTr", "imagesTs", "raw_splitted")
    if (raw / "dataset.json").is_file() and not any((raw / name).is_dir() for name in folders):
        raise UserError(f"{raw}: has dataset.json but no imagesTr or imagesTs beside it", f"found\n{tree(raw)}")
    names = list_names(raw)
    fitting: list[Layout] = []
    doubts: list[str] = []
    for layout in layouts().values():
        if fitting and layout.rank > fitting[0].rank:
            break  # looking into the content of a large folder takes its time
        if layout.fits(names):
            contradiction = layout.contradiction(raw)
            if not contradiction:
                fitting.append(layout)
            elif contradiction != "-":
                doubts.append(f"{layout.name}: {contradiction}")
    best = [one for one in fitting if (one.rank, len(one.patterns)) == (fitting[0].rank, len(fitting[0].patterns))]
    if len(best) > 1:
        message = " and ".join(f"{layout.name} ({layout.shown(names)})" for layout in best)
        raise UserError(f"{raw}: looks like {message} alike; say which by --dataset {best[0].name} or {best[1].name}")
    (layout,) = best
    return layout, f"it has {layout.shown(names)}" if layout.patterns else "no other layout fits", doubts


def _check_splits(layout: Layout, dataset: RawDataset) -> None:
    for case in dataset.cases:
        if case.split not in SPLITS:
            raise UserError(f"{layout.name}: case {case.id} is in split {case.split!r}, wanted {', '.join(SPLITS)}")


def _check_classes(raw: Path, layout: Layout, dataset: RawDataset) -> None:
    """Refuse classes that no store can hold, before anything is written."""
    where = dataset.tables[0] if dataset.tables else raw
    advice = "choose and name them by --option classes" if layout.has_option("classes") else f"correct {where.name}"
    if len(dataset.classes) > MAX_CLASSES:
        raise UserError(
            f"{where}: has {len(dataset.classes)} classes, wanted at most {MAX_CLASSES}; {advice}: are these names of "
            "classes, and not of objects?"
        )
    checked(list(dataset.classes), list[Name], f"{where}: names of classes", advice)
    alike: dict[str, str] = {}
    for name in dataset.classes:
        other = alike.setdefault(" ".join(name.split()).casefold(), name)
        if other != name:
            raise UserError(f"{where}: the labels {other!r} and {name!r} differ in case or blanks only; write one")

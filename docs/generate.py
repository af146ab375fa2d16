"""Write the parts of these pages that the classes themselves say: `python docs/generate.py`.

A part stands between `<!-- generated: NAME -->` and `<!-- end of NAME -->`; what is around it is written by hand. A
test compares what is committed with what would be written (`tests/contracts/test_generated_docs.py`).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from medpretrain3d.backbones import Backbone
from medpretrain3d.backbones.checkpoints import RELEASES
from medpretrain3d.backbones.cost import cost
from medpretrain3d.configurable import from_config
from medpretrain3d.detection import Detector
from medpretrain3d.ingest.importers import Layout, layouts
from medpretrain3d.objectives import Objective
from medpretrain3d.registry import known_classes

DOCS = Path(__file__).resolve().parent


def objectives() -> str:
    """Table of objectives: what each does, the family that studies compare, and what it is fed."""
    rows = ["| objective | what it asks of the encoder | family | `data.views` |", "|---|---|---|---|"]
    for name, cls in sorted(known_classes(Objective).items()):
        if not cls.__subclasses__():
            views = f"`{cls.views[0]}`" if cls.views and cls.views[0] != "OneView" else "one crop"
            rows.append(f"| `{name}` | {summary(cls)} | {cls.paradigm} | {views} |")
    return "\n".join(rows)


def detectors() -> str:
    """Table of detectors."""
    rows = ["| detector | what it is |", "|---|---|"]
    rows += [f"| `{name}` | {summary(cls)} |" for name, cls in sorted(known_classes(Detector).items())]
    return "\n".join(rows)


def backbones() -> str:
    """Table of backbones: what each is, its sizes, and the levels of the first of them."""
    rows = ["| class | what it is | sizes | levels (channels/stride) of the first | paper |", "|---|---|---|---|---|"]
    for name, cls in sorted(known_classes(Backbone).items()):
        if cls.sizes:
            with torch.device("meta"):
                first, *others = [cls(**arguments) for arguments in cls.sizes]
            names = ", ".join(dict.fromkeys(one.name.removeprefix(f"{name}-") for one in (first, *others)))
            levels = " ".join(f"{level.channels}/{'x'.join(map(str, level.stride))}" for level in first.levels)
            rows.append(f"| `{name}` | {summary(cls)} | {names} | {levels} | {first.citation} |")
    return "\n".join(rows)


def data_sets(kind: str) -> str:
    """Sections of the data sets of a kind."""
    found = sorted((layout for layout in layouts().values() if layout.kind == kind), key=lambda layout: layout.name)
    return "\n\n".join(f"### {layout.name}\n\n{layout.page.strip()}{_facts(layout)}" for layout in found)


def released() -> str:
    """Table of published encoders: what each is, what it saw and what its licences say."""
    head = "| encoder | what it is | found at | trained on | of public detection data | licence of code, of weights |"
    rows = [head, "|---|---|---|---|---|---|"]
    for one in RELEASES:
        forbidden = f"; **forbids**: {one.restriction}" if one.restriction else ""
        rows.append(
            f"| {one.name} | {one.summary} | {one.where} | {one.paradigm}: {one.corpus} | {one.overlap} | "
            f"{one.code_licence}; {one.weights_licence}{forbidden} |"
        )
    return "\n".join(rows)


def released_sizes() -> str:
    """Table of published encoders: size, frame, intensities, levels, and cost of a patch of 128^3 voxels."""
    names = ("encoder", "backbone", "parameters (M)", "axes", "spacing (mm)", "window", "levels (channels/stride)")
    rows = [f"| {' | '.join(names)} | patch: TFLOP, kept activations (GB) |", "|---|---|---|---|---|---|---|---|"]
    for one in RELEASES:
        with torch.device("meta"):
            backbone = from_config(one.architecture, Backbone)
        levels = " ".join(f"{level.channels}/{'x'.join(map(str, level.stride))}" for level in backbone.levels)
        d, h, w = (128 // step * step for step in backbone.levels[-1].stride)
        flop, kept = cost(backbone, (d, h, w))
        size = "" if (d, h, w) == (128, 128, 128) else f" ({d}x{h}x{w})"
        spacing = "its own" if one.spacing_mm is None else " ".join(f"{edge:g}" for edge in one.spacing_mm)
        window = "none told" if one.window is None else str(from_config(one.window))
        cells = (
            *(one.name, f"`{backbone.name}`", f"{backbone.num_parameters() / 1e6:.1f}", one.orientation or "as stored"),
            *(spacing, f"`{window}`", levels, f"{flop / 1e12:.2f}, {kept / 1e9:.1f}{size}"),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "architecture.md": {"objectives": objectives, "detectors": detectors},
    "backbones.md": {"backbones": backbones},
    "checkpoints.md": {"released": released, "released_sizes": released_sizes},
    "datasets.md": {kind: partial(data_sets, kind) for kind in ("detection", "corpus", "generic")},
}


def generate(page: str, text: str) -> str:
    """The text of a page with its parts written anew.

    Raises:
        ValueError: the page has no place for one of its parts.
    """
    for name, write in PARTS[page].items():
        begin, end = f"<!-- generated: {name} -->", f"<!-- end of {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"{page}: wanted '{begin}' and '{end}' once")
        before, after = text.split(begin)[0], text.split(end)[1]
        text = f"{before}{begin}\n\n{write()}\n\n{end}{after}"
    return text


def summary(cls: type) -> str:
    """The first sentence of a class's docstring, as one line."""
    paragraph = (inspect.getdoc(cls) or "").partition("\n\n")[0].replace("\n", " ")
    return re.split(r"(?<=[.:]) (?=[A-Z`])", paragraph)[0].rstrip(".:")


def _facts(layout: Layout) -> str:
    if layout.kind != "detection":
        return ""
    return f"\n\nClasses: {', '.join(layout.classes)}. Recipe: `configs/finetune/{layout.name}.yaml`."


def main() -> None:
    """Write every page."""
    for page in PARTS:
        path = DOCS / page
        path.write_text(generate(page, path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

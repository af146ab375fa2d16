"""A page per objective and per detector: its own description, a figure drawn by its own code, its recipes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from _generate import detector_figures, objective_figures
from _generate.figures import save
from medpretrain3d import detection, objectives

PAGE = """# {name}

{summary}

```{{figure}} figures/{name}.png
:alt: {caption}
:width: {width}px
:figclass: method-figure

{caption}
```

{recipes}

```{{eval-rst}}
.. autoclass:: medpretrain3d.{package}.{name}
   :no-index:
   :no-members:
```
"""
INDEX = """# Methods

Each objective and each detector on a page: what it does, drawn by its own code on a synthetic chest CT (the
[phantom](../data.md#phantom)) with a tiny network that has learnt nothing, its arguments, an example and its recipes.

## Objectives

{objectives}

## Detectors

{detectors}

```{{toctree}}
:hidden:

{names}
```
"""


def write_methods(folder: Path) -> None:
    """Write the pages, their figures, and the page that lists them."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    tables = {}
    for package, base, figures in (
        (objectives, objectives.Objective, objective_figures.FIGURES),
        (detection, detection.Detector, detector_figures.FIGURES),
    ):
        classes = [getattr(package, name) for name in package.__all__]
        methods = [one for one in classes if inspect.isclass(one) and issubclass(one, base) and one is not base]
        missing = sorted({one.__name__ for one in methods} ^ set(figures))
        if missing:
            raise ValueError(f"docs/_generate: a figure is missing, or one too many, of {', '.join(missing)}")
        for method in methods:
            _write_page(folder, method, package.__name__.rpartition(".")[2], *figures[method.__name__])
        tables[package] = "\n".join(_row(one) for one in methods)
    names = "\n".join(sorted(path.stem for path in folder.glob("*.md") if path.stem != "index"))
    text = INDEX.format(objectives=tables[objectives], detectors=tables[detection], names=names)
    (folder / "index.md").write_text(text, encoding="utf-8")


def _write_page(folder: Path, method: type, package: str, draw: Callable[[], Figure], caption: str) -> None:
    name = method.__name__
    width = save(draw(), folder / "figures" / f"{name}.png")
    parts = {"summary": _summary(method), "recipes": _recipes(name), "package": package}
    page = PAGE.format(name=name, caption=caption, width=width, **parts)
    (folder / f"{name}.md").write_text(page, encoding="utf-8")


def _summary(method: type) -> str:
    return inspect.cleandoc(method.__doc__ or "").partition("\n")[0]


def _row(method: type) -> str:
    return f"- [{method.__name__}]({method.__name__}.md): {_summary(method)}"


def _recipes(name: str) -> str:
    root = Path(__file__).resolve().parents[2]
    found = []
    for path in sorted((root / "configs").glob("*/*.yaml")):
        head, _, body = path.read_text(encoding="utf-8").partition("\nmodel:")
        if f"class_path: {name}\n" in f"{body}\n" or f"class_path: {name}," in body or f".{name}\n" in body:
            found.append(f"- `configs/{path.parent.name}/{path.name}`: {head.splitlines()[0].lstrip('# ')}")
    return "**Recipes**\n\n" + "\n".join(found) if found else "No recipe uses it yet."

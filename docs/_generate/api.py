"""The reference of the library: what each package exports."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

PACKAGES = (
    "api",
    *("boxes", "backbones", "objectives", "detection", "semi_supervised", "store", "phantom", "planning", "inference"),
    *("evaluation", "statistics"),
)

PAGE = """# medpretrain3d.{name}

{summary}

```{{eval-rst}}
.. currentmodule:: medpretrain3d.{name}

{entries}
```
"""
INDEX = """# Python API

What the packages of the library export. Every class shows an example, which is run as a test. What bad
input can cause: [error messages](errors.md).

| package | exports |
|---|---|
{rows}

```{{toctree}}
:hidden:

{names}
```
"""


def write_api(folder: Path) -> None:
    """Write a page per package, and the page that lists them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in PACKAGES:
        package = importlib.import_module(f"medpretrain3d.{name}")
        exported = sorted(package.__all__, key=lambda one: (not inspect.isclass(getattr(package, one)), one.lower()))
        summary = (package.__doc__ or "").strip()
        entries = "\n".join(_entry(one, getattr(package, one)) for one in exported)
        (folder / f"{name}.md").write_text(PAGE.format(name=name, summary=summary, entries=entries), encoding="utf-8")
        rows.append(f"| [{name}]({name}.md) | {', '.join(f'`{one}`' for one in exported)} |")
    text = INDEX.format(rows="\n".join(rows), names="\n".join([*PACKAGES, "errors"]))
    (folder / "index.md").write_text(text, encoding="utf-8")


def _entry(name: str, thing: object) -> str:
    if inspect.isclass(thing):
        return f".. autoclass:: {name}\n"
    return f".. autofunction:: {name}\n" if inspect.isfunction(thing) else f".. autodata:: {name}\n"

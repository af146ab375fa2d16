"""`make bench`: makes every comparison, prints it and puts it into docs/benchmarks.md.

A benchmark is a module of this package with a function `rows()`; it is found by being there. Names on the command line
choose some of them, whose rows alone are replaced on the page: `make bench ARGS="boxes crops"`. What has no `rows()`
(`profile`, `short_run`, ...) compares nothing and is printed when asked for.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from benchmarks.page import PAGE, Setting, update_page
from benchmarks.timing import HEADER
from medpretrain3d.precision.choice import choose_precision

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if "\ndef rows(" in path.read_text("utf-8"))
PRINTED = ("prepare_ct", "profile", "published_scale", "same_minutes", "short_run", "study_report")

LONG = ("containers",)
"""Measured when asked for only: ten minutes of writing."""


def main(chosen: list[str]) -> None:
    """Run some benchmarks, or all.

    Raises:
        SystemExit: a name that is none.
    """
    if unknown := sorted(set(chosen) - {*NAMES, *PRINTED}):
        raise SystemExit(f"error: no benchmark '{unknown[0]}'; there are {', '.join(sorted((*NAMES, *PRINTED)))}")
    if printed := [name for name in PRINTED if name in chosen]:
        for name in printed:
            import_module(f"benchmarks.{name}").report()
        chosen = [name for name in chosen if name not in PRINTED]
        if not chosen:
            return
    setting = Setting.here()
    print(f"commit {setting.commit}, {setting.machine}; {choose_precision('cpu')}\n{HEADER}")
    for name in chosen or [name for name in NAMES if name not in LONG]:
        rows = []
        for row in import_module(f"benchmarks.{name}").rows():
            print(row, flush=True)
            rows.append(row)
        if rows:  # some need data that is not everywhere
            update_page(PAGE, NAMES, {name: rows}, setting)  # each at once: what was measured is kept
    print(f"{PAGE}: written")


if __name__ == "__main__":
    main(sys.argv[1:])

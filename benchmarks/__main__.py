"""`make bench`: prints every comparison; medians, ratio above 1 means ours is faster.

A benchmark is a module of this package with a function `rows()`; it is found by being there. Names on the command line
choose some of them: `make bench ARGS="boxes crops"`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import torch

from benchmarks.timing import HEADER
from medpretrain3d.engine.run import git_sha, machine
from medpretrain3d.precision.choice import choose_precision

SCAFFOLD = {"__init__", "__main__", "timing", "memory", "peers", "coverage"}

if __name__ == "__main__":
    names = sorted({path.stem for path in Path(__file__).parent.glob("*.py")} - SCAFFOLD)
    chosen = sys.argv[1:] or names
    if unknown := sorted(set(chosen) - set(names)):
        raise SystemExit(f"error: no benchmark '{unknown[0]}'; there are {', '.join(names)}")
    print(f"commit {git_sha()}, {machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(choose_precision("cpu"))
    print(HEADER)
    for name in chosen:
        for row in import_module(f"benchmarks.{name}").rows():
            print(row, flush=True)

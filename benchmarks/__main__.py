"""`make bench`: prints every comparison; medians, ratio above 1 means ours is faster."""

from __future__ import annotations

import torch

from benchmarks import boxes, crops, norm
from benchmarks.timing import HEADER
from medpretrain3d.engine.run import git_sha, machine

if __name__ == "__main__":
    print(f"commit {git_sha()}, {machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(HEADER)
    for module in (boxes, crops, norm):
        for row in module.rows():
            print(row, flush=True)

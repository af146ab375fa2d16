"""Freed memory is used again, and how much there was at most."""

from __future__ import annotations

import resource
import subprocess
import sys

from medpretrain3d.memory import peak_bytes

PROGRAM = """
import resource, sys
import torch
from medpretrain3d.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.set_num_threads(1)
for _ in range(30):
    torch.ones(2**24)  # 64 MiB; an aligned block does not fit exactly where its like was, so the heap grows at first
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    return int(subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, check=True, text=True).stdout)


def test_a_large_tensor_takes_the_pages_of_freed_ones():
    pages = 30 * 2**26 // resource.getpagesize()
    assert faults("return") > 0.9 * pages
    assert faults("keep") < 0.1 * pages


def test_the_peak_is_that_of_the_program_and_not_of_the_one_that_started_it():
    """With `ru_maxrss` a program begins with the memory of its parent."""
    ballast = bytearray(400 * 2**20)
    assert peak_bytes() > len(ballast)
    program = "from medpretrain3d.memory import peak_bytes as peak; print(peak()); b = bytearray(10**8); print(peak())"
    words = [sys.executable, "-c", program]
    before, after = map(int, subprocess.run(words, capture_output=True, check=True, text=True).stdout.split())
    assert before < 200 * 2**20
    assert before + 0.9e8 < after < before + 1.1e8

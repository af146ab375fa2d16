"""Freed memory is used again, and how much there was at most."""

from __future__ import annotations

import resource
import subprocess
import sys

from medpretrain3d.memory import peak_bytes

PROGRAM = """
import resource
import torch
from medpretrain3d.memory import keep_freed_memory
torch.set_num_threads(1)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(ROUNDS):
        torch.ones(2**24)  # 64 MiB, which C's library asks the system for each time
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults())
assert keep_freed_memory()
faults()  # an aligned block does not fit exactly where its like was, so the heap grows at first, and at times once more
print(faults())
"""
ROUNDS = 32


def test_a_large_tensor_takes_the_pages_of_freed_ones():
    program = [sys.executable, "-c", PROGRAM.replace("ROUNDS", str(ROUNDS))]
    returned, kept = map(int, subprocess.run(program, capture_output=True, check=True, text=True).stdout.split())
    pages = ROUNDS * 2**26 // resource.getpagesize()
    assert returned > 0.9 * pages
    assert kept < 0.1 * pages


def test_the_peak_is_that_of_the_program_and_not_of_the_one_that_started_it():
    """With `ru_maxrss` a program begins with the memory of its parent."""
    ballast = bytearray(400 * 2**20)
    assert peak_bytes() > len(ballast)
    program = "from medpretrain3d.memory import peak_bytes as peak; print(peak()); b = bytearray(10**8); print(peak())"
    words = [sys.executable, "-c", program]
    before, after = map(int, subprocess.run(words, capture_output=True, check=True, text=True).stdout.split())
    assert before < 200 * 2**20
    assert before + 0.9e8 < after < before + 1.1e8

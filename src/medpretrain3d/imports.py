"""Imports of large libraries, which take most of what a program needs to start."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected_imports() -> Iterator[None]:
    """Import without looking for garbage, and never look at what was imported again.

    Modules make a million objects that live as long as the process. Python searches them for cycles again and again
    while they are made, which is a seventh of the CPU time of importing torch or Lightning, and whenever it collects
    afterwards. Nothing changes where the collector was off before, or where nothing new was imported.
    """
    was_on, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            if len(sys.modules) > before:
                gc.freeze()
            gc.enable()

"""GPUs of this machine that a process may use, without asking CUDA, which takes seconds and memory of a GPU."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "CUDA_VISIBLE_DEVICES"


def visible_devices() -> list[str]:
    """Return the devices that CUDA shows to this process, as it names them: all where the variable is not set."""
    count = len(list(Path("/dev").glob("nvidia[0-9]*")))
    named = os.environ.get(VARIABLE)
    return [str(number) for number in range(count)] if named is None else named_devices(named, count)


def named_devices(named: str, count: int = 0) -> list[str]:
    """Return the devices that a value of `CUDA_VISIBLE_DEVICES` names, as CUDA reads it.

    They end at the first that is none (`-1`, `NoDevFiles`, a number beyond the last device); one that is named twice
    hides all of them.

    Args:
        named: numbers or UUIDs (`GPU-...`, `MIG-...`), with commas.
        count: of this machine's devices; 0 where it is not known.
    """
    found: list[str] = []
    for one in (word.strip() for word in named.split(",")):
        is_number = one.isascii() and one.isdigit()
        if not (one.startswith(("GPU-", "MIG-")) or (is_number and (not count or int(one) < count))):
            break
        found.append(str(int(one)) if is_number else one)
    return found if len(set(found)) == len(found) else []

"""Lines that a program says: in one piece where several processes and threads print, and with numbers in words."""

from __future__ import annotations

import sys


def print_line(text: str, to_stderr: bool = False) -> None:
    """Print a line in one piece, so that lines of jobs that begin at once do not run into each other.

    `print` hands text and end of line to the system one after the other.
    """
    stream = sys.stderr if to_stderr else sys.stdout
    stream.write(f"{text}\n")
    stream.flush()


def counted(number: int, noun: str) -> str:
    """Return `1 job`, `2 jobs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def counted_scans(num_scans: int, num_patients: int, what: str = "scan") -> str:
    """Return `60 scans`, or `60 scans of 10 patients` where some are of one patient."""
    scans = counted(num_scans, what)
    return scans if num_patients >= num_scans else f"{scans} of {counted(num_patients, 'patient')}"


def counted_seeds(num_seeds: int, num_encoders: int) -> str:
    """Return `6 seeds`, or `6 seeds of 2 encoders` where several of them begin from one encoder."""
    seeds = counted(num_seeds, "seed")
    return seeds if num_encoders >= num_seeds else f"{seeds} of {counted(num_encoders, 'encoder')}"

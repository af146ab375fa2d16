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


def shown_p(p: float, level: float = 0.05) -> str:
    """Return a p value with four decimals, or more where these would round it up to the level; `<0.0001` below.

    Example:
        >>> from medpretrain3d.lines import shown_p
        >>> shown_p(0.0174321), shown_p(0.0), shown_p(0.049996)
        ('0.0174', '<0.0001', '0.049996')
    """
    if p < 0.0001:
        return "<0.0001"
    texts = (f"{p:.{digits}f}" for digits in range(4, 17))
    return next((text for text in texts if (float(text) < level) == (p < level)), f"{p:.4f}")

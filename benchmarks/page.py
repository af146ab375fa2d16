"""The page of the documentation that shows the last measurement of each benchmark."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.timing import Row
from medpretrain3d.atomic import write_text
from medpretrain3d.engine.run import git_sha

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
INTRODUCTION = """# Benchmarks

Written by `make bench`, which measures all of them; `make bench ARGS="boxes crops"` measures some and leaves the others
as they are, with their commit and machine. Each row is the same work, done by a peer and by this package in turn in one
run, medians of repeats. A ratio above 1 says how many times more the peer takes; the *bar* is the ratio that is wanted,
and what is below is marked *behind* by the script. `make bench ARGS=profile` says where the time of a step goes.
Which detector is better after the same minutes, MONAI's or one of our recipes, is no row but training: `make bench
ARGS=same_minutes`, in [results](results.md#beside-monais-detector-on-the-same-minutes).
"""
COLUMNS = ("work", "peer", "theirs", "ours", "ratio", "bar", "verdict", "precision", "commit", "machine")
BEHIND = "**behind**"


@dataclass(frozen=True)
class Setting:
    """Where and with what something was measured."""

    commit: str
    machine: str

    @classmethod
    def here(cls) -> Setting:
        """This checkout on this machine, never with the name of the host."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        threads = f"{torch.get_num_threads()} of {cores} cores"
        return cls(git_sha(), f"{_processor()}, {threads}, torch {torch.__version__}")


def update_page(path: Path, order: Sequence[str], measured: Mapping[str, Sequence[Row]], setting: Setting) -> None:
    """Put what was measured in the place of what the page says of these benchmarks, in one step.

    Args:
        path: of the page; made if it is not there.
        order: names of all benchmarks; what the page says of others is left out.
        measured: rows of some of them.
        setting: where they were measured.
    """
    sections = _sections(path.read_text(encoding="utf-8")) if path.is_file() else {}
    sections |= {name: _table(rows, setting) for name, rows in measured.items()}
    sections = {name: sections[name] for name in order if name in sections}
    parts = [INTRODUCTION, _summary(sections), *(f"## {name}\n\n{text}\n" for name, text in sections.items())]
    write_text(path, "\n".join(parts))


def _sections(page: str) -> dict[str, str]:
    _, *sections = page.split("\n## ")
    named = (section.partition("\n") for section in sections)
    return {name.strip(): text.strip() for name, _, text in named}


def _table(rows: Sequence[Row], setting: Setting) -> str:
    lines = [COLUMNS, ("---", "---", "---:", "---:", "---:", "---:", *["---"] * 4)]
    for row in rows:
        verdict = "met" if row.is_met else BEHIND
        amounts = (f"{_rounded(row.theirs)} {row.unit}", f"{_rounded(row.ours)} {row.unit}")
        numbers = (*amounts, _rounded(row.ratio), f"{row.bar:g}", verdict, row.precision)
        lines.append((row.work, row.peer, *numbers, setting.commit, setting.machine))
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _summary(sections: Mapping[str, str]) -> str:
    rows = [line for text in sections.values() for line in text.splitlines()[2:] if line.startswith("|")]
    behind = [line.split("|")[1].strip() for line in rows if f"| {BEHIND} |" in line]
    if not rows:
        return "Nothing is measured yet.\n"
    if not behind:
        return f"All {len(rows)} rows reach their bar.\n"
    reached = f"{len(rows) - len(behind)} of {len(rows)} rows reach their bar. Behind:\n"
    return "\n".join([reached, *(f"- {work}" for work in behind), ""])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # no Linux, or an ARM that does not say
        return platform.processor() or platform.machine()

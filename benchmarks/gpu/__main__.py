"""`make bench-gpu`: agreement, speed, memory and waiting on one GPU, and DDP on all, as one Markdown table.

What cannot be done here says so in its row: no GPU, a library that is not installed, too little memory or time.
*Not yet run* on a GPU.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import torch

from benchmarks.gpu.session import HEADER, Row, Session
from medpretrain3d.engine.run import git_sha, machine

SHARES = {"agreement": 0.2, "training": 0.5, "waiting": 0.5, "predict": 0.5, "stages": 0.7, "libraries": 1.0}
"""Sections in their order, and which share of the time that is left each may take."""


def main(words: list[str] | None = None) -> int:
    """Write the table; 1 if a number differs from the CPU's or something failed.

    Raises:
        SystemExit: with 2 where the device does not exist here.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu to see that it runs (default: cuda)")
    parser.add_argument("--toy", action="store_true", help="small networks and little of everything")
    parser.add_argument("--minutes", type=float, default=10.0, help="time after which nothing is begun (default: 10)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench_gpu.md"), help="default: runs/bench_gpu.md")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"some of {', '.join(SHARES)} (default: all)")
    options = parser.parse_args(words)
    if unknown := [name for name in options.sections if name not in SHARES]:
        parser.error(f"no section '{unknown[0]}'; there are {', '.join(SHARES)}")
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU that torch can use; give --device cpu --toy to see that the benchmark runs")
    folder = Path(tempfile.mkdtemp(prefix="bench_gpu_"))
    start = time.monotonic()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    is_wrong = False
    try:
        with options.out.open("w", encoding="utf-8") as file:
            print(title(device, options.toy), file=file, flush=True)
            for row in measured(device, options.toy, start + 60 * options.minutes, folder, options.sections):
                is_wrong |= row.is_failure
                print(row, flush=True)
                print(row, file=file, flush=True)  # what was measured stays, whatever comes
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{options.out}: {(time.monotonic() - start) / 60:.1f} minutes")
    return int(is_wrong)


def measured(device: torch.device, is_toy: bool, deadline_s: float, folder: Path, sections: list[str]) -> Iterator[Row]:
    """Yield the rows of all sections, each within its share of the time."""
    for name, share in SHARES.items():
        if sections and name not in sections:
            continue
        now_s = time.monotonic()
        until_s = deadline_s if sections else now_s + share * (deadline_s - now_s)
        session = Session(device, is_toy, until_s, folder)
        try:
            yield from import_module(f"benchmarks.gpu.{name}").rows(session)
        except Exception as error:  # of what is made before the first row; the other sections go on
            yield Row(name, "-", "-", "failed", f"{type(error).__name__}: {error}"[:300], is_failure=True)


def title(device: torch.device, is_toy: bool) -> str:
    """What was measured on, and the head of the table."""
    gpu = (
        f"{torch.cuda.get_device_name(device)}, driver CUDA {torch.version.cuda}" if device.type == "cuda" else "no GPU"
    )
    toy = " At toy size: no number means anything." if is_toy else ""
    about = f"Commit {git_sha()}, {datetime.now(UTC):%Y-%m-%d}, {gpu}, {machine()}, torch {torch.__version__}.{toy}"
    return f"# Measured on a GPU\n\n{about}\n\n{HEADER}"


if __name__ == "__main__":
    sys.exit(main())

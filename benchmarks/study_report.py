"""The report of a study of 240 runs, from the folders to the page: seconds on one core by part, and megabytes.

`python -m benchmarks study_report` makes the runs of `benchmarks.study_runs` below `.bench/` where they are not there
yet (some minutes), and builds their report three times; the fastest counts.
"""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.study_runs import design, write_runs
from benchmarks.timing import one_thread
from medpretrain3d.study.page import write_report
from medpretrain3d.study.report import make_report
from medpretrain3d.study.run import find_runs
from medpretrain3d.study.table_files import write_tables

NUM_RUNS, ROUNDS = 240, 3
FOLDER = Path(__file__).resolve().parents[1] / ".bench" / f"study_{NUM_RUNS}"


def report() -> None:
    """Print the CPU seconds of each part and the size of the page."""
    runs, done, page = FOLDER / "runs", FOLDER / "done", FOLDER / "report.html"
    if not done.is_file():
        write_runs(runs, design(NUM_RUNS))
        done.touch()
    with one_thread():
        seconds = min((_seconds(runs, page) for _ in range(ROUNDS)), key=lambda parts: sum(parts.values()))
    for part, value in seconds.items():
        print(f"{part:<20}{value:>7.2f} s")
    print(f"{'together':<20}{sum(seconds.values()):>7.2f} s, page {page.stat().st_size / 1e6:.1f} MB, {NUM_RUNS} runs")


def _seconds(runs: Path, page: Path) -> dict[str, float]:
    """Return CPU seconds of the parts of one build."""
    start = time.process_time()
    found = find_runs([runs])
    read = time.process_time()
    made = make_report(found, "Does pretraining help?")
    compared = time.process_time()
    write_report(made, page)
    write_tables(made, page.with_name("tables"))
    written = time.process_time()
    return {"find runs": read - start, "compare and draw": compared - read, "write": written - compared}

"""Make one HTML page from run folders: what was compared, what came out, and how sure that is.

Folders are searched for runs at any depth, so `medpretrain3d report runs/demo -o report.html` covers a whole group.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from medpretrain3d.atomic import locked
from medpretrain3d.evaluation.named_metrics import AP_CENTER, MAP, METRICS, NamedMetric, metric_named
from medpretrain3d.lines import counted
from medpretrain3d.study.design import ALL, Declaration
from medpretrain3d.study.page import write_figures, write_report
from medpretrain3d.study.report import make_report
from medpretrain3d.study.run import Run, find_runs
from medpretrain3d.study.table_files import tables_folder, write_tables


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Folders in, a page out."""
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN_FOLDER", help="a run, or a folder above runs")
    parser.add_argument("-o", "--out", type=Path, default=Path("report.html"), help="the page (default: %(default)s)")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="also write every plot as SVG, for a paper")
    parser.add_argument(
        "--metric",
        help=f"what verdicts are about: {', '.join(METRICS)} (default: {AP_CENTER} where every test was of points, "
        f"else {MAP})",
    )
    parser.add_argument("--title", default="Does pretraining help?", help="heading of the page (default: %(default)s)")


def lock(args: argparse.Namespace) -> AbstractContextManager[None]:
    """Return one call writes the file at a time."""
    return locked(args.out) if args.out else nullcontext()


def run(args: argparse.Namespace) -> int:
    """Write the page and print its numbers."""
    runs = find_runs(args.folders)
    metric = metric_named(args.metric) if args.metric else _usual_metric(runs)
    report = make_report(runs, args.title, Declaration(metric, ALL))
    write_report(report, args.out)
    tables = write_tables(report, tables_folder(args.out))
    figures = write_figures(report, args.figures, args.out.stem) if args.figures else []
    print(f"{report}\n\n{tables_folder(args.out)}: {len(tables)} files, every table as CSV, Markdown and LaTeX")
    print(f"{args.out}: {counted(len(runs), 'run')}, {args.out.stat().st_size / 1e6:.1f} MB, one file")
    if figures:
        print(f"{args.figures}: {counted(len(figures), 'plot')}")
    return 0


def _usual_metric(runs: Sequence[Run]) -> NamedMetric:
    """Return the metric that exists in what the runs were tested on: a point has no overlap."""
    tested = [run for run in runs if run.is_tested]
    return AP_CENTER if tested and all(run.is_by_center for run in tested) else MAP

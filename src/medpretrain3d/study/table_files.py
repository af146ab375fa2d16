"""Tables of a report as files beside its page: CSV to compute with, Markdown and LaTeX to paste."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medpretrain3d.documents import csv_text
from medpretrain3d.study.report import Report
from medpretrain3d.study.report_files import file_stems, write_files
from medpretrain3d.study.table import Cell, Estimate, Table

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"}


def tables_folder(page: Path) -> Path:
    """Return the folder of the tables of a page: `report_tables` beside `report.html`."""
    return page.with_name(f"{page.stem}_tables")


def write_tables(report: Report, folder: Path) -> list[Path]:
    """Write every table of a report in each form, named after what it holds; those of an earlier one go, `write_files`.

    Raises:
        UserError: a file cannot be written.
    """
    forms = {"csv": table_csv, "md": table_markdown, "tex": table_latex}
    tables = zip(file_stems(report.tables), report.tables.values(), strict=True)
    files = {f"{stem}.{ending}": form(table) for stem, table in tables for ending, form in forms.items()}
    return write_files(folder, files)


def table_csv(table: Table) -> str:
    """Return a table with full precision; an estimate with an interval has columns `low` and `high` beside it."""
    columns = list(zip(*table.rows, strict=True))
    header: list[str] = []
    cells: list[list[object]] = [[] for _ in table.rows]
    for name, column in zip(table.header, columns, strict=True):
        has_interval = any(isinstance(cell, Estimate) and cell.has_interval for cell in column)
        header += [name, *([f"{name} low", f"{name} high"] if has_interval else [])]
        for row, cell in zip(cells, column, strict=True):
            if not isinstance(cell, Estimate):
                row += [cell, *(["", ""] if has_interval else [])]
                continue
            row.append(cell.value if cell.is_known else "")
            if has_interval:
                row += [cell.low, cell.high] if cell.has_interval else ["", ""]
    return csv_text(header, cells)


def table_markdown(table: Table) -> str:
    """Return a table as GitHub and most editors read it."""
    aligned = ["---" if place < table.num_text_columns else "---:" for place in range(len(table.header))]
    rows = [list(table.header), aligned, *([str(cell) for cell in row] for row in table.rows)]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |\n" for row in rows)


def table_latex(table: Table) -> str:
    """Return a table for the package `booktabs`."""
    columns = "".join("l" if place < table.num_text_columns else "r" for place in range(len(table.header)))
    lines = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _latex_row(table.header),
        r"\midrule",
        *(_latex_row(row) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(row: Sequence[Cell]) -> str:
    # A bracket that begins a row would be an option of the `\\` before it.
    cells = ["".join(_LATEX.get(sign, sign) for sign in str(cell)) for cell in row]
    return " & ".join(f"{{{cell}}}" if cell.startswith("[") else cell for cell in cells) + r" \\"

"""The notebooks of docs/ run from top to bottom, one after the other in one kernel: a start costs more than a page."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs/notebooks").glob("*.ipynb"))


def test_the_three_pages_are_there_without_results():
    """What they print is made anew by whoever opens them, and so is never old."""
    assert [path.stem for path in NOTEBOOKS] == ["compare_encoders", "other_frameworks", "own_data"]
    for path in NOTEBOOKS:
        cells = nbformat.read(path, 4).cells
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells), path.stem


def test_every_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # of the kernel: their folders go with the test
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    client = NotebookClient(nbformat.read(NOTEBOOKS[0], 4), timeout=120, resources={"metadata": {"path": tmp_path}})
    with client.setup_kernel():
        for path in NOTEBOOKS:
            client.nb = nbformat.read(path, 4)
            for index, cell in enumerate(client.nb.cells):
                client.execute_cell(cell, index)  # raises, with the cell, where one fails

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medpretrain3d.store.grid import Grid
from medpretrain3d.study.page import write_report
from medpretrain3d.study.report import make_report
from medpretrain3d.study.run import find_runs
from medpretrain3d.visualization.slice_stack import slice_stack, write_slices

from .test_report import NUM_CASES, write_finetuning

GRID = Grid((40, 40, 40), np.array([[0, 0, 1.0, 0.5], [0, 1.0, 0, 0.5], [1.0, 0, 0, 0.5], [0, 0, 0, 1]]))
"""Of which voxel edges are at whole millimeters: a box (x, y, z) in LPS is the box (z, y, x) in voxels."""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name, shift in (("scratch", 5.0), ("mae", 0.0)):
        folder = write_finetuning(tmp_path / "runs", name, name, shift)
        stack = slice_stack(np.zeros(GRID.shape), GRID, np.array([[10.0, 10, 10, 20, 20, 20]]), longest_edge_px=80)
        write_slices(folder / "test" / "slices", {f"case{i}": stack for i in range(NUM_CASES)})
    return tmp_path / "runs"


def test_boxes_of_every_arm_lie_on_the_same_slices(runs: Path):
    report = make_report(find_runs([runs]), "Title")
    first = report.viewed_cases[0]
    assert first.title.startswith("d: case")
    assert (first.data["size"], first.data["depth"], first.data["slices"]) == ([80, 80], 40, [15])
    # Slices 10 to 20; the other two axes in pixels, of which there are two a millimeter.
    assert first.data["truth"] == [[10, 20, 20, 20, 40, 40, 0]]
    found = {one["name"]: one["found"][0][:6] for one in first.data["arms"]}
    assert found == {"scratch": [10, 20, 30, 20, 50, 40], "mae": [10, 20, 20, 20, 40, 40]}
    picture = Image.open(io.BytesIO(base64.b64decode(first.data["uri"].partition(",")[2])))
    assert picture.size == (80, 80)


def test_the_page_holds_them_as_data_that_cannot_end_its_element(runs: Path):
    for folder in (runs / "demo").iterdir():
        path = folder / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"dataset": "</script><b>"}))
    page = runs / "page.html"
    write_report(make_report(find_runs([runs]), "Title"), page)
    (data,) = re.findall(r'<script type="application/json" id="cases">(.*?)</script>', page.read_text(), re.DOTALL)
    assert json.loads(data)[0]["title"].startswith("</script><b>: case")


def test_damaged_slices_are_said_and_pictures_shown_instead(runs: Path):
    for folder in (runs / "demo").iterdir():
        (folder / "test" / "slices" / "slices.json").write_text("{}")
    report = make_report(find_runs([runs]), "Title")
    assert report.viewed_cases == []
    assert any("slices.json" in note for note in report.notes)
    assert report.cases

from __future__ import annotations

import json

import numpy as np

from medpretrain3d import cli
from medpretrain3d.planning import LongObjects
from medpretrain3d.store.case import CaseData, Instance, write_case
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.store import write_index

EXTENTS = np.array([[4.0, 4, 4], [16, 16, 16], [28, 4, 4], [33, 4, 4], [50, 40, 4]])
LABELS = np.array([0, 0, 0, 1, 1])


def test_objects_longer_than_a_patch_and_than_half_of_it_are_counted_by_axis_and_class():
    found = LongObjects(EXTENTS, LABELS, ["node", "rib"], (32, 32, 32))
    assert (found.num_longer_than_patch, found.num_longer_than_half) == (2, 3)  # 16 is half of 32 and fits
    assert found.note() == (
        "3 of 5 training objects (60%) are longer than half of the patch of 32 x 32 x 32 voxels, so that tiles may cut "
        "them and pieces have to be joined; 2 (40%) are longer than all of it and never seen whole: 2 along D "
        "(longest 50), 1 along H (longest 40); 2 of 2 of 'rib'; take a larger patch (50 along D, 40 along H holds them "
        "all) or a coarser spacing"
    )


def test_where_objects_fit_into_the_patch_but_not_into_half_of_it():
    note = LongObjects(EXTENTS[:3], LABELS[:3], ["node"], (32, 32, 32)).note()
    assert "1 of 3 training objects (33%)" in note
    assert "none is longer than all of it: 1 along D (longest 28); take a larger patch (56 along D holds" in note
    assert LongObjects(EXTENTS[:2], LABELS[:2], ["node"], (32, 32, 32)).note() == ""
    assert LongObjects(np.zeros((0, 3)), np.zeros(0, int), ["node"], (32, 32, 32)).note() == ""


def test_where_the_patch_spans_a_scan_no_tile_cuts_its_objects():
    """The first two lie in scans of 6 slices, the last in one of 7, which takes two tiles of 6."""
    extents = np.array([[4.0, 9, 9], [6, 40, 9], [5, 9, 9]])
    scans = np.array([[6, 64, 64], [6, 64, 64], [7, 64, 64]])
    found = LongObjects(extents, np.zeros(3, int), ["node"], (6, 64, 64), scans)
    assert (found.num_longer_than_patch, found.num_longer_than_half) == (0, 1)
    assert "1 along D (longest 5); take a larger patch (10 along D holds them all)" in found.note()
    assert LongObjects(extents[:2], np.zeros(2, int), ["node"], (6, 64, 64), scans[:2]).note() == ""
    assert "1 along H (longest 40)" in LongObjects(extents, np.zeros(3, int), ["n"], (8, 64, 64), scans + 1).note()


def test_plan_says_how_many_objects_are_too_long_for_its_patch(tmp_path, capsys):
    """Of scans of 32^3, which the patch spans, and of three of 40 slices, with the rods."""
    rod, ball, rows = Instance(1, 0, (2.0, 2, 2, 30, 8, 8)), Instance(1, 1, (4.0, 20, 20, 10, 26, 26)), []
    for number, objects in enumerate([*[[rod]] * 3, *[[ball]] * 3, []]):
        shape = (40 if rod in objects else 32, 32, 32)
        grid = Grid(shape, np.eye(4)[[2, 1, 0, 3]])
        image = np.zeros((1, *shape), np.int16)
        rows.append(write_case(tmp_path / "s", CaseData(f"c{number}", image, grid, grid, "x.nii", objects)))
    write_index(tmp_path / "s", ["rod", "ball"], None, rows, {})
    arguments = ["plan", str(tmp_path / "s"), "--memory", "3", "--preset", "XXS", "--anchors-per-level", "2"]
    assert cli.main([*arguments, "-o", str(tmp_path / "plan.json")]) == 0
    told = "3 of 6 training objects (50%) are longer than half of the patch of 32 x 32 x 32 voxels"
    printed = capsys.readouterr()
    assert f"note: {tmp_path / 's'}: {told}" in printed.err
    assert "3 of 3 of 'rod'" in printed.err
    assert json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))["report"]["long_objects"].startswith(told)

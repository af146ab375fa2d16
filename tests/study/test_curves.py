from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medpretrain3d.errors import UserError
from medpretrain3d.study.curves import Curve, read_curves


def test_empty_cells_words_and_infinities_are_left_out_and_steps_sorted(tmp_path: Path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train/loss,val/mAP\n0,9,0.5,\n0,4,1.5,\n0,9,,0.25\n1,14,inf,nan\n1,19,,n/a\n")
    curves = read_curves(path)
    assert set(curves) == {"train/loss", "val/mAP"}
    assert (list(curves["train/loss"].steps), list(curves["train/loss"].values)) == ([4, 9], [1.5, 0.5])
    assert (list(curves["val/mAP"].steps), list(curves["val/mAP"].values)) == ([9], [0.25])


def test_empty_file_has_no_curves(tmp_path: Path):
    path = tmp_path / "metrics.csv"
    path.write_text("")
    assert read_curves(path) == {}


def test_bad_files_say_what_is_wrong(tmp_path: Path):
    path = tmp_path / "metrics.csv"
    path.write_text("loss\n1\n")
    with pytest.raises(UserError, match="no column 'step'"):
        read_curves(path)
    path.write_text("step,loss\nx,1\n")
    with pytest.raises(UserError, match="line 2: step is 'x'"):
        read_curves(path)


def test_binning_takes_means():
    binned = Curve([0, 1, 2, 3], [1.0, 3.0, 5.0, 9.0]).binned(2)
    assert (binned.steps, binned.values) == ([0.5, 2.5], [2.0, 7.0])


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=60), st.integers(1, 20))
def test_binning_stays_within_the_curve(values: list[float], max_points: int):
    binned = Curve(list(range(len(values))), values).binned(max_points)
    assert len(binned) == min(len(values), max_points)
    assert min(values) - 1e-9 <= min(binned.values) <= max(binned.values) <= max(values) + 1e-9


def test_a_last_line_torn_by_a_crash_gives_no_point(tmp_path: Path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,loss\n0,9,0.5\n0,1")  # of step 14
    assert list(read_curves(path)["loss"].steps) == [9]
    path.write_text("epoch,step,loss\n0,9,0.5\n0,14,0.25")  # whole, from an editor that writes no last newline
    assert list(read_curves(path)["loss"].steps) == [9, 14]

"""Seeds of two arms, paired on the scans that they have in common."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from medpretrain3d.study.report import make_report
from medpretrain3d.study.run import find_runs

from .test_report import write_finetuning, write_test


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_a_seed_on_other_scans_is_left_out_whichever_it_is(tmp_path: Path, odd: int):
    """Two seeds on the same scans have a verdict, and one of them has none."""
    for arm, shift in (("scratch", 5.0), ("mae", 2.0)):
        for seed in range(3):
            folder = write_finetuning(tmp_path, f"{arm}_{seed}", arm, shift, seed=seed)
            if seed == odd:
                shutil.rmtree(folder / "test")
                write_test(folder, shift, case_prefix="other")
    report = make_report(find_runs([tmp_path]), "Title")
    (row,) = report.differences.rows
    assert (row[3], row[-1]) == ("2", "better")
    (note,) = (one for one in report.notes if "no paired difference" in one)
    assert note.startswith(f"demo/mae_{odd}: ")
    assert note.endswith("other seeds were tested on different cases or boxes; test all on the same")

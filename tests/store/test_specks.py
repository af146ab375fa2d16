from __future__ import annotations

import json

import numpy as np
import pytest

from medpretrain3d import cli
from medpretrain3d.planning import make_plan
from medpretrain3d.store.corpus import Corpus
from medpretrain3d.store.specks import are_specks, speck_notes
from medpretrain3d.store.store import Store


@pytest.fixture
def organs(tmp_path, write_nifti):
    """Four scans with two organs of 8 x 12 x 10 voxels each; beside them 1, 1 and 2 voxels of the second class."""

    def write(name, with_specks=True):
        raw = tmp_path / name
        for number in range(4):
            mask = np.zeros((40, 40, 40), np.uint8)
            mask[4:12, 4:16, 4:14] = 1
            mask[24:32, 20:32, 20:30] = 2
            if with_specks and number < 2:
                mask[2, 36, 36] = 2
            if with_specks and number == 2:
                mask[36, 2, 2:4] = 2
            image = np.where(mask > 0, 60, -900).astype(np.int16) + np.int16(number)
            write_nifti(image, f"imagesTr/{number}_0000.nii.gz", folder=raw)
            write_nifti(mask, f"labelsTr/{number}.nii.gz", folder=raw)
        document = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "kidney": 2}}
        (raw / "dataset.json").write_text(json.dumps(document))
        return str(raw)

    return write


def test_specks_are_said_with_their_sizes_and_what_to_do(organs, tmp_path, capsys):
    store = str(tmp_path / "store")
    assert cli.main(["prepare", organs("raw"), store]) == 0
    line = "3 of 7 objects of class 'kidney' are specks of 1, 1, 2 voxels; if they are no objects, prepare with "
    assert line + "--min-voxels 3" in capsys.readouterr().out
    assert cli.main(["prepare", organs("raw"), store, "--min-voxels", "3"]) == 0
    printed = capsys.readouterr().out
    assert "are specks" not in printed
    assert "3 components smaller than --min-voxels 3 are background" in printed
    assert "in 3 of 4 cases" in printed
    assert sum(entry["num_objects"] for entry in Store(store).entries.values()) == 8
    assert cli.main(["prepare", organs("clean", with_specks=False), str(tmp_path / "clean_store")]) == 0
    printed = capsys.readouterr().out
    assert "are specks" not in printed
    assert "--min-voxels" not in printed


@pytest.mark.parametrize("options", [(), ("--spacing-mm", "2", "2", "2")])
def test_a_plan_spends_no_level_and_no_anchor_on_specks(organs, tmp_path, options, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the recipe is written
    plans = []
    for name, with_specks in (("dirty", True), ("clean", False)):
        assert cli.main(["prepare", organs(name, with_specks), str(tmp_path / f"{name}_store"), *options]) == 0
        plans.append(make_plan(Corpus([tmp_path / f"{name}_store"]), 4.0, "XXS", 3))
    dirty, clean = plans
    assert (dirty.first_level, dirty.anchors) == (clean.first_level, clean.anchors)
    assert (dirty.report["specks_left_out"], dirty.report["num_boxes"]) == (3, 8)
    assert "specks_left_out" not in clean.report
    capsys.readouterr()
    assert cli.main(["plan", str(tmp_path / "dirty_store"), "--preset", "XXS", "--memory", "4"]) == 0
    said = capsys.readouterr().err
    assert "are specks of 1, 1, 2 voxels" in said
    assert "planned without them" in said
    assert ("every scan keeps its own spacing" in said) == (not options)


def test_a_store_in_which_objects_were_not_counted_goes_by_their_boxes(organs, tmp_path):
    assert cli.main(["prepare", organs("raw"), str(tmp_path / "store")]) == 0
    before = speck_notes(Store(tmp_path / "store"))
    for path in (tmp_path / "store/cases").glob("*/case.json"):
        sidecar = json.loads(path.read_text())
        del sidecar["object_voxels"]
        path.write_text(json.dumps(sidecar))
    assert speck_notes(Store(tmp_path / "store")) == before
    cases = [Store(tmp_path / "store").case(str(number)) for number in range(4)]
    assert [int(one.sum()) for one in are_specks(cases)] == [1, 1, 1, 0]

"""A store that is resampled from a store is the one that `prepare` would have made at that spacing."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.prepare import prepare
from medpretrain3d.ingest.prepare_options import PrepareOptions
from medpretrain3d.store.resampled_store import resample_store
from medpretrain3d.store.store import Store
from medpretrain3d.store.stratify import split_store

SPACING_MM = (1.5, 0.8, 0.7)
OBLIQUE = np.array([[0.9, -0.3, 0, 5], [0.3, 0.9, 0, -7], [0, 0, 2.0, 3], [0, 0, 0, 1]])


@pytest.fixture
def raw(tmp_path, make_dataset, write_nifti):
    folder = make_dataset(["a", "b", "c"])
    rng = np.random.default_rng(0)
    for case_id, affine in (("a", np.diag([-0.7, 0.9, 2.5, 1])), ("b", OBLIQUE)):
        mask = np.zeros((14, 12, 9), np.uint8)
        mask[2:5, 3:9, 1:4] = 1
        mask[9:13, 2:4, 5:8] = 2
        mask[7, 7, 7] = 1  # which a coarser mask may lose
        image = rng.normal(0, 300, mask.shape).astype(np.int16)
        write_nifti(image, f"imagesTr/{case_id}_0000.nii.gz", affine, folder)
        write_nifti(mask, f"labelsTr/{case_id}.nii.gz", affine, folder)
    return folder


def test_it_is_what_prepare_makes_of_the_raw_files(raw, tmp_path):
    prepare(raw, tmp_path / "native")
    prepare(raw, tmp_path / "prepared", PrepareOptions(SPACING_MM))
    made = resample_store(tmp_path / "native", tmp_path / "resampled", SPACING_MM)
    assert (made.num_cases, made.num_reused) == (3, 0)
    expected, found = Store(tmp_path / "prepared"), Store(tmp_path / "resampled")
    assert found.fingerprint == expected.fingerprint  # voxels, masks, boxes, geometry
    assert (found.spacing_mm, found.splits) == (SPACING_MM, expected.splits)
    for case_id in expected.case_ids:
        assert found.entries[case_id] == expected.entries[case_id]
        assert found.case(case_id).statistics == expected.case(case_id).statistics
    # So `prepare` takes the cases for its own.
    assert prepare(raw, tmp_path / "resampled", PrepareOptions(SPACING_MM)).reused == 3


def test_units_patients_folds_and_ignored_regions_come_along(tmp_path):
    from medpretrain3d.store.case import CaseData, Instance, write_case
    from medpretrain3d.store.grid import Grid
    from medpretrain3d.store.store import write_index

    grid, rows = Grid((8, 8, 8), np.diag([2.0, 2, 2, 1])), []
    for number in range(4):
        image = np.arange(1024, dtype=np.int16).reshape(2, 8, 8, 8) + np.int16(number)
        objects = [Instance(0, 0, (1.0, 1, 1, 3, 3, 3))]
        rows.append(
            write_case(
                tmp_path / "native",
                CaseData(
                    f"c{number}", image, grid, grid, "x.nii", objects, None, [(4.0, 4, 4, 6, 6, 6)], f"p{number // 2}",
                    rescale=((0.5, 1.0), (2.0, 0.0)),
                ),
            )
        )  # fmt: skip
    write_index(tmp_path / "native", ["lesion"], None, rows, {}, ["T1", "T2"])
    split_store(Store(tmp_path / "native"), 2)
    resample_store(tmp_path / "native", tmp_path / "out", (4.0, 2.0, 1.0))
    native, out = Store(tmp_path / "native"), Store(tmp_path / "out")
    case = out.case("c0")
    assert (out.unit, out.channel_names, case.rescale) == ("any", ("T1", "T2"), ((0.5, 1.0), (2.0, 0.0)))
    assert case.grid.shape == (4, 8, 16)
    assert case.boxes.tolist() == [[0.5, 1, 2, 1.5, 3, 6]]
    assert case.ignore_boxes.tolist() == [[2, 4, 8, 3, 6, 12]]
    assert [out.entries[one]["patient"] for one in out.case_ids] == ["p0", "p0", "p1", "p1"]
    assert out.all_splits == native.all_splits
    assert [out.entries[one]["voxels"] for one in out.case_ids] == [
        native.entries[one]["voxels"] for one in out.case_ids
    ]


def test_what_is_made_is_kept_and_what_changed_or_is_damaged_is_made_again(raw, tmp_path):
    prepare(raw, tmp_path / "native")
    out = tmp_path / "out"
    resample_store(tmp_path / "native", out, SPACING_MM)
    before = Store(out).fingerprint
    assert resample_store(tmp_path / "native", out, SPACING_MM).num_reused == 3
    (out / "cases/a/image.b2nd").write_bytes(b"")
    assert resample_store(tmp_path / "native", out, SPACING_MM).num_reused == 2
    prepare(raw, tmp_path / "native", PrepareOptions(min_voxels=2))  # takes an object away from a and b
    assert resample_store(tmp_path / "native", out, SPACING_MM).num_reused == 1
    assert Store(out).fingerprint != before
    assert resample_store(tmp_path / "native", out, SPACING_MM).num_reused == 3
    os.utime(raw / "imagesTr/a_0000.nii.gz", (1, 1))  # `prepare` would not take the case of before for its own
    prepare(raw, tmp_path / "native", PrepareOptions(min_voxels=2))
    assert resample_store(tmp_path / "native", out, SPACING_MM).num_reused == 2


def test_a_store_at_another_spacing_is_not_replaced(raw, tmp_path):
    prepare(raw, tmp_path / "native")
    resample_store(tmp_path / "native", tmp_path / "out", (0.7031, 2.0, 2.0))
    with pytest.raises(UserError, match=r"out: is a store at 0\.7031 x 2\.0 x 2\.0 mm, .* asked for is 0\.7034 x 2\.0"):
        resample_store(tmp_path / "native", tmp_path / "out", (0.7034, 2.0, 2.0))
    assert Store(tmp_path / "out").spacing_mm == (0.7031, 2.0, 2.0)
    prepare(raw, tmp_path / "other")
    with pytest.raises(UserError, match="other: is a store at each scan's own, which a recipe may name"):
        resample_store(tmp_path / "native", tmp_path / "other", SPACING_MM)
    (tmp_path / "out" / "store.json").unlink()  # as a killed call leaves it
    assert resample_store(tmp_path / "native", tmp_path / "out", SPACING_MM).num_reused == 0


def test_a_folder_of_other_content_is_refused(raw, tmp_path):
    prepare(raw, tmp_path / "native")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_text("x")
    with pytest.raises(UserError, match=r"photos: holds holiday.jpg; remove that folder"):
        resample_store(tmp_path / "native", tmp_path / "photos", SPACING_MM)
    with pytest.raises(UserError, match="is the store itself"):
        resample_store(tmp_path / "native", tmp_path / "native", SPACING_MM)
    resample_store(tmp_path / "native", tmp_path / "out", SPACING_MM)
    document = json.loads((tmp_path / "out/cases/a/case.json").read_text())
    (tmp_path / "out/cases/a").rename(tmp_path / "out/cases/z")
    assert document["id"] == "a"
    with pytest.raises(UserError, match=r"holds case 'z', which is not of"):
        resample_store(tmp_path / "native", tmp_path / "out", SPACING_MM)

"""What names of channels say of the unit of intensities, in one data set and in several."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.channel_names import common_channel_names, unit_of
from medpretrain3d.ingest.importers import RawDataset, read_raw
from medpretrain3d.ingest.prepare import prepare
from medpretrain3d.store import Store

RANDOM = np.random.default_rng(0)
CT = RANDOM.integers(-1000, 400, (12, 10, 8)).astype(np.int16)
SUV = RANDOM.gamma(1.2, 0.8, (12, 10, 8)).astype(np.float32)
MR = (RANDOM.random((12, 10, 8)) * 900 + 40).astype(np.float32)


def nnunet(write_nifti, raw, channels, case="p"):
    for number, array in enumerate(channels.values()):
        write_nifti(array, f"{raw}/imagesTs/{case}_000{number}.nii.gz")
    folder = write_nifti(CT, f"{raw}/imagesTr/{case}x.nii.gz").parents[1]
    names = {str(number): name for number, name in enumerate(channels)}
    (folder / "dataset.json").write_text(json.dumps({"channel_names": names, "labels": {"background": 0, "x": 1}}))
    return folder


def test_values_beside_ct_are_not_rounded_to_whole_numbers(tmp_path, write_nifti):
    summary = prepare(nnunet(write_nifti, "raw", {"CT": CT, "PET": SUV}), tmp_path / "store")
    case = Store(tmp_path / "store").case("p")
    stored = case.read_image()
    for channel, (slope, start), array in zip(stored, case.rescale, (CT, SUV), strict=True):
        assert np.allclose(np.sort(channel * slope + start, axis=None), np.sort(array, axis=None), atol=SUV.max() / 6e4)
    assert case.rescale[0] == (1.0, 0.0)  # HU stay what they are
    assert "channels: CT, PET; without a unit, since not all are CT" in summary.report.lines()


def test_scans_called_by_several_modalities_of_mr_are_not_in_hu(tmp_path, write_nifti):
    for name in ("p_t1", "p_t2", "q_t2_flair"):
        raw = write_nifti(MR, f"raw/{name}.nii.gz").parent
    summary = prepare(raw, tmp_path / "store")
    store = Store(tmp_path / "store")
    assert (store.channel_names, store.unit) == (("T1 or T2 or T2 FLAIR",), "any")
    assert "channels: T1 or T2 or T2 FLAIR; without a unit" in summary.report.lines()
    write_nifti(CT, "raw/q_ct.nii.gz")
    assert unit_of(read_raw(raw).channel_names) == "any"


def test_what_is_not_named_is_taken_for_hu_and_said(tmp_path, write_nifti):
    report = prepare(write_nifti(CT, "raw/p.nii.gz").parent, tmp_path / "store").report
    assert "channels: 1, not named; taken as in HU; say --intensity any where they are not" in report.lines()
    assert (report.channels, report.unit) == (("channel 0",), "hu")


@pytest.mark.parametrize(
    ("names", "unit"),
    [
        (["CT"], "hu"),
        (["CT_portal_venous"], "hu"),
        (["ct arterial", "CT-late"], "hu"),
        (["channel 0", "channel 1"], "hu"),
        (["CT", "PET"], "any"),
        (["CT/PT"], "any"),
        (["T1", "T2"], "any"),
        (["T1 first contrast phase"], "any"),
        (["effect"], "any"),
    ],
)
def test_only_channels_called_ct_are_in_hu(names, unit):
    assert unit_of(names) == unit


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("CT",), ("FLAIR",)),
        (("T1", "T2"), ("T2", "T1")),
        (("CT", "PET"), ("CT",)),
        (("CT a", "CT b"), ("CT b", "CT a")),
    ],
)
def test_data_sets_of_different_channels_are_refused(tmp_path, first, second):
    datasets = [RawDataset((), (), channel_names=names) for names in (first, second)]
    with pytest.raises(
        UserError, match=r"data sets of different channels \(.*a: .*; .*b: .*\); prepare them into diff"
    ):
        common_channel_names([tmp_path / "a", tmp_path / "b"], datasets)


@pytest.mark.parametrize(
    ("first", "second"), [(("CT",), ("CT_venous",)), (("T1", "T2"), ("t1", "t2")), (("T1",), ()), ((), ("T1",))]
)
def test_data_sets_of_the_same_channels_go_together(tmp_path, first, second):
    datasets = [RawDataset((), (), channel_names=names) for names in (first, second)]
    assert common_channel_names([tmp_path] * 2, datasets) == (first or second)


def test_corpora_of_ct_and_of_mr_are_not_made_one_store(tmp_path, write_nifti):
    ct, mr = write_nifti(CT, "ct/p_ct.nii.gz").parent, write_nifti(MR, "mr/q_flair.nii.gz").parent
    with pytest.raises(UserError, match=r"data sets of different channels .*ct: CT; .*mr: FLAIR"):
        prepare([ct, mr], tmp_path / "store")
    assert not (tmp_path / "store" / "cases").exists()

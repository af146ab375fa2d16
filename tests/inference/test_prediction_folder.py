"""A second call into a folder of predictions: whatever lies there afterwards is of one call, or is named."""

from __future__ import annotations

import hashlib
import json

import nibabel as nib
import numpy as np
import pytest
import torch

from medpretrain3d.backbones import ResEnc
from medpretrain3d.cli import main
from medpretrain3d.detection import AnchorGrid, RetinaUNet
from medpretrain3d.inference import InferenceConfig, save_bundle
from medpretrain3d.store.preprocessing import Preprocessing

BOTH = ["--format", "json", "masks"]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Two segmenting detectors of one class that find other boxes."""
    folders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        detector = RetinaUNet(ResEnc("XXS"), 1, AnchorGrid([[(4, 4, 4)]]), first_level=3, fpn_channels=16)
        folders.append(tmp_path_factory.mktemp("bundle") / str(seed))
        config = InferenceConfig(score_threshold=0.0, max_per_class=6)
        save_bundle(folders[-1], detector, ["nodule"], Preprocessing((16, 16, 16)), config)
    return folders


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in "abc":
        array = random.integers(-1000, 500, (12, 14, 10)).astype(np.int16)
        nib.save(nib.Nifti1Image(array, np.diag([-1.0, -1, 1, 1])), folder / f"{name}.nii.gz")
    return folder


def predict(bundle, out, *args):
    return main(["predict", str(bundle), *map(str, args), "-o", str(out), "--device", "cpu"])


def entries(out):
    return {one["case"]: one for one in json.loads((out / "predictions.json").read_text())["predictions"]}


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*")) if path.is_file()}


def test_predictions_say_which_masks_number_their_boxes(bundles, scans, tmp_path):
    out = tmp_path / "out"
    for formats in (BOTH, ["--format", "json"], BOTH):  # of the same boxes, whether they are asked for again or not
        assert predict(bundles[0], out, scans, *formats) == 0
        for case, entry in entries(out).items():
            data = (out / "masks" / f"{case}.nii.gz").read_bytes()
            assert entry["mask_sha256"] == hashlib.sha256(data).hexdigest()


def test_masks_of_another_bundles_boxes_go(bundles, scans, tmp_path, capsys):
    out = tmp_path / "out"
    assert predict(bundles[0], out, scans, *BOTH) == 0
    assert predict(bundles[1], out, scans) == 0
    assert f"note: 3 masks of other boxes removed from {out / 'masks'}" in capsys.readouterr().out
    assert files(out / "masks") == {}
    assert not any("mask_sha256" in entry for entry in entries(out).values())


def test_masks_of_boxes_that_a_threshold_numbers_anew_go(bundles, scans, tmp_path, capsys):
    out, scan = tmp_path / "out", scans / "a.nii.gz"
    assert predict(bundles[0], out, scan, *BOTH) == 0
    threshold = ["--class-threshold", f"nodule={np.mean(entries(out)['a']['scores'][2:4])}"]
    assert predict(bundles[0], out, scan, *threshold) == 0
    assert "1 masks of other boxes removed" in capsys.readouterr().out
    assert len(entries(out)["a"]["boxes"]) == 3
    assert files(out / "masks") == {}
    assert predict(bundles[0], out, scan, *threshold, *BOTH) == 0
    assert entries(out)["a"]["mask_sha256"] == hashlib.sha256(files(out / "masks")["a.nii.gz"]).hexdigest()


def test_masks_that_somebody_changed_stay_and_are_named(bundles, scans, tmp_path, capsys):
    out = tmp_path / "out"
    assert predict(bundles[0], out, scans, *BOTH) == 0
    (out / "masks" / "a.nii.gz").write_bytes(b"corrected by hand")
    assert predict(bundles[1], out, scans) == 0
    said = capsys.readouterr().out
    assert "2 masks of other boxes removed" in said
    assert f"{out} also holds files of an earlier call, of other scans or boxes than this one's: 1 in masks" in said
    assert files(out / "masks") == {"a.nii.gz": b"corrected by hand"}


def test_masks_stay_with_the_files_of_all_scans_where_a_scan_fails(bundles, scans, tmp_path, capsys):
    out, every = tmp_path / "out", ["--format", "json", "masks", "nifti"]
    assert predict(bundles[0], out, scans, *every) == 0
    before = {name: files(out / name) for name in (".", "masks", "nifti")}
    good = (scans / "b.nii.gz").read_bytes()
    (scans / "b.nii.gz").write_bytes(b"cut off by a full disk")
    assert predict(bundles[1], out, scans, *every) == 1
    assert "stay as an earlier call wrote them" in capsys.readouterr().err
    assert {name: files(out / name) for name in before} == before
    (scans / "b.nii.gz").write_bytes(good)
    assert predict(bundles[1], out, scans, *every) == 0
    assert "2 of 3 scans taken from" in capsys.readouterr().out  # with their masks
    assert predict(bundles[1], tmp_path / "fresh", scans, *every) == 0
    for name in before:
        assert files(out / name) == files(tmp_path / "fresh" / name)
    assert [path.name for path in (out / "cases").iterdir() if path.is_dir()] == []


def test_files_of_all_scans_in_other_formats_follow(bundles, scans, tmp_path, capsys):
    out, every = tmp_path / "out", ["--format", "json", "csv", "coco", "slicer"]
    assert predict(bundles[0], out, scans, *every) == 0
    assert predict(bundles[0], out, scans / "a.nii.gz", "--format", "json") == 0
    said = capsys.readouterr().out
    assert "held predictions of 2 more scans" in said
    assert "this one's: 2 in slicer" in said
    assert predict(bundles[0], tmp_path / "fresh", scans / "a.nii.gz", *every) == 0
    assert files(out) == files(tmp_path / "fresh")
    assert predict(bundles[1], out, scans / "a.nii.gz", "--format", "masks") == 0  # without naming predictions.json
    assert entries(out)["a"]["mask_sha256"] == hashlib.sha256(files(out / "masks")["a.nii.gz"]).hexdigest()
    assert "this one's: 3 in slicer" in capsys.readouterr().out


def test_files_of_the_same_boxes_are_no_matter(bundles, scans, tmp_path, capsys):
    out = tmp_path / "out"
    assert predict(bundles[0], out, scans, "--format", "json", "slicer", "nifti", "masks") == 0
    assert predict(bundles[0], out, scans, "--format", "csv") == 0
    assert "earlier call" not in capsys.readouterr().out

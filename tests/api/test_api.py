"""`import medpretrain3d as mp` as a program uses it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

import medpretrain3d as mp
from medpretrain3d.backbones import ResEnc, save_encoder
from medpretrain3d.configurable import to_config
from medpretrain3d.detection import AnchorGrid, RetinaNet
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.detection import MAP_KEY
from medpretrain3d.inference import InferenceConfig, Prediction, save_bundle
from medpretrain3d.store import PercentileWindow, Preprocessing, Window
from medpretrain3d.store.intensity import PerUnit, ZScore
from medpretrain3d.store.volume import read_volume
from tests.dicom_files import AXIAL, write_scan

HU = np.random.default_rng(0).integers(-900, 1500, (12, 14, 10)).astype(np.int16)
RAS = np.diag([-1.0, -1, 1, 1]) @ AXIAL


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    detector = RetinaNet(ResEnc("XXS"), 1, AnchorGrid([[(4, 4, 4)]]), first_level=3, fpn_channels=16)
    folder = tmp_path_factory.mktemp("run") / "bundle"
    config = InferenceConfig(score_threshold=0.0, max_per_class=5)
    save_bundle(folder, detector, ["nodule"], Preprocessing((16, 16, 16), spacing_mm=(2, 2, 2)), config)
    return folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """One scan in every form."""
    folder = tmp_path_factory.mktemp("scan")
    nib.save(nib.Nifti1Image(HU, RAS), folder / "scan.nii.gz")
    image = sitk.GetImageFromArray(HU.transpose(2, 1, 0))
    image.SetSpacing((0.9, 0.8, 2.5))
    return {
        "NIfTI file": folder / "scan.nii.gz",
        "text of a path": str(folder / "scan.nii.gz"),
        "nibabel": nib.Nifti1Image(HU, RAS),
        "nibabel, not in memory": nib.load(folder / "scan.nii.gz"),
        "SimpleITK": image,
        "DICOM": write_scan(folder / "dicom", HU.astype(int)),
        "Volume": read_volume(folder / "scan.nii.gz"),
    }


def test_a_scan_is_the_same_in_every_form(scans):
    expected = read_volume(scans["NIfTI file"])
    for name, scan in scans.items():
        volume = mp.as_volume(scan)
        np.testing.assert_array_equal(volume.array, expected.array, err_msg=name)
        np.testing.assert_allclose(volume.grid.affine_lps, expected.grid.affine_lps, atol=1e-5, err_msg=name)
    learned = torch.from_numpy(HU.astype(np.float32)).requires_grad_()
    for array in (HU, HU[None], torch.from_numpy(HU), HU.astype(np.float32), learned):
        np.testing.assert_array_equal(mp.as_volume(array, affine_lps=AXIAL).array, expected.array)
    canonical = expected.array[0]
    np.testing.assert_array_equal(mp.as_volume(canonical, spacing_mm=(2.5, 0.8, 0.9)).array, expected.array)


def test_an_oblique_image_of_simpleitk_lies_where_its_file_does(tmp_path):
    image = sitk.GetImageFromArray(HU.transpose(2, 1, 0))
    image.SetSpacing((0.9, 0.8, 2.5))
    image.SetOrigin((-10, 20, 30))
    turn = np.linalg.qr(np.eye(3) + 0.1 * np.arange(9).reshape(3, 3))[0]
    image.SetDirection(turn.reshape(-1))
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    ours, file = mp.as_volume(image), read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(ours.array, file.array)
    np.testing.assert_allclose(ours.grid.affine_lps, file.grid.affine_lps, atol=1e-4)


def test_several_channels(tmp_path):
    two = np.stack([HU, HU + 1])
    assert mp.as_volume(two, affine_lps=AXIAL).num_channels == 2
    assert mp.as_volume(nib.Nifti1Image(np.moveaxis(two, 0, -1), RAS)).num_channels == 2
    image = sitk.GetImageFromArray(np.moveaxis(two, 0, -1).transpose(2, 1, 0, 3), isVector=True)
    np.testing.assert_array_equal(mp.as_volume(image).array[1], (HU + 1).transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("scan", "options", "message"),
    [
        (HU, {}, "got neither of affine_lps and spacing_mm"),
        (HU, {"affine_lps": AXIAL, "spacing_mm": (1, 1, 1)}, "got both"),
        (HU, {"affine_lps": np.eye(3)}, r"affine of shape \(3, 3\)"),
        (HU[0], {"spacing_mm": (1, 1, 1)}, r"of shape \(14, 10\)"),
        (HU.astype(str), {"spacing_mm": (1, 1, 1)}, "wanted numbers"),
        (nib.Nifti1Image(np.zeros(HU.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")]), RAS), {}, "wanted numbers"),
        (nib.Nifti1Image(HU.astype(np.complex64), RAS), {}, "of complex64, wanted numbers"),
        (sitk.Image([8, 8, 8], sitk.sitkComplexFloat32), {}, "of complex64, wanted numbers"),
        (np.full((3, 3, 3), np.nan), {"spacing_mm": (1, 1, 1)}, "NaN or infinite"),
        (HU, {"spacing_mm": (1e-9, 1, 1)}, "gives voxels of"),
        (HU, {"spacing_mm": (0, 1, 1)}, "wanted three positive numbers, along D, H and W"),
        (HU, {"spacing_mm": (-1, 1, 1)}, r"spacing_mm \[-1\.0, 1\.0, 1\.0\], wanted three positive"),
        (HU, {"spacing_mm": (1, 1)}, r"spacing_mm \[1\.0, 1\.0\], wanted three positive"),
        (HU, {"spacing_mm": 1.0}, r"spacing_mm 1\.0, wanted three positive"),
        (HU, {"spacing_mm": (1, np.nan, 1)}, "wanted three positive"),
        (HU, {"spacing_mm": "1 1 1"}, "spacing_mm '1 1 1', wanted numbers"),
        (HU, {"affine_lps": [[1, 2], [3]]}, "wanted numbers"),
        (torch.from_numpy(HU).to(torch.bfloat16), {"spacing_mm": (1, 1, 1)}, r"a Tensor \(torch.bfloat16, cpu\)"),
        (nib.Nifti1Image(HU, RAS), {"spacing_mm": (1, 1, 1)}, "are of arrays, got a Nifti1Image"),
        (7, {}, "got a int as a scan"),
        ("nothing.nii.gz", {}, "no such file"),
    ],
)
def test_what_is_no_scan_is_said_in_a_line(scan, options, message):
    with pytest.raises(UserError, match=message):
        mp.as_volume(scan, **options)


def test_predict_gives_the_same_boxes_for_every_form(bundle, scans):
    detector = mp.Detector.from_pretrained(bundle, device="cpu")
    assert detector.classes == ("nodule",)
    expected = mp.predict(bundle, scans["NIfTI file"], device="cpu")
    assert len(expected)
    assert (expected.case, expected.file) == ("scan", "scan.nii.gz")
    for scan in (scans["nibabel"], scans["SimpleITK"], scans["DICOM"]):
        found = detector.predict(scan)
        np.testing.assert_allclose(found.boxes_lps_mm, expected.boxes_lps_mm, atol=1e-3)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    found = mp.predict(detector, HU, affine_lps=AXIAL, case="mine")
    np.testing.assert_allclose(found.boxes_lps_mm, expected.boxes_lps_mm, atol=1e-3)
    assert found.case == "mine"


def test_a_detector_is_found_in_its_run_and_options_are_checked(bundle, tmp_path):
    detector = mp.Detector.from_pretrained(str(bundle.parent), device="cpu", max_per_class=1)
    assert len(detector.predict(HU, spacing_mm=(2, 2, 2))) == 1
    assert len(mp.Detector.from_pretrained([bundle, bundle], device="cpu").predictor.bundles) == 2
    with pytest.raises(UserError, match="got the options treshold, wanted fields of InferenceConfig: "):
        mp.Detector.from_pretrained(bundle, treshold=0.3)
    with pytest.raises(UserError, match="got score_threshold, wanted options out of affine_lps, spacing_mm, case"):
        mp.predict(bundle, HU, spacing_mm=(2, 2, 2), score_threshold=0.5)
    with pytest.raises(UserError, match="got device with a Detector, which has its own"):
        mp.predict(detector, HU, spacing_mm=(2, 2, 2), device="cuda")
    save_encoder(tmp_path / "encoder", ResEnc("XXS"), {})
    with pytest.raises(UserError, match=r"holds no bundle\.json, so it is no detector"):
        mp.Detector.from_pretrained(tmp_path / "encoder")


def test_features_of_an_encoder_are_those_of_its_network(tmp_path, scans):
    torch.manual_seed(0)
    network = ResEnc("XXS").eval()
    preprocessing = Preprocessing((32, 32, 32), spacing_mm=(2.5, 0.8, 0.9))
    save_encoder(tmp_path / "encoder", network, {"preprocessing": preprocessing.to_json()})
    encoder = mp.load_encoder(tmp_path / "encoder")
    assert "45 of 45 backbone tensors matched" in encoder.report
    image = encoder.prepare(scans["NIfTI file"])
    canonical = read_volume(scans["NIfTI file"]).array[0]
    np.testing.assert_allclose(image[0, 0, :10, :14, :12], (canonical / 1024).clip(-1, 1), atol=2e-3)
    assert image.shape[2:] == (16, 16, 16)
    with torch.inference_mode():
        expected = network(image)
    for ours, theirs in zip(encoder.features(scans["nibabel"]), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    with pytest.raises(UserError, match="has 2 channels, the encoder was trained on 1"):
        encoder.features(np.stack([HU, HU]), spacing_mm=(1, 1, 1))


WINDOW, Z_SCORE = to_config(Window(-900, 500)), to_config(ZScore("all"))


def encoder_stating(tmp_path, **preprocessing):
    torch.manual_seed(0)
    save_encoder(tmp_path / "encoder", ResEnc("XXS"), {"preprocessing": preprocessing})
    return mp.load_encoder(tmp_path / "encoder")


@pytest.mark.parametrize(
    ("stated", "unit"),
    [
        ({"spacing_mm": [1.0, 1.0, 1.0], "window": WINDOW}, "hu"),
        ({"window": Z_SCORE}, "any"),
        ({"window": to_config(PercentileWindow(1, 99))}, "any"),
        ({"window": Z_SCORE, "unit": "hu"}, "hu"),
        ({"normalisation": "z-score of the foreground"}, None),
        ({"window": to_config(PerUnit())}, None),  # which of the two, it does not say
        ({}, None),
    ],
)
def test_the_unit_of_an_encoder_is_stated_or_that_of_its_window_and_never_made_up(tmp_path, stated, unit):
    encoder = encoder_stating(tmp_path, **stated)
    assert encoder.unit == unit
    if unit is None:
        with pytest.raises(UserError, match="give unit='hu' for Hounsfield units, unit='any' for others"):
            encoder.prepare(HU, spacing_mm=(1, 1, 1))
    else:
        assert encoder.preprocessing.unit == unit


def test_an_mr_is_not_cut_at_a_window_that_nobody_stated(tmp_path):
    mr = np.random.default_rng(0).integers(0, 4000, (16, 16, 16)).astype(np.int16)
    encoder = encoder_stating(tmp_path, spacing_mm=[1.0, 1.0, 1.0], normalisation="least and greatest value to [0, 1]")
    assert "no window is stated but in words (least and greatest value to [0, 1])" in encoder.report
    image = encoder.prepare(mr, spacing_mm=(1, 1, 1), unit="any")
    assert image.std().item() == pytest.approx(1, abs=1e-3)
    assert (image == image.max()).float().mean() < 0.01
    assert encoder.prepare(mr, spacing_mm=(1, 1, 1), unit="hu").max() == 1  # as asked for


def test_a_float_mr_keeps_its_values_for_a_z_score_without_a_unit(tmp_path):
    mr = np.random.default_rng(0).random((16, 16, 16)).astype(np.float32)
    encoder = encoder_stating(tmp_path, window=Z_SCORE)
    for scale in (1, 50):  # refused as normalized HU, rounded to 50 levels
        image = encoder.prepare(mr * scale, spacing_mm=(1, 1, 1))
        np.testing.assert_allclose(image[0, 0], (mr - mr.mean()) / mr.std(), atol=1e-3)


def test_scans_of_a_unit_that_an_encoder_was_not_trained_on_are_refused_unless_it_is_named(tmp_path, scans):
    encoder = encoder_stating(tmp_path, window=WINDOW)
    mr = mp.as_volume(HU, affine_lps=AXIAL, unit="any")
    with pytest.raises(UserError, match="is of unit 'any', and the encoder was trained on none; give unit='any'"):
        encoder.prepare(mr)
    assert encoder.prepare(mr, unit="any").std() > 0.5
    with pytest.raises(UserError, match="the Volume is of unit 'any'"):
        encoder.prepare(mr, unit="hu")
    np.testing.assert_allclose(encoder.prepare(scans["Volume"]), encoder.prepare(scans["NIfTI file"]))


@pytest.mark.parametrize("unit", ["HU", "Hu", "none", ""])
def test_a_unit_of_another_spelling_is_refused_and_not_taken_for_none(tmp_path, scans, unit):
    message = f"unit: got '{unit}', wanted 'hu' for Hounsfield units or 'any'"
    for scan in (HU, scans["NIfTI file"], scans["nibabel"], scans["SimpleITK"], scans["Volume"]):
        with pytest.raises(UserError, match=message):
            mp.as_volume(scan, spacing_mm=(1, 1, 1) if scan is HU else None, unit=unit)
    with pytest.raises(UserError, match=message):
        read_volume(scans["NIfTI file"], unit)
    with pytest.raises(UserError, match=message):
        encoder_stating(tmp_path, window=WINDOW).prepare(scans["NIfTI file"], unit=unit)


def test_an_encoder_goes_where_a_detector_does(tmp_path):
    save_encoder(tmp_path / "encoder", ResEnc("XXS"), {})
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    for asked, wanted in (("auto", auto), (torch.device("cpu"), "cpu")):
        encoder = mp.load_encoder(tmp_path / "encoder", device=asked)
        assert {weight.device.type for weight in encoder.backbone.parameters()} == {wanted}
    for device in ("gpu", "cuda:99", None):
        with pytest.raises(UserError, match=f"device '{device}' cannot be used here .*; use auto or cpu"):
            mp.load_encoder(tmp_path / "encoder", device=device)


def test_features_are_computed_where_the_weights_are(tmp_path):
    save_encoder(tmp_path / "encoder", ResEnc("XXS"), {})
    encoder = mp.load_encoder(tmp_path / "encoder")
    encoder.backbone.to("meta")  # a device that is no CPU, on every machine
    features = encoder.features(np.zeros((30, 32, 32), np.int16), spacing_mm=(1, 1, 1), unit="hu")
    assert {one.device.type for one in features} == {"meta"}
    assert features[0].shape[2:] == (32, 32, 32)


def test_what_no_encoder_is_loaded_by_is_refused(tmp_path):
    save_encoder(tmp_path / "encoder", ResEnc("XXS"), {})
    with pytest.raises(UserError, match=r"got stm, wanted options out of device, stem, .*; did you mean 'stem'"):
        mp.load_encoder(tmp_path / "encoder", stm="x")
    with pytest.raises(UserError, match="ReadOptions: got token_order 'dhw', wanted one of whd, hwd or null"):
        mp.load_encoder(tmp_path / "encoder", token_order="dhw")
    for make in (mp.load_encoder, mp.Detector.from_pretrained, lambda one: mp.predict(one, HU, spacing_mm=(1, 1, 1))):
        with pytest.raises(UserError, match="got None as weights, wanted a path, or owner/name of a hub"):
            make(None)


def test_a_scan_of_which_the_coarsest_features_are_one_voxel_is_refused(tmp_path):
    save_encoder(tmp_path / "encoder", ResEnc("XXS"), {})
    encoder = mp.load_encoder(tmp_path / "encoder")
    with pytest.raises(UserError, match=r"the coarsest features are of one voxel.*give a scan or patch of more voxels"):
        encoder.features(HU[:3, :3, :3], spacing_mm=(1, 1, 1), unit="hu")
    assert encoder.features(HU[:9, :3, :3], spacing_mm=(1, 1, 1), unit="hu")[-1].shape[2:] == (2, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"protocol": "luna16"}, "got protocol 'luna16', wanted one of detection, centre"),
        ({"protocol": ["centre"]}, "got protocol .'centre'., wanted one of"),
        ({"predictions": None}, "got a NoneType as predictions, wanted a list of Prediction"),
        ({"predictions": [None]}, "got a list as predictions, wanted a list of Prediction"),
        ({"targets": None}, "got targets None"),
        ({"classes": "nodule"}, "got classes 'nodule', wanted a list of"),
    ],
)
def test_what_evaluate_cannot_score_is_refused(bundle, scans, tmp_path, arguments, message):
    targets = tmp_path / "targets.json"
    truth = {"case": "scan", "boxes": [[0, 0, 0, 1, 1, 1]], "labels": [0]}
    targets.write_text(json.dumps({"classes": ["nodule"], "frame": "lps_mm", "targets": [truth]}))
    found = mp.predict(bundle, scans["NIfTI file"], device="cpu")
    with pytest.raises(UserError, match=message):
        mp.evaluate(**({"predictions": [found], "targets": targets, "num_bootstrap": 0} | arguments))
    with pytest.raises(UserError, match="got a Prediction as predictions, wanted a list of Prediction, one of each"):
        mp.evaluate(found, targets)


def test_evaluate_scores_predictions_against_a_file(bundle, scans, tmp_path):
    found = mp.predict(bundle, scans["NIfTI file"], device="cpu")
    truth = {"case": "scan", "boxes": found.boxes_lps_mm[:1].tolist(), "labels": [0]}
    targets = tmp_path / "targets.json"
    targets.write_text(json.dumps({"classes": ["nodule"], "frame": "lps_mm", "targets": [truth]}))
    result = mp.evaluate([found], targets, num_bootstrap=0)
    assert result["AP_IoU_0.10_MaxDet_100"] == pytest.approx(1.0)
    assert result["num_targets"] == {"nodule": 1}


def test_importing_the_package_imports_nothing_else():
    code = (
        "import sys, medpretrain3d as mp\n"
        "assert 'predict' in dir(mp) and not hasattr(mp, 'nothing')\n"
        "print(*[name for name in ('numpy', 'torch', 'medpretrain3d.api') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_classes_are_matched_by_name_whatever_their_order(bundle, scans, tmp_path):
    found = mp.predict(bundle, scans["NIfTI file"], device="cpu")
    assert found.classes == ("nodule",)
    grid = found.grid
    boxes = np.array([[1.0, 1, 1, 4, 4, 4], [6, 6, 4, 9, 10, 8]])
    scores, labels = np.array([0.9, 0.8], np.float32), np.array([0, 1])
    made = Prediction("scan", grid, boxes, grid.boxes_to_lps_mm(boxes), scores, labels, classes=("cyst", "nodule"))
    targets = tmp_path / "targets.json"

    def scored(names, order, prediction, **options):
        truth = {"case": "scan", "boxes": made.boxes_lps_mm[order].tolist(), "labels": list(range(len(order)))}
        targets.write_text(json.dumps({"classes": names, "frame": "lps_mm", "targets": [truth]}))
        return mp.evaluate([prediction], targets, num_bootstrap=0, **options)

    unnamed = dataclasses.replace(made, classes=None)
    for one, options in (
        (made, {}),
        (made, {"classes": ["cyst", "nodule"]}),
        (unnamed, {"classes": ["cyst", "nodule"]}),
    ):
        assert scored(["nodule", "cyst"], [1, 0], one, **options)[MAP_KEY] == pytest.approx(1.0, abs=0.01)
    assert scored(["nodule", "cyst"], [1, 0], unnamed)[MAP_KEY] == 0  # whose labels are those of the targets
    alone = scored(["nodule"], [1], made)
    assert alone[MAP_KEY] == pytest.approx(1.0, abs=0.01)
    assert (alone["classes_not_tested"], alone["num_boxes_not_tested"]) == (["cyst"], 1)
    with pytest.raises(UserError, match="name mass, the predictions are of cyst, nodule"):
        scored(["nodule", "mass"], [1, 0], made)
    with pytest.raises(UserError, match="are of classes cyst, nodule and of nodule, cyst"):
        scored(["nodule", "cyst"], [1, 0], made, classes=["nodule", "cyst"])
    with pytest.raises(UserError, match=r"beside .*predictions\.json, which names its own; leave them out"):
        mp.evaluate(tmp_path / "predictions.json", targets, classes=["nodule", "cyst"])

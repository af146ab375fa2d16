from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medpretrain3d.backbones import ResEnc, VolumesSeen
from medpretrain3d.cli import main
from medpretrain3d.detection import AnchorGrid, RetinaNet, RetinaUNet
from medpretrain3d.inference import InferenceConfig, Predictor, save_bundle
from medpretrain3d.inference.writers import formats
from medpretrain3d.ingest.prepare import prepare
from medpretrain3d.store.corpus import CaseRef
from medpretrain3d.store.preprocessing import Preprocessing
from medpretrain3d.store.store import Store


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    detector = RetinaNet(ResEnc("XXS"), 1, AnchorGrid([[(4, 4, 4)]]), first_level=3, fpn_channels=16)
    folder = tmp_path_factory.mktemp("bundle") / "detector"
    config = InferenceConfig(score_threshold=0.0, max_per_class=5)
    save_bundle(folder, detector, ["nodule"], Preprocessing((16, 16, 16), spacing_mm=(2, 2, 2)), config)
    return folder


@pytest.fixture
def scans(tmp_path):
    """Three scans, the second of which is no NIfTI file."""
    folder = tmp_path / "scans"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in ("a_0000.nii.gz", "c.nii.gz"):
        array = random.integers(-1000, 500, (12, 14, 10)).astype(np.int16)
        nib.save(nib.Nifti1Image(array, np.diag([-2.0, -2, 3, 1])), folder / name)
    (folder / "b.nii.gz").write_bytes(b"this is no scan")
    (folder / "._a_0000.nii.gz").write_bytes(b"left over by another system")
    return folder


def predict(bundle, out, *args):
    return main(["predict", str(bundle), *map(str, args), "-o", str(out), "--device", "cpu"])


def cases(out):
    return {
        entry["case"]: entry
        for entry in json.loads((out / "predictions.json").read_text(encoding="utf-8"))["predictions"]
    }


def test_a_scan_that_cannot_be_read_leaves_the_others(bundle, scans, tmp_path, capsys):
    out = tmp_path / "out"
    assert predict(bundle, out, scans) == 1
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "b.nii.gz" in errors[0]
    assert "1 of 3 scans could not be predicted" in captured.err
    assert {case: len(entry["boxes"]) for case, entry in cases(out).items()} == {"a": 5, "c": 5}
    assert len((out / "predictions.csv").read_text(encoding="utf-8").splitlines()) == 1 + 10
    assert sorted(path.name for path in out.rglob("*.json")) == ["a.json", "c.json", "predictions.json"]


@pytest.mark.parametrize("formats", [["json"], ["csv"], ["coco"], ["json", "csv", "coco"]])
def test_good_predictions_are_not_replaced_by_fewer_where_a_scan_fails(bundle, scans, tmp_path, capsys, formats):
    out = tmp_path / "out"
    assert predict(bundle, out, scans / "a_0000.nii.gz", scans / "c.nii.gz", "--format", *formats) == 0
    before = {path.name: path.read_bytes() for path in out.glob("predictions.*")}
    assert len(before) == len(formats)
    (scans / "c.nii.gz").write_bytes(b"cut off by a full disk")
    for again in (["a_0000.nii.gz", "c.nii.gz"], ["b.nii.gz"], ["a_0000.nii.gz", "b.nii.gz"]):
        capsys.readouterr()
        assert predict(bundle, out, *(scans / name for name in again), "--format", *formats) == 1
        assert {path.name: path.read_bytes() for path in out.glob("predictions.*")} == before
        captured = capsys.readouterr()
        assert "stay as an earlier call wrote them" in captured.err.splitlines()[-1]
        assert "boxes in" not in captured.out


def test_fewer_scans_that_were_asked_for_are_said(bundle, scans, tmp_path, capsys):
    out = tmp_path / "out"
    assert predict(bundle, out, scans / "a_0000.nii.gz", scans / "c.nii.gz") == 0
    assert "held predictions" not in capsys.readouterr().out
    assert predict(bundle, out, scans / "a_0000.nii.gz") == 0
    assert f"note: {out} held predictions of 1 more scans, first 'c'" in capsys.readouterr().out
    assert set(cases(out)) == {"a"}


def test_where_no_scan_could_be_predicted_no_file_says_that_nothing_was_found(bundle, scans, tmp_path, capsys):
    assert predict(bundle, tmp_path / "out", scans / "b.nii.gz") == 1
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith("1 of 1 scans could not be predicted, see above; nothing is written")
    )
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_boxes_lie_inside_the_scan(bundle, scans, tmp_path):
    predict(bundle, tmp_path / "out", scans / "c.nii.gz")
    entry = cases(tmp_path / "out")["c"]
    boxes_vox = np.array(entry["boxes_vox"])
    assert (boxes_vox >= 0).all()
    assert (boxes_vox <= [12, 14, 10] * 2).all()
    # Affine diag(-2, -2, 3) in RAS is diag(2, 2, 3) in LPS, so millimetres follow voxel by voxel.
    np.testing.assert_allclose(entry["boxes"], (boxes_vox - 0.5) * [2, 2, 3, 2, 2, 3], atol=1e-3)


def test_finished_cases_are_taken_over_unless_an_option_changed(bundle, scans, tmp_path, capsys):
    out = tmp_path / "out"
    assert predict(bundle, out, scans / "a_0000.nii.gz") == 0
    first = (out / "cases" / "a.json").stat().st_mtime_ns
    assert predict(bundle, out, scans / "a_0000.nii.gz", scans / "c.nii.gz") == 0
    assert "1 of 2 scans taken from" in capsys.readouterr().out
    assert (out / "cases" / "a.json").stat().st_mtime_ns == first
    assert set(cases(out)) == {"a", "c"}
    assert predict(bundle, out, scans / "a_0000.nii.gz", "--mirror", "2") == 0
    assert "taken from" not in capsys.readouterr().out
    assert (out / "cases" / "a.json").stat().st_mtime_ns > first


def test_an_interrupted_run_goes_on_where_it_stopped(bundle, scans, tmp_path, capsys, monkeypatch):
    out, predict_scan = tmp_path / "out", Predictor.predict

    def interrupted_at_c(self, scan, case, *others):
        if case == "c":
            raise KeyboardInterrupt
        return predict_scan(self, scan, case, *others)

    monkeypatch.setattr(Predictor, "predict", interrupted_at_c)
    assert predict(bundle, out, scans / "a_0000.nii.gz", scans / "c.nii.gz") == 130
    assert [path.name for path in out.rglob("*.*")] == ["a.json"]
    monkeypatch.setattr(Predictor, "predict", predict_scan)
    assert predict(bundle, out, scans / "a_0000.nii.gz", scans / "c.nii.gz") == 0
    assert "1 of 2 scans taken from" in capsys.readouterr().out
    assert set(cases(out)) == {"a", "c"}


@pytest.fixture(scope="module")
def segmenting_bundle(tmp_path_factory):
    torch.manual_seed(0)
    detector = RetinaUNet(ResEnc("XXS"), 1, AnchorGrid([[(4, 4, 4)]]), first_level=3, fpn_channels=16)
    folder = tmp_path_factory.mktemp("bundle") / "segmenting"
    config = InferenceConfig(score_threshold=0.0, max_per_class=20)
    save_bundle(folder, detector, ["nodule"], Preprocessing((16, 16, 16), spacing_mm=(1.3, 1.7, 1.9)), config)
    return folder


@pytest.fixture(scope="module")
def oblique_scans(tmp_path_factory):
    """Two scans whose voxels and axes share no round number."""
    folder = tmp_path_factory.mktemp("oblique")
    random = np.random.default_rng(1)
    turn = np.linalg.qr(np.eye(3) + 0.1 * random.normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([1.234567, 1.618034, 2.718282])
    affine[:3, 3] = random.normal(0, 100, 3)
    for name in ("a.nii.gz", "b.nii.gz"):
        array = random.integers(-1000, 500, (15, 17, 13)).astype(np.int16)
        nib.save(nib.Nifti1Image(array, affine), folder / name)
    return folder


def of_any_scan():
    return [name for name in formats() if not name.startswith("dicom")]  # these are of a DICOM series


def written(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_continued_run_writes_the_bytes_of_an_undisturbed_one(
    segmenting_bundle, oblique_scans, tmp_path, monkeypatch
):
    every = [oblique_scans, "--format", *of_any_scan()]
    assert predict(segmenting_bundle, tmp_path / "whole", *every) == 0
    predict_scan = Predictor.predict

    def interrupted_at_b(self, scan, case, *others):
        if case == "b":
            raise KeyboardInterrupt
        return predict_scan(self, scan, case, *others)

    monkeypatch.setattr(Predictor, "predict", interrupted_at_b)
    assert predict(segmenting_bundle, tmp_path / "cut", *every) == 130
    monkeypatch.setattr(Predictor, "predict", predict_scan)
    assert predict(segmenting_bundle, tmp_path / "cut", *every) == 0
    assert predict(segmenting_bundle, tmp_path / "cut", *every) == 0  # both from cases/
    whole = written(tmp_path / "whole")
    assert len(whole["predictions.csv"].splitlines()) > 20
    assert written(tmp_path / "cut") == whole


def test_a_format_asked_for_later_has_the_bytes_of_one_asked_for_at_once(segmenting_bundle, oblique_scans, tmp_path):
    later = ["csv", "coco", "slicer", "nifti"]
    assert predict(segmenting_bundle, tmp_path / "two", oblique_scans, "--format", "json") == 0
    assert predict(segmenting_bundle, tmp_path / "two", oblique_scans, "--format", *later) == 0
    assert predict(segmenting_bundle, tmp_path / "one", oblique_scans, "--format", "json", *later) == 0
    assert written(tmp_path / "two") == written(tmp_path / "one")


def test_options_reach_the_result(bundle, scans, tmp_path):
    assert predict(bundle, tmp_path / "out", scans / "c.nii.gz", "--score-threshold", "1.0", "--overlap", "0.2") == 0
    assert cases(tmp_path / "out")["c"]["boxes"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{scans}/c.nii.gz", "--overlap", "1.5"], "overlap 1.5"),
        (["{scans}/c.nii.gz", "--device", "nonsense"], "device 'nonsense'"),
        (["{empty}"], "holds no volume"),
        (["{scans}/d.nii.gz"], "d.nii.gz: no such file or folder"),
        (["{scans}/c.nii.gz", "{scans}/d"], "d: no such file or folder"),
        (["{list}"], "d.nii.gz: no such file or folder"),
        (["{scans}/c.nii.gz", "--batch-size", "0"], "--batch-size"),
        (["{scans}/c.nii.gz", "--merge-distance-mm", "3"], "--merge-distance-mm 3 is of --merge distance"),
        (["{scans}/c.nii.gz", "--merge", "distance", "--nms-iou", "0.5"], "--nms-iou 0.5 is of --merge nms and wbc"),
        (["{scans}/c.nii.gz", "{scans}/../scans/c.nii.gz"], "both have the case id 'c'"),
    ],
)
def test_bad_requests_end_in_one_line_and_code_2(bundle, scans, tmp_path, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("scans/c.nii.gz\nscans/d.nii.gz\n")
    places = {"scans": scans, "empty": tmp_path / "empty", "list": tmp_path / "list.txt"}
    filled = [argument.format(**places) for argument in arguments]
    assert main(["predict", str(bundle), "-o", str(tmp_path / "out"), *filled]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "out").exists()


def test_every_format_is_written_and_masks_are_taken_over(scans, tmp_path, capsys):
    torch.manual_seed(0)
    detector = RetinaUNet(ResEnc("XXS"), 1, AnchorGrid([[(4, 4, 4)]]), first_level=3, fpn_channels=16)
    bundle, out = tmp_path / "segmenting", tmp_path / "out"
    config = InferenceConfig(score_threshold=0.0, max_per_class=5)
    save_bundle(bundle, detector, ["nodule"], Preprocessing((16, 16, 16)), config)
    assert predict(bundle, out, scans / "c.nii.gz", "--format", *of_any_scan()) == 0
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*.*"))
    assert files == [
        "cases/c.json",
        "masks/c.nii.gz",
        "nifti/c.nii.gz",
        "predictions.coco.json",
        "predictions.csv",
        "predictions.json",
        "slicer/c.mrk.json",
    ]
    for folder in ("masks", "nifti"):
        assert nib.load(out / folder / "c.nii.gz").shape == (12, 14, 10)
    assert len(json.loads((out / "slicer" / "c.mrk.json").read_text(encoding="utf-8"))["markups"]) == 5
    assert predict(bundle, out, scans / "c.nii.gz", "--format", "masks") == 0
    assert "taken from" in capsys.readouterr().out
    (out / "masks" / "c.nii.gz").unlink()
    assert predict(bundle, out, scans / "c.nii.gz", "--format", "masks") == 0
    assert (out / "masks" / "c.nii.gz").is_file()


def test_masks_of_a_call_with_other_options_are_not_taken_over(segmenting_bundle, oblique_scans, tmp_path, capsys):
    scan, masks = oblique_scans / "a.nii.gz", tmp_path / "out" / "masks" / "a.nii.gz"
    both = ["--format", "json", "masks"]
    assert predict(segmenting_bundle, tmp_path / "out", scan, *both) == 0
    least = ["--score-threshold", str(cases(tmp_path / "out")["a"]["scores"][9])]
    stale = masks.read_bytes()
    assert predict(segmenting_bundle, tmp_path / "out", scan, *least) == 0  # other boxes, and no masks of them
    capsys.readouterr()
    assert predict(segmenting_bundle, tmp_path / "out", scan, *both, *least) == 0
    assert "taken from" not in capsys.readouterr().out
    assert predict(segmenting_bundle, tmp_path / "fresh", scan, *both, *least) == 0
    assert 0 < len(cases(tmp_path / "fresh")["a"]["boxes"]) < 20
    assert masks.read_bytes() == (tmp_path / "fresh" / "masks" / "a.nii.gz").read_bytes() != stale
    masks.write_bytes(stale)
    assert predict(segmenting_bundle, tmp_path / "out", scan, *both, *least) == 0
    assert masks.read_bytes() != stale


def test_masks_of_a_detector_without_them_are_refused_before_anything_is_read(bundle, scans, tmp_path, capsys):
    assert predict(bundle, tmp_path / "out", scans, "--format", "masks") == 2
    assert "RetinaNet has no segmentation head" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_bundles_before_the_scans_are_an_ensemble(bundle, scans, tmp_path, capsys):
    again = shutil.copytree(bundle, tmp_path / "again")
    args = ["predict", str(bundle), str(again), str(scans / "c.nii.gz"), "--device", "cpu"]
    assert main([*args, "-o", str(tmp_path / "both")]) == 0
    assert predict(bundle, tmp_path / "one", scans / "c.nii.gz") == 0
    assert cases(tmp_path / "both") == cases(tmp_path / "one")  # twins agree on everything
    assert main(["predict", str(bundle), str(again), "-o", str(tmp_path / "none")]) == 2
    assert "wanted scans behind the bundles" in capsys.readouterr().err


def test_a_store_gives_the_boxes_of_its_files(bundle, scans, tmp_path):
    (scans / "b.nii.gz").unlink()
    assert predict(bundle, tmp_path / "files", scans) == 0
    prepare([scans], tmp_path / "store", progress=False)
    assert predict(bundle, tmp_path / "stored", tmp_path / "store", "--split", "all") == 0
    of_store = {case.removesuffix("_0000"): entry for case, entry in cases(tmp_path / "stored").items()}
    for case, entry in cases(tmp_path / "files").items():
        np.testing.assert_allclose(of_store[case]["boxes"], entry["boxes"], atol=1e-3)
        np.testing.assert_allclose(of_store[case]["boxes_vox"], entry["boxes_vox"], atol=1e-3)


def test_scans_that_were_trained_on_are_counted_in_files_and_stores(scans, tmp_path, capsys):
    (scans / "b.nii.gz").unlink()
    prepare([scans], tmp_path / "store", progress=False)
    voxels = [CaseRef(Store(tmp_path / "store"), "c").voxels]
    detector = RetinaNet(ResEnc("XXS"), 1, AnchorGrid([[(4, 4, 4)]]), first_level=3, fpn_channels=16)
    for with_labels in (True, False):
        folder = tmp_path / f"detector_{with_labels}"
        seen = {"volumes_seen": VolumesSeen.of_training(voxels, with_labels).to_json()}
        preprocessing = Preprocessing((16, 16, 16), spacing_mm=(2, 2, 2))
        save_bundle(folder, detector, ["nodule"], preprocessing, InferenceConfig(max_per_class=5), seen)
        for place in (scans, tmp_path / "store"):
            assert predict(folder, tmp_path / f"{with_labels}_{place.name}", place) == 0
            assert (
                f"1 of 2 scans looked at were trained on, first 'c', {int(with_labels)} of them with labels"
                in capsys.readouterr().out
            )


def test_a_folder_that_is_no_bundle(scans, tmp_path, capsys):
    assert predict(tmp_path, tmp_path / "out", scans) == 2
    assert "no detector bundle here" in capsys.readouterr().err


def test_a_dicom_series_has_the_boxes_of_the_same_scan_as_nifti(bundle, tmp_path):
    turn, slant = np.deg2rad([20, 12])
    around_z = [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    around_x = [[1, 0, 0], [0, np.cos(slant), -np.sin(slant)], [0, np.sin(slant), np.cos(slant)]]
    volume = sitk.GetImageFromArray(np.random.default_rng(0).integers(-1000, 500, (10, 14, 12)).astype(np.int16))
    volume.SetSpacing((2.0, 2.5, 3.0))
    volume.SetOrigin((-30.0, 12.5, 100.0))
    volume.SetDirection(np.matmul(around_z, around_x).ravel().tolist())
    sitk.WriteImage(volume, tmp_path / "scan.nii.gz")
    write_dicom(volume, tmp_path / "series")
    assert predict(bundle, tmp_path / "out", tmp_path / "scan.nii.gz", tmp_path / "series") == 0
    nifti, series = (cases(tmp_path / "out")[name] for name in ("scan", "series"))
    assert len(nifti["boxes"]) == 5
    np.testing.assert_allclose(series["boxes"], nifti["boxes"], atol=1e-2)
    np.testing.assert_allclose(series["scores"], nifti["scores"], atol=1e-5)


def write_dicom(volume, folder):
    """A file per slice; names run against the slices' positions."""
    folder.mkdir()
    direction = np.reshape(volume.GetDirection(), (3, 3))
    for number in range(volume.GetDepth()):
        plane = volume[:, :, number]
        position = volume.TransformIndexToPhysicalPoint((0, 0, number))
        for tag, values in {
            "0008|0016": ["1.2.840.10008.5.1.4.1.1.2"],  # CT, else no pixel spacing is written
            "0020|000e": ["1.2.3"],
            "0020|0032": [f"{value:.10g}" for value in position],
            "0020|0037": [f"{value:.10g}" for value in direction.T[:2].ravel()],
        }.items():
            plane.SetMetaData(tag, "\\".join(values))
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{volume.GetDepth() - number:02d}.dcm"))
        writer.Execute(plane)


def test_boxes_in_bf16_are_those_of_fp32_to_its_rounding_and_what_is_typed_wins(bundle, scans, tmp_path, capsys):
    scan = scans / "a_0000.nii.gz"
    assert predict(bundle, tmp_path / "fp32", scan) == 0
    assert "precision 32-true: " in capsys.readouterr().err  # whatever the machine chooses is said
    assert predict(bundle, tmp_path / "bf16", scan, "--precision", "bf16") == 0
    exact, rough = (cases(tmp_path / name)["a"] for name in ("fp32", "bf16"))
    assert exact != rough
    assert np.allclose(exact["scores"], rough["scores"], atol=0.01)
    # Boxes whose scores tie to rounding may change places, and the last of five be another: the others have their like.
    distance = np.abs(np.array(exact["boxes"])[:, None] - np.array(rough["boxes"])[None]).max(axis=2).min(axis=1)
    assert sorted(distance)[-2] < 0.1  # mm, of voxels of 2 mm


def test_fp16_on_a_cpu_is_computed_and_said_to_be_emulated(bundle, scans, tmp_path, capsys):
    assert predict(bundle, tmp_path / "out", scans / "a_0000.nii.gz", "--precision", "16-mixed") == 0
    assert "note: precision 16-mixed: fp16 is emulated on CPUs" in capsys.readouterr().err
    assert len(cases(tmp_path / "out")["a"]["boxes"]) == 5


def test_cases_of_another_precision_are_predicted_again(bundle, scans, tmp_path, capsys):
    scan, out = scans / "a_0000.nii.gz", tmp_path / "out"
    assert predict(bundle, out, scan, "--precision", "32-true") == 0
    assert predict(bundle, out, scan, "--precision", "bf16-mixed") == 0
    assert "taken from" not in capsys.readouterr().out
    assert predict(bundle, out, scan, "--precision", "bf16-mixed") == 0
    assert "1 of 1 scans taken from" in capsys.readouterr().out


def test_a_precision_that_there_is_not_is_answered_with_those_there_are(bundle, scans, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        predict(bundle, tmp_path / "out", scans, "--precision", "bf16-true")
    assert ended.value.code == 2
    assert "wanted one of 32-true, bf16-mixed, 16-mixed" in capsys.readouterr().err


def test_layout_of_convolutions_and_compilation_change_no_box(bundle, scans, tmp_path):
    found = {}
    for name, options in (("plain", []), ("laid_out", ["--channels-last"]), ("compiled", ["--compile", "eager"])):
        assert predict(bundle, tmp_path / name, scans / "a_0000.nii.gz", *options) == 0
        found[name] = np.array(cases(tmp_path / name)["a"]["boxes"])
    torch._dynamo.reset()
    np.testing.assert_allclose(found["laid_out"], found["plain"], atol=1e-2)
    np.testing.assert_allclose(found["compiled"], found["plain"], atol=1e-2)

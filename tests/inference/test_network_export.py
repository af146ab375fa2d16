from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from medpretrain3d.backbones import ResEnc
from medpretrain3d.cli import main
from medpretrain3d.detection import FCOS, AnchorGrid, DeformableDETR, HeatMap, InstanceMasks, RetinaUNet
from medpretrain3d.errors import UserError
from medpretrain3d.inference import Bundle, InferenceConfig, save_bundle
from medpretrain3d.inference import network_export as export
from medpretrain3d.store.preprocessing import Preprocessing
from tests.tiny_detectors import tiny_detector as tiny

PATCH = (32, 16, 16)


@pytest.fixture(scope="module")
def bundle():
    torch.manual_seed(0)
    anchors = AnchorGrid([[(4, 4, 4), (4, 6, 6)], [(8, 8, 8), (8, 12, 12)]])
    detector = RetinaUNet(ResEnc("XXS"), 2, anchors, first_level=2, fpn_channels=16, head_convs=1).eval()
    return Bundle(detector, ("a", "b"), Preprocessing(PATCH), InferenceConfig(), {}, "0" * 64)


def runs(folder):
    """Both formats behind one face: image in, outputs as arrays."""
    if (folder / "network.pt2").is_file():
        module = torch.export.load(folder / "network.pt2").module()
        return lambda image: [output.detach().numpy() for output in module(torch.from_numpy(image))]
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "network.onnx", providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image})


@pytest.mark.parametrize("export_format", ["onnx", "torch"])
def test_boxes_decoded_from_the_files_alone_are_those_of_the_detector(bundle, tmp_path, export_format):
    assert export.export_network(bundle, tmp_path / "out", export_format) < 1e-4
    about = json.loads((tmp_path / "out" / "export.json").read_text(encoding="utf-8"))
    anchors = np.load(tmp_path / "out" / "anchors.npy")
    image = np.random.default_rng(0).uniform(-1, 1, (3, 1, *PATCH)).astype(np.float32)  # another batch size
    logits, deltas = runs(tmp_path / "out")(image)
    assert ["B", *logits.shape[1:]] == about["logits"]
    assert logits.shape[1] == deltas.shape[1] == len(anchors)
    detections = bundle.detector.detect(torch.from_numpy(image))
    for of_image, logit, delta in zip(detections, logits, deltas, strict=True):
        anchor, label = np.unravel_index(logit.argmax(), logit.shape)
        size = anchors[anchor, 3:] - anchors[anchor, :3]
        center = (anchors[anchor, :3] + anchors[anchor, 3:]) / 2 + delta[anchor, :3] * size
        half = size * np.exp(delta[anchor, 3:]) / 2
        box = np.clip(np.concatenate([center - half, center + half]), 0, np.tile(PATCH, 2))
        np.testing.assert_allclose(of_image.boxes[0], box, atol=1e-3)
        assert int(of_image.labels[0]) == label
        assert float(of_image.scores[0]) == pytest.approx(1 / (1 + np.exp(-logit.max())), abs=1e-5)


@pytest.mark.parametrize("export_format", ["onnx", "torch"])
def test_boxes_of_a_point_detector_decoded_from_the_files_alone(tmp_path, export_format):
    detector = tiny(FCOS).eval()
    about, outputs, found = exported(detector, tmp_path / "out", export_format)
    logits, deltas = outputs
    cells = np.load(tmp_path / "out" / "anchors.npy")
    assert about["deltas"] == ["B", len(cells), 7]
    for of_image, logit, delta in zip(found, logits, deltas, strict=True):
        score = np.sqrt(1 / (1 + np.exp(-logit)) / (1 + np.exp(-delta[:, 6:])))
        cell, label = np.unravel_index(score.argmax(), score.shape)
        stride, center = cells[cell, 3:] - cells[cell, :3], (cells[cell, :3] + cells[cell, 3:]) / 2
        before, after = np.exp(delta[cell, :6]).reshape(2, 3)
        box = np.clip(np.concatenate([center - before * stride, center + after * stride]), 0, np.tile(PATCH, 2))
        np.testing.assert_allclose(of_image.boxes[0], box, atol=1e-3)
        assert int(of_image.labels[0]) == label
        assert float(of_image.scores[0]) == pytest.approx(score.max(), abs=1e-5)


def test_peaks_decoded_from_the_files_alone(tmp_path):
    detector = tiny(HeatMap, regression="box", spacing_mm=(2.0, 1.0, 1.0)).eval()
    about, (logits, deltas), found = exported(detector, tmp_path / "out", "torch")
    cells = np.load(tmp_path / "out" / "anchors.npy")
    assert about["deltas"] == ["B", len(cells), 6]
    for of_image, logit, delta in zip(found, logits, deltas, strict=True):
        cell, label = np.unravel_index(logit.argmax(), logit.shape)
        stride, center = cells[cell, 3:] - cells[cell, :3], (cells[cell, :3] + cells[cell, 3:]) / 2
        center = center + delta[cell, :3].clip(-2, 2) * stride
        half = 10.0 / np.array([2, 1, 1]) * np.exp(delta[cell, 3:].clip(-4, 4)) / 2
        half = np.minimum(half, np.minimum(center, np.array(PATCH) - center))  # cut about the center
        np.testing.assert_allclose(of_image.boxes[0], np.concatenate([center - half, center + half]), atol=1e-3)
        assert int(of_image.labels[0]) == label
        assert float(of_image.scores[0]) == pytest.approx(1 / (1 + np.exp(-logit.max())), abs=1e-5)
    values_alone, (_,), _ = exported(tiny(HeatMap, regression="none").eval(), tmp_path / "values", "torch")
    assert "deltas" not in values_alone


@pytest.mark.parametrize("export_format", ["onnx", "torch"])
def test_boxes_of_queries_decoded_from_the_files_alone(tmp_path, export_format):
    detector = tiny(DeformableDETR).eval()
    about, (logits, boxes), found = exported(detector, tmp_path / "out", export_format)
    assert about["boxes"] == ["B", 12, 6]
    assert not (tmp_path / "out" / "anchors.npy").exists()
    for of_image, logit, unit in zip(found, logits, boxes, strict=True):
        query, label = np.unravel_index(logit.argmax(), logit.shape)
        center, half = unit[query, :3], unit[query, 3:] / 2
        box = np.clip(np.concatenate([center - half, center + half]) * np.tile(PATCH, 2), 0, np.tile(PATCH, 2))
        np.testing.assert_allclose(of_image.boxes[0], box, atol=1e-3)
        assert int(of_image.labels[0]) == label
        assert float(of_image.scores[0]) == pytest.approx(1 / (1 + np.exp(-logit.max())), abs=1e-5)


def exported(detector, folder, export_format):
    """`export.json`, the outputs for two tiles by the exported network, and what the detector finds in them."""
    bundle = Bundle(detector, ("a", "b"), Preprocessing(PATCH), InferenceConfig(), {}, "0" * 64)
    assert export.export_network(bundle, folder, export_format) < 1e-4
    image = np.random.default_rng(0).uniform(-1, 1, (2, 1, *PATCH)).astype(np.float32)
    about = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    return about, runs(folder)(image), detector.detect(torch.from_numpy(image))


def test_queries_in_another_order_are_the_same():
    logits, boxes = torch.randn(1, 5, 2), torch.rand(1, 5, 6)
    order = torch.tensor([4, 0, 3, 1, 2])
    assert export._difference((logits[:, order], boxes[:, order]), (logits, boxes), is_ordered=False) == 0
    assert export._difference((logits[:, order], boxes[:, order]), (logits, boxes), is_ordered=True) > 0.1
    moved = boxes.clone()
    moved[0, 2] += 0.5 * boxes.max()
    assert export._difference((logits, moved), (logits, boxes), is_ordered=False) == pytest.approx(0.5, rel=1e-4)


def test_a_network_that_came_out_wrong_is_not_written(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_to_torch", lambda network, tile, path: lambda image: [x + 1 for x in network(image)])
    with pytest.raises(UserError, match="outputs differ from eager"):
        export.export_network(bundle, tmp_path / "out", "torch")
    assert not list(tmp_path.iterdir())


def test_missing_libraries_are_named(bundle, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"ONNX needs 'onnxruntime'; install medpretrain3d\[onnx\]"):
        export.export_network(bundle, tmp_path / "out", "onnx")
    assert not list(tmp_path.iterdir())


def test_a_detector_of_another_kind_is_refused(blob_finder, tmp_path):
    other = Bundle(blob_finder, ("a", "b"), Preprocessing(PATCH), InferenceConfig(), {}, "")
    with pytest.raises(UserError, match="BlobFinder cannot be exported, only RetinaNet, RetinaUNet, FCOS, Def"):
        export.export_network(other, tmp_path / "out", "torch")


def test_the_command(tiny_detector, tmp_path, capsys):
    save_bundle(tmp_path / "bundle", tiny_detector, ["a"], Preprocessing((16, 16, 16)))
    assert main(["export-detector", str(tmp_path / "bundle"), "-o", str(tmp_path / "out"), "--format", "torch"]) == 0
    assert "differs from eager by" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["anchors.npy", "export.json", "network.pt2"]
    assert main(["export-detector", str(tmp_path / "bundle"), "-o", str(tmp_path / "out")]) == 2
    assert "exists already" in capsys.readouterr().err
    with_masks = tiny(FCOS, masks=InstanceMasks()).eval()
    save_bundle(tmp_path / "masks", with_masks, ["a", "b"], Preprocessing((16, 16, 16)))
    assert main(["export-detector", str(tmp_path / "masks"), "-o", str(tmp_path / "of"), "--format", "torch"]) == 0
    assert "its head for masks of objects is not exported" in capsys.readouterr().out

"""Several bundles as one."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from medpretrain3d.backbones import ResEnc
from medpretrain3d.cli import main
from medpretrain3d.detection import FCOS
from medpretrain3d.errors import UserError
from medpretrain3d.inference import InferenceConfig, Predictor, load_bundle, load_members, save_bundle, save_ensemble
from medpretrain3d.store import Grid, Preprocessing, Volume


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Two detectors of other weights."""
    folder = tmp_path_factory.mktemp("members")
    for seed, name in enumerate(("fold_0", "fold_1")):
        torch.manual_seed(seed)
        detector = FCOS(ResEnc("XXS"), num_classes=1, fpn_channels=16, head_convs=1)
        save_bundle(folder / name, detector, ["nodule"], Preprocessing(patch=(16, 16, 16)))
    return {path.name: path for path in sorted(folder.iterdir())}


def test_an_ensemble_predicts_as_its_members_together(members, tmp_path):
    config = InferenceConfig(overlap=0.25, nms_iou=0.2)
    save_ensemble(tmp_path / "all", members, config, {"licence": "CC0"})
    loaded = load_members(tmp_path / "all")
    assert [bundle.sha256 for bundle in loaded] == [load_bundle(place).sha256 for place in members.values()]
    assert [bundle.inference for bundle in loaded] == [config, config]
    grid = Grid((20, 18, 16), np.diag([1.0, 1, 1, 1]))
    scan = Volume(np.random.default_rng(0).integers(-900, 300, (1, 20, 18, 16), dtype=np.int16), grid, grid)
    apart = [load_bundle(place) for place in members.values()]
    changes = {"overlap": 0.25, "nms_iou": 0.2}
    expected = Predictor(apart, "cpu", changes).predict(scan, "a")
    found = Predictor(loaded, "cpu").predict(scan, "a")
    assert len(found) > 0
    np.testing.assert_array_equal(found.boxes_lps_mm, expected.boxes_lps_mm)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert [one.sha256 for one in load_members(members["fold_0"])] == [apart[0].sha256]


def test_members_that_changed_or_are_gone_are_refused(members, tmp_path):
    place = tmp_path / "all"
    save_ensemble(place, members, InferenceConfig())
    document = json.loads((place / "fold_1" / "bundle.json").read_text())
    (place / "fold_1" / "bundle.json").write_text(json.dumps({**document, "provenance": {}}))
    with pytest.raises(UserError, match="fold_1: is another bundle than the one the ensemble was made of"):
        load_members(place)
    (place / "fold_1" / "bundle.json").unlink()
    with pytest.raises(UserError, match="fold_1: no detector bundle here"):
        load_members(place)
    with pytest.raises(UserError, match=r"is not replaced|exists|choose|already"):
        save_ensemble(place, members, InferenceConfig())
    save_ensemble(place, members, InferenceConfig(), replace=True)
    assert len(load_members(place)) == 2
    with pytest.raises(UserError, match="no detector bundle; give at least one"):
        save_ensemble(tmp_path / "none", {}, InferenceConfig())
    assert not (tmp_path / "none").exists()


def test_members_of_other_classes_are_refused(members, tmp_path):
    detector = FCOS(ResEnc("XXS"), num_classes=1, fpn_channels=16, head_convs=1)
    save_bundle(tmp_path / "other", detector, ["node"], Preprocessing(patch=(16, 16, 16)))
    with pytest.raises(UserError, match="bundles of different classes: nodule and node"):
        save_ensemble(tmp_path / "all", {**members, "other": tmp_path / "other"}, InferenceConfig())


def test_a_member_with_a_path_as_its_name_is_refused(members, tmp_path):
    save_ensemble(tmp_path / "all", members, InferenceConfig())
    path = tmp_path / "all" / "bundle.json"
    path.write_text(path.read_text().replace('"fold_1"', '"../fold_1"'))
    with pytest.raises(UserError, match="member"):
        load_members(tmp_path / "all")


def test_one_detector_is_wanted_where_an_ensemble_is_named(members, tmp_path, capsys):
    save_ensemble(tmp_path / "all", members, InferenceConfig())
    with pytest.raises(UserError, match="is an ensemble, wanted one detector; name one of the folders in it"):
        load_bundle(tmp_path / "all")
    for words in (["tune"], ["export-detector", "-o", str(tmp_path / "out")], ["export", "-o", str(tmp_path / "out")]):
        assert main([*words, str(tmp_path / "all")]) == 2
        assert "is an ensemble, wanted one detector; name one of the folders in it" in capsys.readouterr().err

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from safetensors.torch import save

from medpretrain3d.backbones import ResEnc
from medpretrain3d.detection import AnchorGrid, RetinaNet
from medpretrain3d.errors import UserError
from medpretrain3d.inference import InferenceConfig, load_bundle, save_bundle
from medpretrain3d.store.intensity import Window
from medpretrain3d.store.preprocessing import Preprocessing

CLASSES = ("nodule", "node")
PREPROCESSING = Preprocessing(patch=(16, 16, 16), spacing_mm=(2.0, 1.5, 1.5), window=Window(-1000, 400))


def tiny_detector(fpn_channels=16):
    torch.manual_seed(0)
    anchors = AnchorGrid(sizes=[[(4, 4, 4)], [(8, 8, 8)]])
    return RetinaNet(ResEnc("XXS"), num_classes=2, anchors=anchors, first_level=2, fpn_channels=fpn_channels)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A bundle on disk and the detector it was written from."""
    folder, detector = tmp_path_factory.mktemp("bundle") / "detector", tiny_detector().eval()
    config = InferenceConfig(overlap=0.25, mirror_axes=(1, 2))
    sha256 = save_bundle(folder, detector, CLASSES, PREPROCESSING, config, {"licence": "CC BY 4.0"})
    return folder, detector, sha256


@pytest.fixture
def copied(written, tmp_path):
    """A copy of the bundle that a test may damage."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in written[0].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def change(folder, **entries):
    path = folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | entries))


def replace_weights(folder, weights):
    payload = save(weights)
    (folder / "detector.safetensors").write_bytes(payload)
    change(folder, weights_sha256=hashlib.sha256(payload).hexdigest())


def test_a_loaded_bundle_detects_the_very_same_boxes(written):
    folder, detector, sha256 = written
    bundle = load_bundle(folder)
    image = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    (ours,), (theirs,) = detector.detect(image), bundle.detector.detect(image)
    assert len(ours) > 0
    assert torch.equal(ours.boxes, theirs.boxes)
    assert torch.equal(ours.scores, theirs.scores)
    assert bundle.sha256 == sha256
    assert not bundle.detector.training


def test_everything_beside_the_weights_comes_back_too(written):
    bundle = load_bundle(written[0])
    assert bundle.classes == CLASSES
    assert bundle.preprocessing.to_json() == PREPROCESSING.to_json()
    assert bundle.preprocessing.patch == (16, 16, 16)
    assert bundle.preprocessing.spacing_mm == (2.0, 1.5, 1.5)
    assert bundle.inference == InferenceConfig(overlap=0.25, mirror_axes=(1, 2))
    assert bundle.provenance["licence"] == "CC BY 4.0"
    assert bundle.provenance["medpretrain3d_version"] == "0.1.0"


def test_preprocessing_needs_only_what_has_no_default():
    read = Preprocessing.from_json({"patch": [16, 16, 32]})
    assert read.to_json() == Preprocessing(patch=(16, 16, 32)).to_json()
    assert (read.patch, read.spacing_mm, read.num_channels) == ((16, 16, 32), None, 1)


def test_an_existing_bundle_is_kept_unless_the_call_says_so(copied):
    before = (copied / "bundle.json").read_bytes()
    with pytest.raises(UserError, match="exists already"):
        save_bundle(copied, tiny_detector(), CLASSES, PREPROCESSING)
    assert (copied / "bundle.json").read_bytes() == before
    save_bundle(copied, tiny_detector(), ("a", "b"), PREPROCESSING, replace=True)
    assert load_bundle(copied).classes == ("a", "b")


def test_as_many_names_as_classes(tmp_path):
    with pytest.raises(UserError, match="3 class names for a detector of 2"):
        save_bundle(tmp_path / "b", tiny_detector(), ("a", "b", "c"), PREPROCESSING)
    assert not list(tmp_path.iterdir())


def test_tensors_that_share_memory_can_be_saved(tmp_path):
    detector = tiny_detector()
    detector.register_buffer("alias", next(detector.parameters()).data)
    save_bundle(tmp_path / "b", detector, CLASSES, PREPROCESSING)
    with pytest.raises(UserError, match=r"1 tensors unused \(alias\)"):
        load_bundle(tmp_path / "b")


def test_a_folder_without_a_bundle(tmp_path):
    with pytest.raises(UserError, match="no detector bundle here"):
        load_bundle(tmp_path)


def test_a_bundle_of_a_newer_version(copied):
    change(copied, version=3)
    with pytest.raises(UserError, match="version 3, wanted medpretrain3d-bundle up to version 2"):
        load_bundle(copied)


def test_another_format(copied):
    change(copied, format="something-else")
    with pytest.raises(UserError, match="got something-else version 1"):
        load_bundle(copied)


@pytest.mark.parametrize("text", ["", "[1, 2]", "{}", '{"format": "medpretrain3d-bundle", "version": 1}'])
def test_a_damaged_card(copied, text):
    (copied / "bundle.json").write_text(text)
    with pytest.raises(UserError, match="export the bundle again"):
        load_bundle(copied)


def test_a_card_without_classes(copied):
    document = json.loads((copied / "bundle.json").read_text(encoding="utf-8"))
    del document["classes"]
    (copied / "bundle.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match="classes"):
        load_bundle(copied)


def test_a_card_with_more_names_than_the_network_has_classes(copied):
    change(copied, classes=["a", "b", "c"])
    with pytest.raises(UserError, match="3 class names for a detector of 2"):
        load_bundle(copied)


def test_weights_changed_on_the_way(copied):
    path = copied / "detector.safetensors"
    payload = bytearray(path.read_bytes())
    payload[-1] ^= 1
    path.write_bytes(payload)
    with pytest.raises(UserError, match="sha256 differs"):
        load_bundle(copied)


def test_missing_tensors_are_named(copied, written):
    weights = {name: value.clone() for name, value in written[1].state_dict().items()}
    first = min(weights)
    del weights[first]
    replace_weights(copied, weights)
    with pytest.raises(UserError, match=rf"1 tensors missing \({first}\)"):
        load_bundle(copied)


def test_tensors_of_another_shape_are_named(copied):
    weights = {name: value.clone() for name, value in tiny_detector(fpn_channels=32).state_dict().items()}
    replace_weights(copied, weights)
    with pytest.raises(UserError, match=r"tensors of another shape \(.*: file .*, network .*\)"):
        load_bundle(copied)


def test_a_file_does_not_choose_what_code_runs(copied):
    change(copied, detector={"class_path": "subprocess.Popen", "init_args": {"args": ["true"]}})
    with pytest.raises(UserError, match="only name classes of medpretrain3d"):
        load_bundle(copied)


def test_a_described_part_that_is_no_detector(copied):
    change(copied, detector={"class_path": "medpretrain3d.backbones.ResEnc", "init_args": {"preset": "XXS"}})
    with pytest.raises(UserError, match="describes a ResEnc, wanted a detector"):
        load_bundle(copied)

"""Weights of a run that diverged are neither written nor read."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from medpretrain3d.backbones import ResEnc, ResNet3D, read_encoder, save_encoder
from medpretrain3d.cli import main
from medpretrain3d.detection import RetinaNet
from medpretrain3d.errors import UserError
from medpretrain3d.finite import require_finite
from medpretrain3d.inference import load_bundle, save_bundle
from medpretrain3d.store.preprocessing import Preprocessing
from tests.tiny_detectors import tiny_detector

NOT_NUMBERS = [float("nan"), float("inf"), float("-inf")]


def spoil(module: torch.nn.Module, value: float) -> torch.nn.Module:
    with torch.no_grad():
        list(module.parameters())[-1].flatten()[-1] = value
    return module


def spoil_file(weights, card) -> None:
    """Put a NaN into a file of weights, with a card that agrees."""
    tensors = load_file(weights)
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    tensors[name].flatten()[0] = torch.nan
    save_file(tensors, weights)
    document = json.loads(card.read_text())
    card.write_text(json.dumps({**document, "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}))


def test_the_first_of_nested_tensors_is_named_and_whole_numbers_are_fine():
    state = {"state": {0: {"step": torch.tensor(3), "exp_avg": torch.ones(2)}}, "groups": [{"lr": float("inf")}, "x"]}
    require_finite("a file", {"optimizer_states": [state], "half": torch.zeros(2, dtype=torch.bfloat16)}, "try again")
    state["state"][0]["exp_avg"][1] = torch.inf
    with pytest.raises(
        UserError, match=r"^a file: tensor optimizer_states\.0\.state\.0\.exp_avg holds values that are not finite; try"
    ):
        require_finite("a file", {"optimizer_states": [state]}, "try again")


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_an_encoder_file_is_not_written_and_the_one_before_stays(value, tmp_path):
    save_encoder(tmp_path / "encoder", ResEnc("XXS"), {})
    before = read_encoder(tmp_path / "encoder").sha256
    with pytest.raises(UserError, match=r"encoder: not written: tensor .* not finite"):
        save_encoder(tmp_path / "encoder", spoil(ResEnc("XXS"), value), {})
    assert read_encoder(tmp_path / "encoder").sha256 == before


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_a_bundle_is_not_written_and_the_one_before_stays(value, tmp_path):
    how = Preprocessing((16, 16, 16))
    sha256 = save_bundle(tmp_path / "bundle", tiny_detector(RetinaNet), ("a", "b"), how)
    with pytest.raises(UserError, match=r"bundle: not written: tensor .* not finite"):
        save_bundle(tmp_path / "bundle", spoil(tiny_detector(RetinaNet), value), ("a", "b"), how, replace=True)
    assert load_bundle(tmp_path / "bundle").sha256 == sha256


def test_an_encoder_file_of_a_diverged_run_is_not_read(tmp_path, capsys):
    folder = tmp_path / "encoder"
    save_encoder(folder, ResEnc("XXS"), {})
    spoil_file(folder / "encoder.safetensors", folder / "encoder.json")
    with pytest.raises(UserError, match="not finite"):
        read_encoder(folder)
    assert main(["export", str(folder), "-o", str(tmp_path / "out")]) == 2
    assert "not finite" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_bundle_of_a_diverged_run_is_not_read_and_predicts_nothing(tmp_path, capsys):
    folder = tmp_path / "bundle"
    save_bundle(folder, tiny_detector(RetinaNet), ("a", "b"), Preprocessing((16, 16, 16)))
    spoil_file(folder / "detector.safetensors", folder / "bundle.json")
    with pytest.raises(UserError, match="not finite"):
        load_bundle(folder)
    scan = tmp_path / "scan.nii.gz"
    scan.write_bytes(b"not even looked at")
    assert main(["predict", str(folder), str(scan), "-o", str(tmp_path / "out")]) == 2
    assert "not finite" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_others_with_a_weight_that_is_no_number_is_not_read(tmp_path):
    path = tmp_path / "resnet_10.pth"
    named = {f"module.{name}": value for name, value in ResNet3D(10, width=4).state_dict().items()}
    torch.save({"state_dict": named}, path)
    assert read_encoder(path)
    next(iter(named.values())).flatten()[0] = torch.inf
    torch.save({"state_dict": named}, path)
    with pytest.raises(UserError, match="not finite"):
        read_encoder(path)

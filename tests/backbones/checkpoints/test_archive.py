from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch

from medpretrain3d.backbones.checkpoints.raw import open_checkpoint
from medpretrain3d.errors import UserError
from medpretrain3d.finite import is_finite


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"state_dict": {"a.weight": torch.randn(4000), "b.bias": torch.randn(100)}}, path)
    return path


def test_zeroed_bytes_and_flipped_bits_are_never_read_as_other_weights(checkpoint):
    whole = checkpoint.read_bytes()
    # Cloned: the tensors of a file are a map of it, and the file is written over below.
    wanted = {name: value.clone() for name, value in open_checkpoint(checkpoint).weights.items()}
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged, start = bytearray(whole), int(random.integers(len(whole) - 64))
        if random.random() < 0.5:
            damaged[start : start + 64] = bytes(64)
        else:
            damaged[start] ^= 1 << int(random.integers(8))
        checkpoint.write_bytes(damaged)
        try:
            read = open_checkpoint(checkpoint).weights
        except UserError as error:
            told, read = str(error), wanted
        else:  # the damage lies in padding
            told = f"{checkpoint}: "
        assert told.startswith(f"{checkpoint}: ")
        assert "\n" not in told
        assert read.keys() == wanted.keys()
        assert all(torch.equal(read[name], value) for name, value in wanted.items())


def test_a_compressed_archive_is_refused(checkpoint):
    packed = checkpoint.with_name("packed.pth")
    with zipfile.ZipFile(checkpoint) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(UserError, match="compressed"):
        open_checkpoint(packed)


def test_an_archive_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert open_checkpoint(tmp_path / "a.pth").weights["a"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    torch.save({"a": torch.ones(3), "b": torch.tensor([1.0, value])}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"1 tensors hold values that are not finite \(b\)"):
        open_checkpoint(tmp_path / "a.pth")


def test_large_finite_weights_are_finite():
    assert is_finite(torch.full((4,), 1.7e308, dtype=torch.float64))
    assert is_finite(torch.zeros(0))

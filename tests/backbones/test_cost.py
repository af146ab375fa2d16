from __future__ import annotations

import pytest
import torch

from medpretrain3d.backbones import SegResNet, ViT
from medpretrain3d.backbones.cost import cost
from medpretrain3d.cli import main
from medpretrain3d.commands.backbones import _nearest
from medpretrain3d.errors import UserError


def test_arithmetic_of_a_convolutional_encoder_by_hand():
    with torch.device("meta"):
        backbone = SegResNet(8)
    # Multiply-adds of a 3x3x3 convolution: voxels x 27 x channels in x channels out; two operations each.
    widths, blocks, voxels = (8, 16, 32, 64), (1, 2, 2, 4), (8**3, 4**3, 2**3, 1)
    total = voxels[0] * 1 * 8 + sum(v * 2 * n * w * w for w, n, v in zip(widths, blocks, voxels, strict=True))
    total += sum(v * (w // 2) * w for w, v in zip(widths[1:], voxels[1:], strict=True))
    assert cost(backbone, (8, 8, 8)).flop == 2 * 27 * total


def test_twice_the_voxels_keep_twice_the_activations():
    with torch.device("meta"):
        backbone = SegResNet(8)
    small, large = (cost(backbone, (8, 8, width)).activation_bytes for width in (8, 16))
    assert large == pytest.approx(2 * small, rel=0.01)
    assert small > 4 * 8 * 8**3  # at least the first map
    with pytest.raises(UserError, match="D is 9"):
        cost(backbone, (9, 8, 8))


def test_attention_is_counted_and_its_matrix_is_not_kept():
    with torch.device("meta"):
        vit = ViT("XXS", patch_size=(4, 4, 4))
    tokens, width, depth = 16**3, 48, 2
    linear = 2 * tokens * (4**3 * width + depth * 12 * width**2)
    assert cost(vit, (64, 64, 64)).flop == linear + depth * 2 * 2 * tokens**2 * width
    assert cost(vit, (64, 64, 64)).activation_bytes < 4 * 3 * tokens**2  # one matrix for each of three heads


def test_checkpointing_keeps_less():
    with torch.device("meta"):
        plain, saving = ViT("XS"), ViT("XS", checkpointing=True)
    assert cost(saving, (96, 96, 96)).activation_bytes < 0.5 * cost(plain, (96, 96, 96)).activation_bytes


def test_the_command_lists_every_size_of_a_family(capsys):
    assert main(["backbones", "SegResNet", "ViT", "--patch", "64"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["SegResNet-16", "SegResNet-32"] + [f"ViT-{s}" for s in VIT_SIZES]
    assert "GFLOP/64^3" in lines[0]
    assert "16/1 32/2 64/4 128/8" in lines[1]
    assert lines[1].endswith("arXiv:1810.11654")
    assert main(["backbones", "VGG"]) == 2
    assert "no backbone family VGG; known are" in capsys.readouterr().err


VIT_SIZES = ("XXS", "XS", "S", "B", "L")


def test_a_patch_that_is_no_multiple_of_the_stride_is_that_of_the_nearest_one(capsys):
    # 128^3, the default, is none of the 14 of a DinoViT: the list of all ended before its third line.
    assert main(["backbones", "ViT", "SegResNet", "--patch", "40"]) == 0
    of_40 = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()[1:]}
    assert main(["backbones", "ViT", "--patch", "32"]) == 0
    of_32 = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()[1:]}
    for name, words in of_32.items():
        assert of_40[name][:5] == words[:5]  # parameters, arithmetic, memory and levels
        assert of_40[name][5:11] == ["at", "32", "x", "32", "x", "32"]
    assert all("at" not in words for name, words in of_40.items() if name.startswith("SegResNet"))


@pytest.mark.parametrize("stride", [(14, 14, 14), (8, 16, 16), (5, 1, 200)])
def test_the_nearest_patch_is_a_multiple_of_the_stride(stride):
    patch = _nearest(128, stride)
    assert all(edge % step == 0 for edge, step in zip(patch, stride, strict=True))
    assert all(abs(edge - 128) <= step / 2 or edge == step for edge, step in zip(patch, stride, strict=True))

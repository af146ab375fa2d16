from __future__ import annotations

import pytest
import torch

from medpretrain3d.backbones import InflatedCNN
from medpretrain3d.backbones.inflated import inflate, plane_network
from medpretrain3d.errors import UserError


@pytest.mark.parametrize("num_flat", [0, 2])
@pytest.mark.parametrize("model", ["test_resnet", "test_convnext", "test_efficientnet", "regnety_002", "resnet10t"])
def test_a_volume_constant_along_depth_gives_the_features_of_its_slice(model, num_flat):
    torch.manual_seed(0)
    plane = plane_network(model, 1).eval()
    torch.manual_seed(0)
    volume = InflatedCNN(model, num_flat=num_flat).eval()
    image = torch.randn(2, 1, 64, 96)
    with torch.no_grad():
        for flat, deep, level in zip(plane(image), volume(_stacked(image, 32)), volume.levels, strict=True):
            assert deep.shape[2] == 32 // level.stride[0]
            error = (deep - _stacked(flat, deep.shape[2])).abs().max()
            assert error < 1e-5 * flat.abs().max()


def _stacked(image: torch.Tensor, depth: int) -> torch.Tensor:
    return image[:, :, None].expand(-1, -1, depth, -1, -1)


def test_depth_is_looked_at():
    volume = InflatedCNN("test_resnet").eval()
    x = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(volume(x)[-1], volume(x.roll(1, dims=2))[-1])


def test_a_kernel_is_repeated_along_depth_and_keeps_its_sum():
    kernel = torch.tensor([[[[3.0, 6.0]]]])
    assert inflate(kernel, 3).tolist() == [[[[[1.0, 2.0]]] * 3]]


def test_first_halvings_may_leave_depth_alone():
    with torch.device("meta"):
        strides = [level.stride for level in InflatedCNN("resnet18", num_flat=2).levels]
    assert strides == [(1, 2, 2), (1, 4, 4), (2, 8, 8), (4, 16, 16), (8, 32, 32)]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("nonsense", "Unknown model"),
        ("vit_tiny_patch16_224", "timm makes no stages"),
        ("tf_efficientnet_b0", "Conv2dSame that has no inflated form"),
        ("resnetblur50", "BlurPool2d that has no inflated form"),
    ],
)
def test_what_cannot_be_inflated_is_refused(model, reason):
    with torch.device("meta"), pytest.raises(UserError, match=reason):
        InflatedCNN(model)

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import resnet

from medpretrain3d.backbones import ResNet3D
from medpretrain3d.errors import UserError


@pytest.mark.parametrize(
    ("depth", "millions"), [(10, 14.36), (18, 32.99), (34, 63.31), (50, 46.21), (101, 85.31), (152, 117.51)]
)
def test_parameters_are_as_many_as_medicalnet_says(depth, millions):
    with torch.device("meta"):
        backbone = ResNet3D(depth)
    # The table counts the running means and variances of the norms too.
    count = sum(value.numel() for value in backbone.state_dict().values() if value.is_floating_point())
    assert count / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize(("make", "depth", "shortcut"), [(resnet.resnet18, 18, "A"), (resnet.resnet50, 50, "B")])
def test_features_are_those_of_monais_resnet(make, depth, shortcut):
    theirs = make(
        n_input_channels=1, feed_forward=False, shortcut_type=shortcut, bias_downsample=False, conv1_t_stride=2
    )
    theirs.double().eval()
    ours = ResNet3D(depth).double().eval()
    ours.load_state_dict(theirs.state_dict())  # the same names
    x = torch.randn(1, 1, 32, 32, 64, dtype=torch.float64)
    with torch.no_grad():
        pooled = ours(x)[-1].mean(dim=(2, 3, 4))
        torch.testing.assert_close(pooled, theirs(x).flatten(1))


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_one_voxel_of_one_image_is_refused_where_a_norm_has_to_learn_from_it(norm):
    backbone = ResNet3D(10, width=8, norm=norm)
    image = torch.zeros(1, 1, *backbone.levels[-1].stride)
    with pytest.raises(UserError, match="the coarsest features are of one voxel"):
        backbone(image)
    if norm == "batch":
        backbone(image.expand(2, -1, -1, -1, -1))
        backbone.eval()(image)


def test_the_dilated_form_has_the_same_weights_and_ends_at_stride_8():
    dilated, strided = ResNet3D(18, is_dilated=True, width=8), ResNet3D(18, width=8)
    dilated.load_state_dict(strided.state_dict())
    assert [(level.channels, level.stride[0]) for level in dilated.levels] == [(8, 2), (8, 4), (64, 8)]
    assert dilated.layer4[0].conv1.dilation == (4, 4, 4)
    assert dilated.layer4[0].conv1.padding == (4, 4, 4)


def test_shortcut_a_is_every_second_voxel_and_zeros():
    block = ResNet3D(18, width=2).layer2[0]
    x = torch.arange(2 * 64.0).reshape(1, 2, 4, 4, 4)
    shortcut = block._shortcut(x)
    assert shortcut.shape == (1, 4, 2, 2, 2)
    assert shortcut[0, 0].flatten().tolist() == [0, 2, 8, 10, 32, 34, 40, 42]
    assert not shortcut[:, 2:].any()


def test_wrong_arguments_are_named():
    with pytest.raises(UserError, match="wanted one of 10, 18"):
        ResNet3D(19)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="got 1 strides, wanted five"):
        ResNet3D(18, strides=[(1, 1, 1)])
    with pytest.raises(UserError, match="dilation stands in for the stride"):
        ResNet3D(18, is_dilated=True, strides=[(2, 2, 2)] * 5)

from __future__ import annotations

import pytest
import torch

from medpretrain3d.backbones import Backbone, ResEnc, ResNet3D, ViT
from medpretrain3d.errors import UserError
from medpretrain3d.objectives import MAE, Objective, SliceWise, SparK

SIZE = 16
CONVOLUTIONAL = {
    "MAE": lambda backbone, stride: MAE(backbone, mask_block=(8, 8, 8), decoder_stride=stride),
    "SparK": lambda backbone, stride: SparK(backbone, 0.75, decoder_stride=stride),
    "SliceWise": lambda backbone, stride: SliceWise(backbone, decoder_stride=stride),
}
STRIDES = [(1, 1, 1), (2, 2, 2), (4, 4, 4), (8, 8, 8)]


def batch() -> dict[str, torch.Tensor]:
    drawn = torch.Generator().manual_seed(0)
    return {"image": torch.rand(2, 1, SIZE, SIZE, SIZE, generator=drawn) * 2 - 1, "seed": torch.arange(2)}


def small() -> Backbone:
    torch.manual_seed(0)
    return ResEnc("XXS")


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_it_restores_whole_images_and_trains_every_parameter(name, stride):
    objective = CONVOLUTIONAL[name](small(), stride)
    output = objective(batch())
    output.loss.backward()
    assert output.preview["restored"].shape == (SIZE, SIZE, SIZE)
    without = [key for key, parameter in objective.named_parameters() if parameter.grad is None]
    assert not without
    still = [key for key, parameter in objective.backbone.named_parameters() if not parameter.grad.any()]
    assert not [key for key in still if key.endswith("weight")]


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_what_is_hidden_changes_the_loss_and_nothing_that_is_predicted(name):
    objective, data, seen = CONVOLUTIONAL[name](small(), (2, 2, 2)), batch(), []
    objective.decoder.register_forward_hook(lambda module, features, restored: seen.append(restored.detach()))
    preview = objective(data).preview
    hidden = preview["masked"] != preview["input"]
    other = data["image"].clone()
    other[0, 0][hidden] = 0.5
    first, second = objective(data), objective(data | {"image": other})
    torch.testing.assert_close(seen[1], seen[2], rtol=0, atol=1e-6)
    assert first.loss.item() != pytest.approx(second.loss.item(), abs=1e-4)
    visible = ~hidden
    assert torch.equal(preview["restored"][visible], preview["input"][visible])


def test_a_cell_is_mapped_to_the_voxels_that_it_stands_for():
    objective = MAE(small(), mask_block=(8, 8, 8), decoder_stride=(2, 2, 2))
    torch.nn.init.zeros_(objective.decoder.head.project.weight)
    objective.decoder.head.project.bias.data = torch.arange(8.0)  # in the order (d, h, w) within the cell
    restored = objective.restore(batch()["image"], torch.zeros(2, 2, 2, 2, dtype=torch.bool), (8, 8, 8))
    assert restored.shape == (2, 1, SIZE, SIZE, SIZE)
    assert restored[0, 0, 4:6, 6:8, 2:4].flatten().tolist() == list(range(8))


def test_the_encoder_and_the_default_decoder_have_the_names_they_had():
    default, stopped = MAE(small()), MAE(small(), decoder_stride=(2, 2, 2))
    assert default.backbone.state_dict().keys() == stopped.backbone.state_dict().keys()
    assert {"decoder.head.weight", "decoder.fuse.2.0.weight"} <= default.state_dict().keys()
    assert "decoder.fuse.2.0.weight" not in stopped.state_dict()


def test_a_pyramid_that_begins_below_full_resolution_may_stop_at_its_finest_level():
    objective = MAE(ResNet3D(18, width=4), mask_block=(8, 8, 8), decoder_stride=(2, 2, 2))
    data = {"image": torch.rand(2, 1, 32, 32, 32), "seed": torch.arange(2)}
    assert objective(data).preview["restored"].shape == (32, 32, 32)
    assert not list(objective.decoder.finish)


def refused(make) -> str:
    with pytest.raises(UserError) as caught:
        make()
    return str(caught.value)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_a_stride_of_no_level_is_refused_with_those_that_are(name):
    message = refused(lambda: CONVOLUTIONAL[name](small(), (3, 2, 2)))
    assert "got (3, 2, 2)" in message
    assert "(1, 1, 1), (2, 2, 2), (4, 4, 4), (8, 8, 8)" in message


@pytest.mark.parametrize("cls", [MAE, SliceWise])
def test_a_transformer_has_no_level_to_stop_at(cls: type[Objective]):
    vit = ViT("XXS", patch_size=(8, 8, 8), position_grid=(2, 2, 2))
    assert "leave it out" in refused(lambda: cls(vit, decoder_stride=(8, 8, 8)))

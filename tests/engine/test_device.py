"""What a GPU is told about a run, as far as a CPU shows it."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from torch import nn

from medpretrain3d.channels_last import to_channels_last
from medpretrain3d.engine.device import DeviceConfig
from medpretrain3d.errors import UserError
from tests.tiny import tiny_backbone
from tests.tiny_detectors import TINY_DETECTORS, tiny_detector


class Model(L.LightningModule):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone


def layouts(module: nn.Module) -> list[bool]:
    weights = [one.weight for one in module.modules() if isinstance(one, nn.Conv3d) and one.weight[0, 0].numel() > 1]
    return [weight.is_contiguous(memory_format=torch.channels_last_3d) and weight.shape[1] > 1 for weight in weights]


@pytest.fixture
def switches():
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    yield
    torch.backends.cudnn.allow_tf32 = before[0]
    torch.set_float32_matmul_precision(before[1])


@pytest.mark.parametrize(
    ("tf32", "wanted"),
    [("off", (False, "highest")), ("convolutions", (True, "highest")), ("all", (True, "high"))],
)
def test_tf32(switches, tf32, wanted):
    model = Model(tiny_backbone())
    DeviceConfig(tf32).apply(model, model.backbone, "cuda")
    assert (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == wanted


def test_a_value_that_there_is_not_is_refused():
    with pytest.raises(UserError, match="tf32"):
        DeviceConfig("on")


def test_channels_last_is_for_convolutions_on_a_gpu(switches, capsys):
    for name, device_type, is_done in (("ResEnc", "cuda", True), ("ResEnc", "cpu", False), ("Primus", "cuda", False)):
        model = Model(tiny_backbone(name))
        DeviceConfig(channels_last=True).apply(model, model.backbone, device_type)
        assert any(layouts(model)) == is_done
        said = capsys.readouterr().out
        assert ("left out" in said) == (not is_done)
    model = Model(tiny_backbone())
    DeviceConfig().apply(model, model.backbone, "cuda")
    assert not any(layouts(model))


@pytest.mark.parametrize("cls", TINY_DETECTORS)
def test_a_detector_gives_the_same_in_either_layout_under_the_same_names(cls):
    torch.manual_seed(0)
    plain, laid_out = tiny_detector(cls).eval(), tiny_detector(cls).eval()
    laid_out.load_state_dict(plain.state_dict())
    assert to_channels_last(laid_out) > 3
    image = torch.randn(1, 1, 24, 24, 24)
    with torch.no_grad():
        for exact, found in zip(plain.backbone(image), laid_out.backbone(image), strict=True):
            torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-4)
    assert laid_out.state_dict().keys() == plain.state_dict().keys()
    assert all(value.equal(plain.state_dict()[name]) for name, value in laid_out.state_dict().items())


def test_what_a_convolution_gives_has_the_layout_of_its_weight():
    layer = nn.Sequential(nn.Conv3d(8, 8, 3, padding=1), nn.Conv3d(8, 8, 1))
    assert to_channels_last(layer) == 1
    found = layer[0](torch.randn(2, 8, 12, 12, 12))
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    assert not found.is_contiguous()


def test_what_is_compiled_is_said(capsys):
    model = Model(tiny_backbone())
    model.compiled_parts = lambda: {"backbone": model.backbone}
    DeviceConfig(compile="eager").apply(model, model.backbone, "cpu")
    assert model.backbone._compiled_call_impl is not None
    assert capsys.readouterr().out == "device.compile: eager, when they are first called: backbone\n"
    with pytest.raises(UserError, match="compile"):
        DeviceConfig(compile="fast")

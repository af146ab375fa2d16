from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from medpretrain3d.backbones import convolution
from medpretrain3d.backbones.convolution import Conv3d, conv3d

IN_HALVES = [(1, 4, 8, 6, 5), (1, 4, 6, 2, 2)]
PADDED_BEFORE = [(2, 4, 8, 6, 5), (1, 4, 7, 6, 5), (1, 4, 4, 4, 4), (2, 3, 1, 4, 4)]


@pytest.fixture(autouse=True)
def avx2_alone(monkeypatch):
    """Whatever this machine has."""
    monkeypatch.setattr(convolution, "_has_avx2_alone", lambda: True)
    monkeypatch.setattr(convolution, "_has_avx512", lambda: False)


@pytest.fixture
def avx512(monkeypatch, avx2_alone):
    """Whatever this machine has."""
    monkeypatch.setattr(convolution, "_has_avx2_alone", lambda: False)
    monkeypatch.setattr(convolution, "_has_avx512", lambda: True)


class Calls(TorchDispatchMode):
    """Notes the paddings of the convolutions, forward and backward, that reach PyTorch's kernels."""

    def __init__(self):
        super().__init__()
        self.forward, self.backward, self.channels_last = [], [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.forward.append((len(args[0]), tuple(args[4])))
        if func is torch.ops.aten.convolution_backward.default:
            self.backward.append((tuple(args[5]), tuple(args[10])))
            self.channels_last.append(args[0].is_contiguous(memory_format=torch.channels_last_3d))
        return func(*args, **(kwargs or {}))


def values_and_gradients(convolve, shape, kernel=(3, 3, 3), channels=5, has_bias=True, **options):
    drawn = torch.Generator().manual_seed(0)
    image = torch.randn(shape, generator=drawn, requires_grad=True)
    groups = options.get("groups", 1)
    weight = torch.randn(channels * groups, shape[1] // groups, *kernel, generator=drawn, requires_grad=True)
    bias = torch.randn(channels * groups, generator=drawn, requires_grad=True) if has_bias else None
    out = convolve(image, weight, bias, **options)
    gradient = torch.randn(out.shape, generator=drawn)
    leaves = [one for one in (image, weight, bias) if one is not None]
    return [out, *torch.autograd.grad(out, leaves, gradient)]


@pytest.mark.parametrize(
    ("shape", "options"),
    [(shape, {"padding": (1, 1, 1)}) for shape in IN_HALVES + PADDED_BEFORE]
    + [
        ((2, 4, 8, 6, 6), {"padding": (1, 1, 1), "stride": (2, 2, 2)}),
        ((1, 4, 8, 6, 6), {"padding": (1, 1, 1), "stride": (1, 2, 2)}),
        ((2, 4, 8, 6, 6), {"padding": (2, 1, 0), "kernel": (5, 3, 1)}),
        ((2, 4, 8, 6, 6), {"padding": (1, 1, 1), "has_bias": False}),
        ((1, 4, 8, 6, 6), {"padding": (1, 1, 1), "has_bias": False}),
        ((2, 1, 8, 6, 6), {"padding": (1, 1, 1)}),
        ((2, 4, 8, 6, 6), {"padding": (2, 2, 2), "dilation": (2, 2, 2)}),
        ((2, 4, 8, 6, 6), {"padding": (1, 1, 1), "groups": 4}),
        ((2, 4, 8, 6, 6), {"padding": (0, 1, 1)}),
        ((2, 4, 8, 6, 6), {"kernel": (1, 1, 1)}),
    ],
)
def test_values_and_gradients_are_pytorchs(shape, options):
    ours, theirs = (values_and_gradients(convolve, shape, **options) for convolve in (conv3d, F.conv3d))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("shape", PADDED_BEFORE)
def test_the_weights_get_their_gradient_from_an_image_padded_along_depth(shape):
    with Calls() as calls:
        values_and_gradients(conv3d, shape, padding=(1, 1, 1))
    assert calls.forward == [(shape[0], (1, 1, 1))]
    assert calls.backward == [((1, 1, 1), (True, False, False)), ((0, 1, 1), (False, True, True))]


@pytest.mark.parametrize("shape", IN_HALVES)
def test_one_small_image_is_a_batch_of_two_halves(shape):
    with Calls() as calls:
        values_and_gradients(conv3d, shape, padding=(1, 1, 1))
    assert calls.forward == [(2, (0, 1, 1))]


@pytest.mark.usefixtures("avx512")
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((2, 4, 8, 6, 5), {"padding": (1, 1, 1)}),
        ((2, 4, 8, 6, 5), {"padding": (1, 1, 1), "has_bias": False}),
        ((2, 8, 8, 6, 6), {"padding": (1, 1, 1), "stride": (2, 2, 2), "channels": 16}),
        ((1, 4, 7, 6, 6), {"padding": (2, 1, 0), "kernel": (5, 3, 1)}),
        ((2, 24, 4, 4, 4), {"kernel": (2, 2, 2), "stride": (2, 2, 2)}),
    ],
)
def test_gradients_of_few_channels_are_pytorchs_computed_channels_last(shape, options):
    with Calls() as calls:
        ours = values_and_gradients(conv3d, shape, **options)
    assert calls.channels_last == [True]
    theirs = values_and_gradients(F.conv3d, shape, **options)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)
    assert torch.equal(ours[0], theirs[0])
    assert all(one.is_contiguous() for one in ours)


@pytest.mark.usefixtures("avx512")
@pytest.mark.parametrize(
    ("channels_in", "channels", "kernel"), [(1, 8, 3), (16, 32, 3), (16, 24, 3), (32, 6, 3), (64, 27, 3), (8, 8, 1)]
)
def test_other_gradients_stay_in_pytorchs_order(channels_in, channels, kernel):
    options = {"kernel": (kernel,) * 3, "padding": (kernel // 2,) * 3, "channels": channels}
    with Calls() as calls:
        values_and_gradients(conv3d, (2, channels_in, 6, 6, 6), **options)
    assert calls.channels_last == [False]


@pytest.mark.parametrize("instructions", ["avx2_alone", "avx512"])
def test_nothing_but_image_and_weights_is_kept_for_the_backward_pass(request, instructions):
    request.getfixturevalue(instructions)
    conv, image, kept = Conv3d(4, 4, 3, padding=1), torch.randn(2, 4, 8, 6, 5), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()), lambda _: None):
        conv(image)
    assert sorted(kept) == sorted([image.numel(), conv.weight.numel()])


@pytest.mark.parametrize("shape", PADDED_BEFORE[:2])
def test_the_arithmetic_is_counted_as_of_pytorchs(shape):
    counts = []
    for convolve in (conv3d, F.conv3d):
        with FlopCounterMode(display=False) as counter:
            values_and_gradients(convolve, shape, padding=(1, 1, 1))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("shape", [IN_HALVES[0], PADDED_BEFORE[0]])
def test_a_mode_that_replaces_convolutions_sees_this_one(shape):
    class Replaced(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return args[0] if func.__name__ == "conv3d" else func(*args, **(kwargs or {}))

    image = torch.randn(shape)
    with Replaced():
        assert Conv3d(4, 4, 3, padding=1)(image) is image


def test_autocast_and_other_types_are_left_to_pytorch():
    image = torch.randn(2, 4, 8, 6, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert Conv3d(4, 4, 3, padding=1)(image).dtype == torch.bfloat16
    assert Conv3d(4, 4, 3, padding=1).double()(image.double()).dtype == torch.float64
    other = Conv3d(4, 4, 3, padding="same", padding_mode="replicate")
    torch.testing.assert_close(other(image), nn.Conv3d.forward(other, image))

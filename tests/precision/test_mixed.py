"""The context of mixed precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from medpretrain3d.errors import UserError
from medpretrain3d.precision.mixed import autocast

CPU = torch.device("cpu")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_network_computes_in_the_precision_and_its_weights_stay_fp32(precision):
    layer, seen = torch.nn.Linear(3, 3), []
    layer.register_forward_hook(lambda _, __, found: seen.append(found.dtype))
    with autocast(CPU, precision):
        layer(torch.ones(2, 3)).float().sum().backward()
    wanted = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}[precision]
    assert seen == [wanted]
    assert layer.weight.grad.dtype == torch.float32


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("16", torch.float16), ("fp32", torch.float32)])
def test_other_names_mean_what_they_mean_in_a_recipe(name, dtype):
    with autocast(CPU, name):
        assert torch.nn.Linear(3, 3)(torch.ones(2, 3)).dtype == dtype


@pytest.mark.parametrize("device", [CPU, torch.device("meta")])
def test_a_name_of_no_precision_is_not_fp32(device):
    with pytest.raises(UserError, match="precision: got 'fp61', wanted one of 32-true"), autocast(device, "fp61"):
        pass


def test_fp32_is_fp32_within_another_context_too():
    with torch.autocast("cpu", torch.bfloat16), autocast(CPU, "32-true"):
        assert torch.nn.Linear(3, 3)(torch.ones(2, 3)).dtype == torch.float32


@pytest.mark.parametrize("convolve", [F.conv3d, F.conv_transpose3d])
@pytest.mark.parametrize(
    ("shape", "width"), [((2, 4, 4), 3), ((4, 1, 4), 3), ((3, 3, 2), 3), ((5, 4, 6), 5), ((8, 6, 8), 7)]
)
def test_convolutions_of_short_maps_are_those_of_fp32(convolve, shape, width):
    image, weight = torch.randn(1, 4, *shape), torch.randn(4, 4, width, width, width, requires_grad=True)
    convolve(image, weight, padding=width // 2).square().sum().backward()
    wanted, weight.grad = weight.grad, None
    with autocast(CPU, "bf16-mixed"):
        found = convolve(image.bfloat16(), weight, padding=width // 2)
        by_name = convolve(input=image.bfloat16(), weight=weight, padding=width // 2)
    assert found.dtype == torch.bfloat16  # the type that all others have
    assert found.equal(by_name)
    exact = convolve(image.bfloat16().float(), weight, padding=width // 2)
    assert found.equal(exact.bfloat16())
    found.float().square().sum().backward()
    torch.testing.assert_close(weight.grad, wanted, rtol=0.05, atol=0.05 * float(wanted.abs().max()))


@pytest.mark.parametrize("convolve", [F.conv2d, F.conv3d])
def test_the_gradient_of_a_short_map_s_convolution_is_no_random_number(convolve):
    """Memory that was NaN before lies beside what oneDNN reads; in bf16 some gradient of ten was NaN."""
    num_axes = 2 if convolve is F.conv2d else 3
    weight = torch.randn(32, 32, *[3] * num_axes, requires_grad=True)
    for _ in range(10):
        image = torch.randn(1, 32, *[4] * (num_axes - 1), 1)
        with autocast(CPU, "bf16-mixed"):
            found = convolve(image, weight, stride=2, padding=1)
        for exponent in range(6, 21):
            spoiled = [torch.full((2**exponent,), float("nan")) for _ in range(4)]
            del spoiled
        (gradient,) = torch.autograd.grad(found.float().sum(), weight)
        assert gradient.isfinite().all()


def test_longer_maps_are_convolved_in_bf16():
    image, weight = torch.randn(1, 4, 3, 3, 3), torch.randn(4, 4, 3, 3, 3)
    with autocast(CPU, "bf16-mixed"):
        found = F.conv3d(image, weight, padding=1)
    assert not found.equal(F.conv3d(image, weight, padding=1).bfloat16())


def test_lengths_are_fp32_as_on_a_gpu():
    vector = torch.full((64, 3), 1.1).bfloat16()
    with autocast(CPU, "bf16-mixed"):
        for found in (vector.norm(p=2, dim=0), torch.linalg.vector_norm(x=vector, dim=0)):
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, vector.float().norm(dim=0))


@pytest.mark.parametrize("norm", [F.layer_norm, F.group_norm, F.instance_norm])
def test_norms_without_weights_have_their_statistics_in_fp32(norm):
    image = (torch.randn(2, 4, 6, 6) + 3).bfloat16()
    options = {F.layer_norm: ((6, 6),), F.group_norm: (2,), F.instance_norm: ()}[norm]
    with autocast(CPU, "bf16-mixed"):
        found = norm(image, *options)
    assert found.dtype == torch.bfloat16
    assert found.equal(norm(image.float(), *options).bfloat16())

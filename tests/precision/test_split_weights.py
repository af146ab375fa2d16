from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from medpretrain3d.precision.split_weights import is_split, join, join_weights, put_whole, split, split_weights, whole

HARD = [0.0, -0.0, 1.0, -1.0, 160.5, 1 / 3, 1e-40, -1e-45, 3.4e38, -3.4e38, float("inf"), float("-inf")]
# The bits behind a bf16 are exactly a half: up and down from it.
HALVES = torch.tensor([0x3F808000, 0x3F818000, -0x407F8000], dtype=torch.int32).view(torch.float32).tolist()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(4, 2))


def test_both_halves_are_the_number_bit_by_bit():
    drawn = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    value = torch.cat([torch.tensor([*HARD, *HALVES]), drawn, drawn * 1e-38])
    high, low = split(value)
    assert (high.dtype, low.dtype) == (torch.bfloat16, torch.int16)
    assert torch.equal(join(high, low).view(torch.int32), value.view(torch.int32))
    ordinary = value[15 : 15 + len(drawn)]
    torch.testing.assert_close(split(ordinary)[0].float(), ordinary, rtol=2**-8, atol=0)
    assert torch.equal(split(ordinary)[0], ordinary.to(torch.bfloat16))  # the nearest, where no two are


def test_what_is_not_a_number_stays_none_in_the_half_that_the_network_computes_with():
    bits = torch.tensor([0x7FC00000, 0x7FFFFFFF, 0x7F800001, 0x7FFF8000, -1, -0x7FFFFF, -0x400000], dtype=torch.int32)
    value = bits.view(torch.float32)
    assert value.isnan().all()
    high, low = split(value)
    assert high.isnan().all()
    assert join(high, low).isnan().all()


def test_layers_that_compute_in_bf16_are_split_and_files_see_none_of_it():
    net, before = network(), network().state_dict()
    split_weights(net)
    assert [name for name, weight in net.named_parameters() if is_split(weight)] == ["0.weight", "3.weight"]
    assert net[0].weight.dtype == torch.bfloat16
    assert net[1].weight.dtype == net[3].bias.dtype == torch.float32
    saved = net.state_dict()
    for name, value in before.items():
        assert saved[name].dtype == torch.float32
        assert torch.equal(saved[name], value)
    other = network()
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.001)
    net.load_state_dict(other.state_dict())
    assert torch.equal(whole(net[3].weight), other[3].weight)
    assert torch.equal(net.state_dict()["0.weight"], other[0].weight)
    join_weights(net)
    assert not any(map(is_split, net.parameters()))
    assert {weight.dtype for weight in net.parameters()} == {torch.float32}
    assert all(torch.equal(one, two) for one, two in zip(net.parameters(), other.parameters(), strict=True))
    assert net.state_dict().keys() == before.keys()


def test_a_small_update_is_not_lost():
    net = nn.Sequential(nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        net[0].weight.fill_(1.0)
    split_weights(net)
    for _ in range(64):
        put_whole(net[0].weight, whole(net[0].weight) + 2**-13)  # bf16 has 2^-8 above 1: each alone would be lost
    assert whole(net[0].weight).item() == 1 + 2**-7
    assert net[0].weight.item() == 1 + 2**-7


def test_what_is_not_trained_stays_fp32():
    net = network()
    frozen = copy.deepcopy(net).requires_grad_(False)
    both = nn.ModuleList([net, frozen])
    split_weights(both)
    assert {weight.dtype for weight in frozen.parameters()} == {torch.float32}
    assert whole(frozen[0].weight).data_ptr() == frozen[0].weight.data_ptr()


@pytest.mark.parametrize("layer", [nn.Linear(3, 2), nn.Conv3d(2, 3, 1), nn.ConvTranspose3d(2, 3, 2)])
def test_gradients_have_the_type_of_weights(layer):
    split_weights(layer)
    image = torch.ones(2, 3) if isinstance(layer, nn.Linear) else torch.ones(1, 2, 4, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        layer(image).float().sum().backward()
    assert layer.weight.grad.dtype == torch.bfloat16
    assert layer.bias.grad.dtype == torch.float32

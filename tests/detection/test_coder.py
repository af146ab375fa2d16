from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medpretrain3d.detection.coder import BoxCoder, DistanceCoder


def test_deltas_by_hand():
    anchor = torch.tensor([[0.0, 0, 0, 4, 4, 4]])
    box = torch.tensor([[1.0, 0, 2, 5, 8, 4]])  # centre (3, 4, 3), extent (4, 8, 2); the anchor's centre is (2, 2, 2)
    expected = [0.25, 0.5, 0.25, 0, math.log(2), -math.log(2)]
    assert BoxCoder().encode(box, anchor)[0].tolist() == pytest.approx(expected)
    weighted = BoxCoder(weights=(10, 10, 10, 5, 5, 5)).encode(box, anchor)[0].tolist()
    assert weighted == pytest.approx([2.5, 5, 2.5, 0, 5 * math.log(2), -5 * math.log(2)])


def test_distances_are_weighted_as_deltas_are():
    cell, box = torch.tensor([[0.0, 0, 0, 4, 4, 4]]), torch.tensor([[-2.0, 0, 0, 6, 4, 4]])
    weights = (2.0, 3.0, 4.0, 5.0, 6.0, 7.0)
    plain, weighted = DistanceCoder(), DistanceCoder(weights=weights, max_ratio=10)
    deltas = weighted.encode(box, cell)
    torch.testing.assert_close(deltas, plain.encode(box, cell) * torch.tensor(weights))
    torch.testing.assert_close(weighted.decode(deltas, cell), box)
    # The limit is one of distances, whatever the weights.
    torch.testing.assert_close(weighted.decode(torch.full((1, 6), 1e3), cell)[0, 3:], torch.full((3,), 42.0))


def test_zero_deltas_are_the_anchor_and_huge_ones_stay_finite():
    anchor = torch.tensor([[0.0, 0, 0, 4, 4, 4]])
    assert BoxCoder().decode(torch.zeros(1, 6), anchor).equal(anchor)
    huge = BoxCoder(max_ratio=10).decode(torch.full((1, 6), 1e4) * torch.tensor([0, 0, 0, 1, 1, 1]), anchor)
    assert huge[0].tolist() == pytest.approx([-18, -18, -18, 22, 22, 22], rel=1e-5)


@pytest.mark.parametrize("coder", [BoxCoder(max_ratio=10), DistanceCoder(max_ratio=10)])
def test_a_delta_beyond_the_limit_keeps_its_gradient(coder):
    anchor = torch.tensor([[0.0, 0, 0, 4, 4, 4]])
    deltas = torch.full((1, 6), 50.0, requires_grad=True)
    box = coder.decode(deltas, anchor)
    box[:, 5].sum().backward()
    assert deltas.grad[0, 5] > 1  # as steep as at the limit, where the extent is 40


def test_half_precision_deltas_give_float32_boxes():
    anchor = torch.tensor([[157.5, 0, 0, 163.5, 4, 4]])
    box = BoxCoder().decode(torch.zeros(1, 6, dtype=torch.bfloat16), anchor)
    assert box.dtype == torch.float32
    assert box.equal(anchor)  # bf16 would have turned 157.5 into 157


coordinate = st.floats(-200, 200, width=32)
extent = st.floats(0.5, 100, width=32)


@settings(deadline=None)
@given(st.tuples(coordinate, coordinate, coordinate, extent, extent, extent), st.floats(0.1, 10))
def test_decode_undoes_encode(numbers, weight):
    low, size = torch.tensor(numbers).split(3)
    box = torch.cat([low, low + size])[None]
    anchor = torch.tensor([[10.0, 20, 30, 16, 30, 44]])
    coder = BoxCoder(weights=[weight] * 6, max_ratio=1000)
    torch.testing.assert_close(coder.decode(coder.encode(box, anchor), anchor), box, rtol=1e-4, atol=1e-3)

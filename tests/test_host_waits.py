"""The device that is none: it computes what the CPU does, refuses what a GPU refuses, and counts what would wait."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.host_waits import DEVICE, CountingDevice

WAITING = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.sum() > 0),
    "int": lambda x: int(x.sum()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "nonzero": lambda x: torch.nonzero(x),
    "where": lambda x: torch.where(x > 1),
    "boolean index": lambda x: x[x > 1],
    "assignment to a boolean index": lambda x: x.clone().index_put_((x > 1,), x.new_zeros(())),
    "index on the CPU": lambda x: x[torch.tensor([0, 2])],
    "list as index": lambda x: x[[0, 2]],
    "masked_select": lambda x: x.masked_select(x > 1),
    "unique": lambda x: x.unique(),
    "bincount": lambda x: x.long().bincount(minlength=9),
    "repeat_interleave": lambda x: x.repeat_interleave(x.long()),
    "equal": lambda x: torch.equal(x, x),
    "allclose": lambda x: torch.allclose(x, x),
    "tensor of a list": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "tensor of a number": lambda x: torch.tensor(1.0, device=x.device),
    "new_tensor": lambda x: x.new_tensor([1.0]),
    "as_tensor": lambda x: torch.as_tensor(1, device=x.device),
    "copy to the device": lambda x: torch.ones(3).to(x.device),
    "copy_ from the CPU": lambda x: torch.empty_like(x).copy_(torch.ones(4)),
    "copy_ to the CPU": lambda x: torch.ones(4).copy_(x),
}
NOT_WAITING = {
    "arithmetic": lambda x: (x * 2 + 1).sum().sqrt(),
    "shapes": lambda x: x[None].expand(2, -1).reshape(-1)[1:3],
    "where": lambda x: torch.where(x > 1, x, 0.0),
    "masked_fill": lambda x: x.masked_fill(x > 1, 0.0),
    "index on the device": lambda x: x[x.argsort()[:2]],
    "topk": lambda x: x.topk(2).values,
    "factories": lambda x: torch.zeros(3, device=x.device) + torch.arange(3, device=x.device) + x.new_ones(3),
    "full": lambda x: torch.full((), 1.0, device=x.device),
    "a number of the CPU": lambda x: x * torch.tensor(2.0),
    "repeat_interleave of known size": lambda x: x.repeat_interleave(x.long(), output_size=10),
    "copy that nothing waits for": lambda x: torch.ones(3).to(x.device, non_blocking=True),
    "copy of another type": lambda x: torch.ones(3).to(x.device, torch.float64, non_blocking=True),
    "on the CPU": lambda x: torch.nonzero(torch.ones(3)).tolist(),
    "type": lambda x: x.double().long().float(),
}


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("name", WAITING)
def test_what_a_gpu_waits_for_is_counted_once(name, mode):
    with CountingDevice() as device, mode():
        x = torch.tensor([1.0, 2, 3, 4]).to(DEVICE)
        device.reset()
        WAITING[name](x)
        assert len(device.waits) == 1, device.summary
        assert "tests/test_host_waits.py:" in device.waits[0]


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("name", NOT_WAITING)
def test_what_it_does_not_wait_for_is_not(name, mode):
    with CountingDevice() as device, mode():
        x = torch.tensor([1.0, 2, 3, 4]).to(DEVICE)
        device.reset()
        found = NOT_WAITING[name](x)
        assert not device.waits, device.summary
        expected = NOT_WAITING[name](torch.tensor([1.0, 2, 3, 4]))
        assert found == expected if isinstance(found, list) else found.cpu().equal(expected)


def test_a_boolean_index_waits_in_the_backward_pass_too():
    with CountingDevice() as device:
        x = torch.rand(4).to(DEVICE).requires_grad_()
        device.reset()
        x[x > 2].sum().backward()
        assert [wait.split()[1] == "backward" for wait in device.waits] == [False, True]


def test_a_network_steps_there_as_on_the_cpu():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(True), nn.Flatten(), nn.Linear(4, 2))
    image = torch.rand(2, 1, 3, 3, 3)
    network(image).square().sum().backward()
    expected = {name: parameter.grad for name, parameter in network.named_parameters()}
    network.zero_grad()
    with CountingDevice() as device:
        network.to(DEVICE)
        on_device = image.to(DEVICE)
        device.reset()
        loss = network(on_device).square().sum()
        num_kernels = device.num_kernels
        loss.backward()
        assert not device.waits
        assert num_kernels == 6  # five layers of which one is a view, the square, the sum
        assert device.num_kernels > num_kernels
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(parameter.grad.cpu(), expected[name], rtol=0, atol=0)


def test_what_a_gpu_refuses_is_refused():
    with CountingDevice():
        x = torch.ones(3).to(DEVICE)
        with pytest.raises(RuntimeError, match="a GPU would refuse"):
            x + torch.ones(3)
        with pytest.raises((TypeError, RuntimeError)):
            x.numpy()
    with pytest.raises(RuntimeError, match="outside of its CountingDevice"):
        x + 1

"""Many tensors come from a device by one copy, as they were."""

from __future__ import annotations

import torch

from medpretrain3d.transfer import to_host
from tests.host_waits import DEVICE, CountingDevice


def test_tensors_of_all_types_and_shapes_come_by_one_copy():
    tensors = [
        torch.tensor([True, False, True]),
        torch.rand(3, 4).mT,
        torch.tensor(2**60 + 1),
        torch.zeros(0, 6),
        torch.tensor([0.5, -torch.inf, torch.nan], dtype=torch.bfloat16),
        torch.rand(2, 3, 4, dtype=torch.float64)[:, 1],
    ]
    with CountingDevice() as device:
        away = [tensor.to(DEVICE) for tensor in tensors[1:]]
        device.reset()
        found = to_host([tensors[0], *away])
        assert len(device.waits) == 1, device.summary
    for one, expected in zip(found, tensors, strict=True):
        assert (one.device.type, one.dtype) == ("cpu", expected.dtype)
        torch.testing.assert_close(one, expected, rtol=0, atol=0, equal_nan=True)


def test_what_is_on_the_cpu_is_not_copied():
    weights = torch.rand(3, requires_grad=True)
    (found,) = to_host([weights])
    assert found.data_ptr() == weights.data_ptr()
    assert not found.requires_grad

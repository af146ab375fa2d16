from __future__ import annotations

import pytest

from medpretrain3d.study.visible_devices import named_devices
from medpretrain3d.study.workflow import Machine


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("none", []),
        ("1,0", ["1", "0"]),
        ("0, 1", ["0", "1"]),
        ("0,-1,1", ["0"]),
        ("0,,1", ["0"]),
        ("1,1", []),
        ("GPU-8932f937,MIG-b3c6a2f1", ["GPU-8932f937", "MIG-b3c6a2f1"]),
    ],
)
def test_devices_are_those_that_cuda_shows(monkeypatch, named, found):
    """CUDA Programming Guide, environment variables: those before the first that is invalid."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert Machine().devices == found
    assert Machine(gpus=1).devices == found[:1]


def test_a_number_beyond_the_last_device_ends_them():
    assert named_devices("1,2,0", count=2) == ["1"]
    assert named_devices("1,2,0") == ["1", "2", "0"]  # how many there are is not known

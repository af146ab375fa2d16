"""A network in half precision, watched for what must stay in fp32."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medpretrain3d.precision.mixed import autocast

Found = TypeVar("Found")
CPU = torch.device("cpu")
IN_FP32 = re.compile(
    r"aten\.(exp|exp_|expm1|log\w*|pow|square|sqrt|div|sub|rsub|sum|mean|var\w*|std\w*|_softmax|_log_softmax|\w*loss\w*|"
    r"binary_cross_entropy\w*|sigmoid|linalg\w*|inverse|ge|le|gt|lt|minimum|maximum|clamp\w*|sort|topk)\."
)
"""Of losses, boxes, coders, matching and coordinates; networks have convolutions, products, norms and activations."""


class Watch(TorchDispatchMode):
    """Notes operations that get or give what they must not in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: set[str] = set()
        self.num_halves = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        if any(one.dtype == torch.bfloat16 for one in given):
            self.num_halves += 1
            name = str(func)
            if IN_FP32.match(name):
                self.faults.add(name)
            if "_norm." in name:  # gives what is normalized, and statistics
                self.faults |= {f"{name}: statistics" for one in found[1:] if one.dtype == torch.bfloat16 and len(one)}
        return found


SQUEEZE_AND_EXCITE = {"aten.mean.dim", "aten.sigmoid.default"}
"""Operations of layers that scale channels by what all voxels say."""


def in_both(compute: Callable[[], Found], layers: Collection[str] = ()) -> tuple[Found, Found]:
    """Return what is computed in fp32 and in bf16, where nothing in half precision is that must not be.

    Args:
        compute: runs a network.
        layers: operations that are layers of this network.
    """
    with torch.no_grad():
        exact = compute()
        with autocast(CPU, "bf16-mixed"), Watch() as watch:
            found = compute()
    faults = sorted(watch.faults.difference(layers))
    assert not faults, f"in half precision: {faults}"
    assert watch.num_halves > 5, "the network runs in half precision"
    return exact, found

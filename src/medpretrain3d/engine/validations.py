"""Validations of a run: how much each looks at, and callbacks that act at one."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L

from medpretrain3d.errors import UserError


def limit_as_number(limit: float | None, num_batches: int) -> float | None:
    """Return `trainer.limit_val_batches` as a number of batches; None and 1.0, which is all of them, as they are.

    Lightning takes a share of the batches of each process, so that it would depend on the number of processes how much
    a validation looks at.

    Args:
        limit: number, share, or None.
        num_batches: of a validation on one process.

    Raises:
        UserError: a share of less than one batch.
    """
    if limit is None or (isinstance(limit, float) and limit == 1):
        return limit
    if isinstance(limit, int) or limit == 0 or num_batches == 0:
        return int(limit)
    if limit * num_batches < 1:
        raise UserError(
            f"trainer: got limit_val_batches {limit} of {num_batches} batches of a validation, which is none; wanted a "
            f"share of at least {1 / num_batches:.2g}, or 0 to train without validation"
        )
    return int(limit * num_batches)


def limited(num_batches: int, limit: float) -> int:
    """Return how many batches `limit_as_number` leaves of those of all processes; the trainer's limit is never None."""
    return min(num_batches, limit) if isinstance(limit, int) else num_batches


def check_awaited(callbacks: Sequence[L.Callback], is_validated: bool) -> None:
    """Refuse callbacks that go by a metric of the validations, as `EarlyStopping` does, where there is none.

    Args:
        callbacks: of the run.
        is_validated: whether it validates.

    Raises:
        UserError: names the first of them.
    """
    for callback in () if is_validated else callbacks:
        monitor = getattr(callback, "monitor", None) or ""
        if monitor.startswith(("val/", "probe/")):
            raise UserError(
                f"trainer.callbacks: {type(callback).__name__} goes by {monitor}, but nothing is validated: there is "
                "no validation case, or trainer.limit_val_batches is 0; change that, or take it out"
            )

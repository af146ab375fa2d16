"""A share of the optimizer steps of a recipe, as a study's step budgets ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

from medpretrain3d.errors import UserError


def fewer_steps(options: Mapping[str, Any], share: float, key: str, shares: Sequence[float] = ()) -> dict[str, Any]:
    """Return the options that make a share of the steps, with the last validation at their end.

    Otherwise the last steps are never validated: the best weights are not looked for among them, and the detections
    that thresholds are tuned by are of earlier weights. An interval that does not divide the steps gives way to the
    nearest that does.

    Args:
        options: of the recipe.
        share: of its steps.
        key: of the document, for what is refused.
        shares: all that the study has.

    Raises:
        UserError: the recipe does not say how many there are, or two shares are the same number of steps.
    """
    whole = options.get("trainer.max_steps")
    if not isinstance(whole, int) or whole < 1:
        raise UserError(f"{key}: its recipe has no trainer.max_steps to take a share of; set that")
    steps = max(1, round(share * whole))
    alike = [other for other in shares if other != share and max(1, round(other * whole)) == steps]
    if alike:
        raise UserError(f"{key}: {share:g} and {alike[0]:g} of {whole} steps are both {steps}; drop one of them")
    interval = options.get("trainer.val_check_interval")
    if not isinstance(interval, int) or interval < 1 or steps % interval == 0:
        return {"trainer.max_steps": steps}
    return {"trainer.max_steps": steps, "trainer.val_check_interval": _nearest_divisor(steps, interval)}


def _nearest_divisor(number: int, wanted: int) -> int:
    """Return the divisor of a number that differs from another number by the smallest factor."""
    small = [one for one in range(1, isqrt(number) + 1) if number % one == 0]
    divisors = [*small, *(number // one for one in small)]
    return min(divisors, key=lambda one: max(one, wanted) / min(one, wanted))

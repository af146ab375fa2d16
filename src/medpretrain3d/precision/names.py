"""Names of precisions, as Lightning's trainer has them."""

from __future__ import annotations

from typing import Literal, get_args

from medpretrain3d.errors import UserError

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""fp32; or weights in fp32 and what `torch.autocast` says in half of the bits. Boxes and losses are fp32 in all."""

TrainingPrecision = Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true"]
"""Those, and weights in bf16 whose other half is kept beside them; all else of it is `bf16-mixed`."""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

OTHER_NAMES: dict[str, Precision] = {
    "32": "32-true",
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "16": "16-mixed",
    "fp16": "16-mixed",
}
"""What people and earlier versions of Lightning call them."""


def precision_name(asked: str | int, place: str = "precision") -> Precision:
    """Return the name of a precision that somebody asked for.

    Args:
        asked: one of `PRECISIONS` or of `OTHER_NAMES`.
        place: what asked for it, for the error.

    Raises:
        UserError: it is none of them. Pure half precision of Lightning's (`16-true`) would compute boxes in it as well;
            `bf16-true` is one of training alone, since files hold weights in fp32.

    Example:
        >>> from medpretrain3d.precision.names import precision_name
        >>> precision_name("bf16")
        'bf16-mixed'
    """
    text = str(asked).strip()
    for name in PRECISIONS:
        if text in (name, *(other for other, meant in OTHER_NAMES.items() if meant == name)):
            return name
    raise UserError(f"{place}: got {text!r}, wanted one of {', '.join(PRECISIONS)}; boxes and losses stay in fp32")


def training_precision_name(asked: str | int, place: str = "precision") -> TrainingPrecision:
    """Return the name of a precision of training; see `precision_name`.

    Raises:
        UserError: it is none.
    """
    return "bf16-true" if str(asked).strip() == "bf16-true" else precision_name(asked, place)


def network_precision(precision: TrainingPrecision) -> Precision:
    """Return the precision that a network runs in whose weights are trained in another one."""
    return "bf16-mixed" if precision == "bf16-true" else precision

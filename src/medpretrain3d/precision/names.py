"""Names of precisions, as Lightning's trainer has them."""

from __future__ import annotations

from typing import Literal, get_args

from medpretrain3d.errors import UserError

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""fp32; or weights in fp32 and what `torch.autocast` says in half of the bits. Boxes and losses are fp32 in all."""

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
        UserError: it is none of them; those of pure half precision (`bf16-true`) would compute boxes in it as well.

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

"""Intensity unit of a scan."""

from __future__ import annotations

from typing import Literal, get_args

from medpretrain3d.errors import UserError
from medpretrain3d.values import shown

Unit = Literal["hu", "any"]
"""`hu`: values are Hounsfield units. `any`: they mean something within one scan only, as in MR."""


def check_unit(unit: object) -> None:
    """Refuse what is no unit: values read as of none would be stretched and mapped by their z-score.

    Raises:
        UserError: it is not `hu` or `any`, spelled so.
    """
    if unit not in get_args(Unit):
        raise UserError(f"unit: got {shown(unit)}, wanted 'hu' for Hounsfield units or 'any' where values have none")

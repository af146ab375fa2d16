"""Intensity unit of a scan."""

from __future__ import annotations

from typing import Literal

Unit = Literal["hu", "any"]
"""`hu`: values are Hounsfield units. `any`: they mean something within one scan only, as in MR."""

"""Schemas of documents, written as types, and one way to validate against them."""

from __future__ import annotations

import functools
from typing import Annotated, Any, TypeVar, cast

from pydantic import AfterValidator, ConfigDict, Field, Strict, StrictInt, StrictStr, TypeAdapter, ValidationError
from pydantic.types import AllowInfNan

from medpretrain3d.errors import UserError
from medpretrain3d.names import plain_name

T = TypeVar("T")


def _visible(text: str) -> str:
    if not text.isprintable():
        raise ValueError("wanted a name of printable characters")
    return text


def _case_id(text: str) -> str:
    return plain_name(text, "case id")


SCHEMA = ConfigDict(extra="allow", strict=True)
"""Of a `TypedDict` (`@with_config(SCHEMA)`): further keys stay, `"1"` is no number and `True` neither."""

Number = Annotated[float, Strict(), AllowInfNan(False)]
"""A finite number."""
Whole = Annotated[StrictInt, Field(ge=0, lt=2**31)]
"""A whole number from 0 up that fits any index."""
Text = Annotated[StrictStr, Field(max_length=4096)]
Name = Annotated[StrictStr, Field(min_length=1, max_length=200), AfterValidator(_visible)]
"""Of a class or a channel, as it is printed, plotted and written into tables."""
CaseId = Annotated[StrictStr, AfterValidator(_case_id)]
"""Of a case of ours: a name that files and folders can have."""
Triple = Annotated[list[Number], Field(min_length=3, max_length=3)]
"""One number per axis."""
Numbers = list[Number]


def checked(document: object, schema: type[T], place: str, advice: str) -> T:
    """Return the document, which is of the type that the schema says.

    Args:
        document: plain data.
        schema: any type that pydantic knows: a `TypedDict`, `list[str]`, a dataclass that is built from an object.
        place: of the document, for messages.
        advice: what to do about a bad one.

    Raises:
        UserError: names the first value that is of another type.
    """
    if schema is object or schema is Any:
        return cast(T, document)
    try:
        found = _adapter(cast(Any, schema)).validate_python(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if isinstance(cause := first.get("ctx", {}).get("error"), UserError):
            raise UserError(f"{place}: {cause}") from error
        where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in first["loc"]).lstrip(".")
        message = (
            first["msg"]
            .removeprefix("Value error, ")
            .replace("Input should be", "wanted")
            .replace("Field required", "is missing")
        )
        got = f"got {_short(first['input'])}, " if first["type"] != "missing" else ""
        raise UserError(f"{place}: {f'{where}: ' if where else ''}{got}{message}; {advice}") from error
    except RecursionError as error:
        raise UserError(f"{place}: is nested too deeply; {advice}") from error
    # Plain data stays as it is: 1 and 1.0 are one number, but not one text to take a hash of.
    return cast(T, document) if isinstance(found, dict | list) else cast(T, found)


@functools.cache
def _adapter(schema: Any) -> TypeAdapter[Any]:
    return TypeAdapter(schema)


def _short(value: object) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

"""Values of options: what an argument may be is written in its type, and compared wherever the object is made.

A range is written once, in the signature, and holds for a recipe, for Python and for what a file describes
(`configurable.from_config`), since it is looked at where the object is made.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import BaseMetadata, Ge, GroupedMetadata, Gt, Le, Lt, MaxLen, MinLen

from medpretrain3d.errors import UserError

LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Rising(BaseMetadata):
    """Constraint on a pair: the first is not above the second."""


@dataclass(frozen=True)
class MaxProduct(BaseMetadata):
    """Constraint on a list of numbers: their product is not above a limit, such as that of cells with a vector each."""

    limit: int


@dataclass(frozen=True)
class Unchecked(BaseMetadata):
    """Marker of what the constructor itself checks, and has better words for: which text, or whether it is finite."""


# Limits from above keep a mistyped width from taking all memory before anyone can say so.
Whole = Annotated[int, Ge(0), Le(LARGEST)]
Count = Annotated[int, Ge(1), Le(LARGEST)]
Rows = Annotated[int, Ge(1), Le(2**20)]
"""Rows of a table of weights or of a list that is sorted: queries, prototypes, candidates."""
Channels = Annotated[int, Ge(1), Le(16_384)]
ChannelsOrNone = Annotated[int, Ge(0), Le(16_384)]
Layers = Annotated[int, Ge(1), Le(256)]
"""Layers of one kind in a row, or levels."""
LayersOrNone = Annotated[int, Ge(0), Le(256)]
Kernel = Annotated[int, Ge(1), Le(31)]
Step = Annotated[int, Ge(1), Le(64)]
Kernels = tuple[Kernel, Kernel, Kernel]
Steps = tuple[Step, Step, Step]
"""Strides, patches or windows along (D, H, W)."""
Cells = Annotated[tuple[Layers, Layers, Layers], MaxProduct(2**18)]
"""A grid along (D, H, W) whose cells have a vector each."""
Sizes = tuple[Count, Count, Count]
"""Voxels along (D, H, W)."""
Axis = Annotated[int, Ge(0), Le(2)]
Real = Annotated[float, Unchecked()]
Finite = Annotated[float, Gt(-math.inf), Lt(math.inf)]
Positive = Annotated[float, Gt(0), Lt(math.inf)]
NonNegative = Annotated[float, Ge(0), Lt(math.inf)]
Gigabytes = Annotated[float, Ge(0), Le(10**9)]
"""Of a disk: an exabyte at most."""
Share = Annotated[float, Ge(0), Le(1)]
"""A probability, a threshold of scores or overlaps, a part of a whole."""
PositiveShare = Annotated[float, Gt(0), Le(1)]
ShareBelowOne = Annotated[float, Ge(0), Lt(1)]
OpenShare = Annotated[float, Gt(0), Lt(1)]
Workers = Annotated[int, Ge(0), Le(1024)]
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]
Positives = Annotated[tuple[Positive, Positive], Rising()]
Shares = Annotated[tuple[Share, Share], Rising()]
PositiveShares = Annotated[tuple[PositiveShare, PositiveShare], Rising()]
OpenShares = Annotated[tuple[OpenShare, OpenShare], Rising()]
Counts = Annotated[tuple[Count, Count], Rising()]


class Checked:
    """Mixin: an object is not made from arguments that its constructor's annotations do not allow.

    Raises:
        UserError: names the class, the argument, what it got and what was wanted.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Allocate the object once the arguments are looked at."""
        try:
            bound = constructor(cls).bind(None, *args, **kwargs)
        except TypeError:
            return super().__new__(cls)  # unpickling allocates without arguments; a wrong call fails in __init__ itself
        check_arguments(cls, arguments_by_name(bound))
        return super().__new__(cls)


def constructor(cls: type) -> inspect.Signature:
    """Signature of `__init__`; `**options` that it hands on to its base class are the parameters of that class."""
    return _constructor(cls)[0]


def arguments_by_name(bound: inspect.BoundArguments) -> dict[str, Any]:
    """Return arguments of a call of the constructor, defaults included, without `self`."""
    bound.apply_defaults()
    arguments: dict[str, Any] = {}
    for parameter in list(bound.signature.parameters.values())[1:]:
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments |= bound.arguments[parameter.name]
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            arguments[parameter.name] = bound.arguments[parameter.name]
    return arguments


def check_arguments(cls: type, arguments: Mapping[str, Any]) -> None:
    """Compare the arguments of a constructor with its annotations.

    Raises:
        UserError: names the first that does not fit.
    """
    hints = _constructor(cls)[1]
    for name, value in arguments.items():
        if name in hints:
            check_value(cls.__name__, name, value, hints[name])


def check_fields(one: Any) -> None:
    """Compare the fields of a dataclass with their annotations, in `__post_init__`.

    For those that a command line takes apart into options, which it only does where no other class is below.

    Raises:
        UserError: see `check_arguments`.
    """
    check_arguments(type(one), {field.name: getattr(one, field.name) for field in fields(one)})


def check_value(place: str, name: str, value: object, hint: Any) -> None:
    """Compare a value with a type.

    Objects of classes that are no plain data are taken as they are where a class is wanted.

    Raises:
        UserError: the value does not fit.
    """
    if not fits(value, hint):
        raise UserError(f"{place}: got {name} {shown(value)}, wanted {wanted(hint)}")


def fits(value: object, hint: Any) -> bool:
    """Return whether a value is one of a type, a list as good as a tuple and a whole number as good as a number."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        if any(isinstance(one, Unchecked) for one in parts[1:]):
            return isinstance(value, str) if get_origin(parts[0]) is Literal else _number(value, finite=False)
        return fits(value, parts[0]) and all(_allows(one, value) for one in _flat(parts[1:]))
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if hint is None or hint is type(None):
        return value is None
    if origin is tuple and (len(parts) != 2 or parts[1] is not Ellipsis):
        return (
            isinstance(value, list | tuple)
            and len(value) == len(parts)
            and all(fits(one, part) for one, part in zip(value, parts, strict=True))
        )
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(fits(k, parts[0]) and fits(v, parts[1]) for k, v in value.items())
    if inspect.isclass(origin) and issubclass(origin, Collection):
        return isinstance(value, list | tuple) and all(fits(one, parts[0]) for one in value)
    if hint in _PLAIN:
        return _PLAIN[hint](value)
    if inspect.isclass(hint) and hint.__module__ != "typing" and hint is not object:
        return isinstance(value, hint) or not (value is None or isinstance(value, _DATA))
    return True


def wanted(hint: Any) -> str:
    """Return a type in words: `a whole number >= 1`."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = [text for one in _flat(parts[1:]) if (text := _limit(one))]
        return f"{wanted(parts[0])}{' ' if limits else ''}{' and '.join(limits)}"
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(wanted(part) for part in parts))
    if origin is Literal:
        return f"one of {', '.join(dict.fromkeys(map(str, parts)))}" if len(parts) > 1 else str(parts[0])
    if hint is None or hint is type(None):
        return "null"
    if origin is tuple and (len(parts) != 2 or parts[1] is not Ellipsis):
        each = dict.fromkeys(wanted(part) for part in parts)
        return f"a list of {len(parts)}, each {' or '.join(each)}"
    if inspect.isclass(origin) and issubclass(origin, Collection) and parts:
        return f"a {'table' if issubclass(origin, Mapping) else 'list'} of {wanted(parts[-1 if origin is dict else 0])}"
    return _NAMES.get(hint) or f"a {getattr(hint, '__name__', hint)}"


def shown(value: object) -> str:
    """Return a value for a message, shortened."""
    text = repr(value) if isinstance(value, str | int | float | None) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _number(value: object, finite: bool = True) -> bool:
    if isinstance(value, bool) or not ((hasattr(value, "__float__") and not hasattr(value, "shape")) or _scalar(value)):
        return False
    try:
        return math.isfinite(float(value)) or not finite  # type: ignore[arg-type]  # a number, as was asked above
    except (TypeError, ValueError, OverflowError):
        return False


def _scalar(value: object) -> bool:
    return getattr(value, "shape", None) == () and hasattr(value, "dtype") and hasattr(value, "item")


def _whole(value: object) -> bool:
    return not isinstance(value, bool) and hasattr(value, "__index__") and not hasattr(value, "__len__")


_PLAIN: dict[Any, Callable[[object], bool]] = {
    bool: lambda value: isinstance(value, bool),
    int: _whole,
    float: _number,
    str: lambda value: isinstance(value, str),
    os.PathLike: lambda value: isinstance(value, os.PathLike),
}
_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "text",
}
_DATA = (bool, int, float, complex, str, bytes, list, tuple, dict, set)


def _allows(limit: Any, value: Any) -> bool:
    if isinstance(limit, Ge):
        return bool(value >= limit.ge)
    if isinstance(limit, Gt):
        return bool(value > limit.gt)
    if isinstance(limit, Le):
        return bool(value <= limit.le)
    if isinstance(limit, Lt):
        return bool(value < limit.lt)
    if isinstance(limit, MinLen):
        return len(value) >= limit.min_length
    if isinstance(limit, Rising):
        return bool(value[0] <= value[1])
    if isinstance(limit, MaxProduct):
        result: bool = math.prod(value) <= limit.limit
        return result
    return not isinstance(limit, MaxLen) or len(value) <= limit.max_length


def _limit(limit: Any) -> str:
    if isinstance(limit, MinLen | MaxLen):
        return f"of at least {limit.min_length}" if isinstance(limit, MinLen) else f"of at most {limit.max_length}"
    if isinstance(limit, Rising):
        return "in rising order"
    if isinstance(limit, MaxProduct):
        return f"with a product <= {limit.limit:,}"
    for kind, sign in ((Ge, ">="), (Gt, ">"), (Le, "<="), (Lt, "<")):
        if isinstance(limit, kind):
            bound = getattr(limit, kind.__name__.lower())
            return "" if (isinstance(bound, float) and math.isinf(bound)) or bound == LARGEST else f"{sign} {bound}"
    return ""


def _flat(metadata: Sequence[Any]) -> list[Any]:
    flat: list[Any] = []
    for one in metadata:
        flat += list(one) if isinstance(one, GroupedMetadata) else [one] if isinstance(one, BaseMetadata) else []
    return flat


@functools.cache
def _constructor(cls: type) -> tuple[inspect.Signature, dict[str, Any]]:
    """Return signature and types of the arguments, those that are handed on to a base class included."""
    init: Any = cls.__init__  # type: ignore[misc]  # of this very class
    own = inspect.signature(init)
    try:
        hints = get_type_hints(init, include_extras=True)
    except (NameError, TypeError):  # a type that is imported for type checkers only
        hints = {}
    parameters = list(own.parameters.values())
    bases = [base for base in cls.__mro__[1:] if "__init__" in vars(base) and issubclass(base, Checked)]
    if not parameters or parameters[-1].kind is not inspect.Parameter.VAR_KEYWORD or not bases:
        return own, hints
    base: Any = bases[0]
    signature, inherited = _constructor(base)
    others = [each for name, each in signature.parameters.items() if name not in own.parameters]
    keywords = [each.replace(kind=each.KEYWORD_ONLY) for each in others if each.kind is not each.VAR_KEYWORD]
    hints.pop(parameters[-1].name, None)
    return own.replace(parameters=[*parameters[:-1], *keywords]), {**inherited, **hints}

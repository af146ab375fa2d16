"""Loops compiled by numba, whose machine code is kept where a place can be written and read.

Imported by the files of such loops alone, which are imported where one is called: numba takes half a second.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numba


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorator that makes machine code of a function when it is first called, without holding the interpreter's lock.

    The code is kept beside the source, or else in the user's cache or `NUMBA_CACHE_DIR`. Where neither can be written,
    as in a read-only container, or the disk is full, or what is kept is damaged, each process compiles anew (about a
    second a function).

    Args:
        options: of `numba.njit`.
    """

    def compile_when_called(function: Callable[..., Any]) -> Any:
        try:
            dispatcher: Any = numba.njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:  # "no locator available": no folder to write to
            return numba.njit(nogil=True, **options)(function)
        dispatcher._cache = _ForgivingCache(dispatcher._cache)
        return dispatcher

    return compile_when_called


def inlined(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorator of a function that becomes part of the compiled functions that call it.

    Args:
        options: of `numba.njit`.
    """
    decorator: Callable[[Callable[..., Any]], Any] = numba.njit(inline="always", **options)
    return decorator


class _ForgivingCache:
    """A cache of numba's that fails by holding nothing.

    Args:
        cache: numba's.
    """

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def load_overload(self, *arguments: Any) -> Any:
        """Return machine code for the types of a call, or None."""
        try:
            return self._cache.load_overload(*arguments)
        except Exception:  # pickle raises any kind for bytes that are not those it wrote
            with suppress(Exception):
                self._cache.flush()  # begins anew
            return None

    def save_overload(self, *arguments: Any) -> None:
        """Keep machine code for the next process."""
        with suppress(Exception):
            self._cache.save_overload(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

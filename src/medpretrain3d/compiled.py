"""Loops compiled by numba, whose machine code is kept where a place can be written and read.

Imported by the files of such loops alone, which are imported where one is called: numba takes half a second.
`python -m medpretrain3d.compiled` compiles them all ahead, as `make install` does.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numba

from medpretrain3d.threads import available_cores
from medpretrain3d.worker_pool import worker_pool

_ahead: list[tuple[Any, str]] = []
"""Every function of the files imported so far, with the types that it is compiled for ahead."""


def compiled(*types: str, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorator that makes machine code of a function when it is first called, without holding the interpreter's lock.

    The code is kept beside the source, or else in the user's cache or `NUMBA_CACHE_DIR`. Where neither can be written,
    as in a read-only container, or the disk is full, or what is kept is damaged, each process compiles anew (about a
    second a function).

    Args:
        types: of its arguments in the calls that are usual, each written as a tuple of numba's types: what
            `compile_ahead` compiles. Calls with others compile when they are made.
        options: of `numba.njit`.
    """

    def compile_when_called(function: Callable[..., Any]) -> Any:
        try:
            dispatcher: Any = numba.njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:  # "no locator available": no folder to write to
            return numba.njit(nogil=True, **options)(function)
        dispatcher._cache = _ForgivingCache(dispatcher._cache)
        _ahead.extend((dispatcher, one) for one in types)
        return dispatcher

    return compile_when_called


def kernel_modules() -> list[str]:
    """Return the modules of this package that hold compiled loops: `kernels`, and those that end with `_kernel(s)`."""
    root = Path(__file__).parent
    found = (path.relative_to(root).with_suffix("").parts for path in sorted(root.rglob("*kernel*.py")))
    return [".".join((root.name, *parts)) for parts in found]


def compile_ahead(num_processes: int = 1) -> int:
    """Compile all loops for their usual calls, where that is not done yet; returns for how many types of calls.

    Args:
        num_processes: that work on it at the same time.
    """
    modules = kernel_modules()
    if num_processes == 1:
        return sum(map(compile_module, modules))
    with worker_pool(min(num_processes, len(modules))) as pool:
        return sum(pool.map(compile_module, modules))


def compile_module(name: str) -> int:
    """Compile the loops of one module, see `compile_ahead`."""
    import_module(name)
    own = [(dispatcher, types) for dispatcher, types in _ahead if dispatcher.py_func.__module__ == name]
    for dispatcher, types in own:
        dispatcher.compile(types)
    return len(own)


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


if __name__ == "__main__":
    import medpretrain3d.compiled as imported  # whose list the modules fill, and not that of `__main__`

    print(f"compiled {imported.compile_ahead(available_cores())} loops")

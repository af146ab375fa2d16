"""Pickles of others that may hold arrays and plain data only: nothing of what they name is run."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from medpretrain3d.documents import LARGE
from medpretrain3d.documents.text import read_bytes
from medpretrain3d.errors import UserError

_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")


class _Refused(pickle.UnpicklingError):
    """A name that a pickle of arrays does not need."""


def read_numpy_pickle(path: Path, advice: str) -> Any:
    """Return the content of a pickle of NumPy arrays, numbers, texts and their lists, tuples and dictionaries.

    Arrays come as objects that `numpy.asarray` takes.

    Args:
        path: the file.
        advice: what to do about a bad one, the end of every message.

    Raises:
        UserError: the file is missing, too large or damaged, or names anything else than what arrays are made with: to
            read it would run code of its choice.
    """
    content = read_bytes(path, advice, LARGE)
    try:
        return _NumpyUnpickler(io.BytesIO(content)).load()
    except _Refused as error:
        raise UserError(
            f"{path}: refused, because it holds more than arrays and plain data ({error}), and to read that would run "
            f"code of its choice; {advice}"
        ) from error
    except Exception as error:  # a damaged pickle fails in as many ways as it has bytes
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: is no readable pickle ({reason}); {advice}") from error


class _NumpyUnpickler(pickle.Unpickler):
    """Finds the makers of arrays alone; each is a function of ours, which takes what NumPy's own pickles give it."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the maker of an array that a pickle names."""
        maker = _MAKERS.get((module, name))
        if maker is None:
            raise _Refused(f"{module}.{name}")
        return maker


class _ArrayType:
    """Stands for `numpy.ndarray` where a pickle names it; it makes nothing."""


class _DType:
    """A type of numbers or text as a pickle describes it. NumPy's own would believe whatever state it is given."""

    def __init__(self, code: Any, *_flags: Any) -> None:
        self.dtype = np.dtype(str(code))
        if self.dtype.kind not in "biufSU":
            raise _Refused(f"an array of {self.dtype}")

    def __setstate__(self, state: Any) -> None:
        """Take the byte order from the state."""
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """An array as a pickle describes it: its values follow as a state."""

    def __init__(self, *_maker: Any) -> None:
        self.values = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        """Take shape and values from the state."""
        _, shape, dtype, is_fortran, content = state
        self.values = _array_of_bytes(content, dtype, shape, "F" if is_fortran else "C").values

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        """Return the values, for `numpy.asarray`."""
        return self.values if dtype is None else self.values.astype(dtype)


def _array_of_bytes(content: Any, dtype: _DType, shape: Any, order: Any) -> _Array:
    made = _Array()
    made.values = np.frombuffer(content, dtype.dtype).reshape(shape, order=order)
    return made


def _scalar(dtype: _DType, content: Any) -> Any:
    return np.frombuffer(content, dtype.dtype, count=1)[0]


def _no_bytes() -> bytes:
    return b""


def _encoded(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):  # how the oldest pickles write bytes
        raise _Refused(f"text in {encoding}")
    return text.encode("latin1")


_MAKERS: dict[tuple[str, str], Any] = {
    **{(module, "_reconstruct"): _Array for module in _MULTIARRAY},
    **{(module, "scalar"): _scalar for module in _MULTIARRAY},
    **{(module, "_frombuffer"): _array_of_bytes for module in _NUMERIC},
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encoded,
    **{(module, "bytes"): _no_bytes for module in ("builtins", "__builtin__")},
    ("collections", "OrderedDict"): dict,
}

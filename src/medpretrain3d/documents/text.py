"""Files of text: regular, no larger than files of their kind are, and in UTF-8."""

from __future__ import annotations

import codecs
import os
import stat
from pathlib import Path

from medpretrain3d.errors import UserError

SMALL = 2**26
"""Bytes of a document that a program reads whole, such as a description or a case's sidecar: 64 MiB."""
LARGE = 2**30
"""Bytes of one that grows with the data set, such as an index or predictions: 1 GiB."""


def read_bytes(path: Path, advice: str, max_bytes: int = SMALL) -> bytes:
    """Return the content of a regular file.

    Args:
        path: the file.
        advice: what to do about a bad one, the end of every message.
        max_bytes: more is not read.

    Raises:
        UserError: there is no such file, it cannot be read, is no regular file, or too large.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # a pipe without a writer never opens
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"{path}: is no regular file; {advice}")
            if status.st_size > max_bytes:
                raise UserError(f"{path}: has {status.st_size:,} bytes, wanted at most {max_bytes:,}; {advice}")
            return file.read(status.st_size)  # a larger number would be allocated at once
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file, so it cannot be read; {advice}") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: no such file, there is a folder of that name; {advice}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()}); {advice}") from error


def read_text(path: Path, advice: str, max_bytes: int = SMALL) -> str:
    """Return the text of a file, without the mark some programs begin UTF-8 with. Arguments and errors as `read_bytes`.

    Raises:
        UserError: it is not in UTF-8.
    """
    return decoded(read_bytes(path, advice, max_bytes), str(path), advice)


def decoded(content: bytes, place: str, advice: str) -> str:
    """Return bytes as UTF-8, without a mark at the beginning.

    Raises:
        UserError: they are not in UTF-8, or hold a null byte as no text does.
    """
    try:
        text = content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: is not text in UTF-8 (byte {error.start:,}); {advice}") from error
    if "\0" in text:
        raise UserError(f"{place}: is no text (byte {text.index(chr(0)):,} is null); {advice}")
    return text

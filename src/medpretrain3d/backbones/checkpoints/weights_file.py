"""Weights of our own: a safetensors file whose sha256 stands in the card beside it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import Tensor

from medpretrain3d.documents import read_bytes
from medpretrain3d.errors import UserError

MAX_BYTES = 2**36
"""64 GiB: no file of weights is larger, so that a wrong one does not fill the memory."""


def read_weights(path: Path, sha256: str) -> dict[str, Tensor]:
    """Return the tensors of a file.

    Args:
        path: the file.
        sha256: of the file, as its card says.

    Raises:
        UserError: the file is missing, is not the one that the card speaks of, or no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    payload = read_bytes(path, "copy the folder again", MAX_BYTES)
    if hashlib.sha256(payload).hexdigest() != sha256:
        raise UserError(
            f"{path}: its sha256 differs from the one in the card beside it; copy the folder again or export it again"
        )
    try:
        return load(payload)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a safetensors file ({error}); copy the folder again") from error

"""A checkpoint as somebody else wrote it, opened safely: what every reader of a foreign format is given."""

from __future__ import annotations

import hashlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from medpretrain3d.backbones.checkpoints.archive import check_archive
from medpretrain3d.documents import read_json
from medpretrain3d.errors import UserError
from medpretrain3d.finite import is_finite
from medpretrain3d.values import check_fields

SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".model", ".safetensors")
PREFERRED = ("checkpoint_final.pth", "model.safetensors", "checkpoint_best.pth", "last.ckpt")
"""Of several files in one place, the first of these is meant: nnssl and nnU-Net write the first and the third, our runs
the last."""
WEIGHT_KEYS = ("network_weights", "state_dict", "model_state_dict", "model", "net", "teacher")
MAX_SIDECAR_BYTES = 50_000_000
WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before every name


@dataclass(frozen=True)
class ReadOptions:
    """Choices that some checkpoints leave open; `None` is the default of each format, told in the notes.

    Args:
        stem: which stem of a network that was trained with one per data set (MultiTalent).
        token_order: in which order a Primus was trained to read its patches. In the letters of its own code the axes of
            a tensor are (w, h, d): old code, nnssl among it, flattened them as `hwd`, later nnU-Net code as `whd`.
        orientation: axes of the volumes that published weights saw, as in `RAS`, if not certain. Weights are turned
            from it into this package's frame, `SPL`.
        norm: of a MONAI `SegResEncoder`, if its tensors do not tell. Those with scale and shift and no statistics
            may be of either: instance norm, or group norm of 8 groups.

    Example:
        >>> from medpretrain3d.backbones import ReadOptions
        >>> ReadOptions(token_order="whd")
        ReadOptions(stem=None, token_order='whd', orientation=None, norm=None)
    """

    stem: str | None = None
    token_order: Literal["whd", "hwd"] | None = None
    orientation: str | None = None
    norm: Literal["instance", "group"] | None = None

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class RawCheckpoint:
    """Content of a checkpoint file, before its format is identified."""

    path: Path
    content: Mapping[str, Any]
    """What was unpickled; of a safetensors file its tensors under `state_dict`."""
    sha256: str
    sidecars: Mapping[str, Any] = field(default_factory=dict)
    """JSON files beside it, by name, such as `adaptation_plan.json`."""
    licence: str | None = None
    """As the model card beside it (`README.md`) states it."""

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The tensors by name, without the prefixes of wrappers; empty when the file holds no state dict."""
        nested = [self.content[key] for key in WEIGHT_KEYS if isinstance(self.content.get(key), Mapping)]
        for candidate in [*nested, self.content]:
            tensors = {str(name): value for name, value in candidate.items() if isinstance(value, Tensor)}
            if tensors:
                return _unwrapped(tensors)
        return {}


def open_checkpoint(path: Path) -> RawCheckpoint:
    """Open a file of any of `SUFFIXES`, running none of its code.

    Raises:
        UserError: it is damaged, or cannot be read without running code that it brings along.
    """
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _unpickle(path)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    raw = RawCheckpoint(path, content, sha256, _sidecars(path.parent), _licence(path.parent / "README.md"))
    bad = [name for name, value in raw.weights.items() if value.is_floating_point() and not is_finite(value)]
    if bad:
        raise UserError(
            f"{path}: {len(bad)} tensors hold values that are not finite ({bad[0]}): damaged, or of a training that "
            "diverged; download it again or take an earlier one"
        )
    return raw


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {"state_dict": load_file(path)}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a safetensors file ({error}); download it again") from error


def _unpickle(path: Path) -> Mapping[str, Any]:
    is_archive = zipfile.is_zipfile(path)
    if is_archive:
        check_archive(path)
    try:
        with torch.serialization.safe_globals(_numpy_data()):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)|Trying to call reduce for (.+)", str(error))
        if refused is None:
            raise UserError(f"{path}: not readable as a PyTorch checkpoint; download it again") from error
        raise UserError(
            f"{path}: refused, because it holds more than tensors and plain data ({refused[1] or refused[2]}), and to "
            "read that would run code of its choice; ask its author for a safetensors file or a plain state dict"
        ) from error
    except Exception as error:  # a damaged pickle fails in as many ways as it has bytes
        reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
        raise UserError(f"{path}: not readable as a PyTorch checkpoint ({reason}); download it again") from error
    if not isinstance(content, Mapping):
        raise UserError(
            f"{path}: holds a {type(content).__name__}, wanted a dictionary of tensors; save its state dict"
        )
    return content


def _numpy_data() -> list[Any]:
    """Return NumPy's safe globals, of scalars and arrays: data, no code. nnU-Net keeps its training curves in them."""
    multiarray = np._core.multiarray  # type: ignore[attr-defined]  # has no public name
    makers = (multiarray.scalar, multiarray._reconstruct)
    older = [(maker, f"numpy.core.multiarray.{maker.__name__}") for maker in makers]
    dtypes = [type(np.dtype(kind)) for kind in ("?", "i4", "i8", "u1", "f2", "f4", "f8")]
    return [*makers, *older, np.ndarray, np.dtype, *dtypes]


def _unwrapped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in WRAPPERS:
        if all(name.startswith(prefix) for name in weights):
            return _unwrapped({name.removeprefix(prefix): value for name, value in weights.items()})
    return weights


def _sidecars(folder: Path) -> dict[str, Any]:
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found[path.name] = read_json(path, object, "", MAX_SIDECAR_BYTES, allow_nan=True)
        except UserError:
            continue  # somebody else's file; a reader that needs it says that it is missing
    return found


def _licence(card: Path) -> str | None:
    """Return the licence in the front matter of a model card, as hubs write it; None where it is absent or unknown."""
    if not card.is_file():
        return None
    lines = card.read_text(errors="replace").splitlines()[:60]
    stated = [line.partition(":")[2].strip() for line in lines if line.startswith(("license:", "licence:"))]
    return stated[0] if stated and stated[0] != "unknown" else None

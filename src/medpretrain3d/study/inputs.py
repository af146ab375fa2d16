"""What the jobs of a study read: stores, encoders of others, raw folders, each as a hash of its content."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from medpretrain3d.documents import json_text
from medpretrain3d.errors import UserError
from medpretrain3d.local_weights import local_weights
from medpretrain3d.store.store import INDEX, Store

CHUNK = 2**22
CANDIDATES = "predictions.json"
"""What `cross-validate` leaves of all cases, each found by a detector that has not seen it."""


def is_prepared(store: str | Path) -> bool:
    """Return whether there is a whole store."""
    return Store.is_at(store)


@functools.lru_cache(maxsize=64)
def _opened(path: str, changed: tuple[int, ...]) -> Store:
    return Store(path)


def open_store(path: str | Path) -> Store:
    """Return a store, read once as long as its index and splits stay.

    Raises:
        UserError: there is none, or it is damaged.
    """
    times = [(Path(path) / name) for name in (INDEX, "splits.json")]
    return _opened(str(path), tuple(one.stat().st_mtime_ns for one in times if one.is_file()))


def split_hash(store: Store, fold: int | None) -> str:
    """Return a hash of which cases of a store train, validate and test.

    Raises:
        UserError: the store has no such fold.
    """
    cases = {name: sorted(ids) for name, ids in store.all_splits.fold(fold).items()}
    return short_hash(json_text(cases))


def pretraining_hash(stores: Sequence[Store]) -> str:
    """Return a hash of everything that decides which cases of some stores are pretrained on."""
    splits = [(one.all_splits.named, [dict(fold) for fold in one.all_splits.folds], one.duplicates) for one in stores]
    return short_hash(json_text(splits))


def content_hash(path: Path, advice: str = "name one that is there") -> str:
    """Return a hash of a file, or of all files in a folder with their names.

    Args:
        path: of the file or folder.
        advice: what to do where it is not there.

    Raises:
        UserError: it is not there.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; {advice}")
    digest = hashlib.sha256()
    for file in _files(path):
        digest.update(str(file.relative_to(path)).encode())
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()[:16]


def weights_hash(source: str) -> str:
    """Return a hash of the weights that `model.init_from` names, as the stages look for them on this machine.

    Args:
        source: a file or folder, or `owner/name[/file]` of a hub that lies in `pretrained/`.

    Raises:
        UserError: they are not here; without them nobody knows which weights a result is of.
    """
    path = Path(source).expanduser()
    if path.exists():
        return content_hash(path)
    local = local_weights(source)
    if path.is_absolute() or not local.exists():
        raise UserError(
            f"{source}: no such file or folder, by whose content a study knows what it begins from; give an encoder, a "
            f"bundle, or a checkpoint of others; if it is one of a hub, put it into {local}"
        )
    return content_hash(local)


def listing_hash(paths: Iterable[Path]) -> str:
    """Return a hash of names, sizes and times of files; scans of a raw folder are too many to read."""
    rows = []
    for path in paths:
        rows.append(str(path))
        for file in _files(path):
            facts = os.stat(file)
            rows.append(f"{file.relative_to(path)} {facts.st_size} {facts.st_mtime_ns}")
    return short_hash("\n".join(rows))


def short_hash(text: str) -> str:
    """Return 16 hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file())

"""Checkpoints on a model hub, through `huggingface_hub` where it is installed and the network answers."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from medpretrain3d.backbones.checkpoints.raw import PREFERRED, SUFFIXES
from medpretrain3d.errors import UserError
from medpretrain3d.local_weights import local_weights

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(/[\w./-]+)?")
_TEXTS = (".json", ".md")


def is_hub_id(source: str) -> bool:
    """Return whether it has the form `owner/name` or `owner/name/file.pth` and is not below a folder that is here."""
    owner, *rest = source.split("/")
    names_a_file = len(rest) > 1
    has_form = _HUB_ID.fullmatch(source) is not None and not Path(owner).exists()
    return has_form and (PurePosixPath(source).suffix in SUFFIXES or not names_a_file)


def fetch(hub_id: str) -> Path:
    """Return a checkpoint's file, or the folder that holds it: from `pretrained/`, the cache or the hub.

    The texts beside it (plan, model card) come along.

    Raises:
        UserError: neither there nor in the cache, and the hub cannot be reached or does not know it; says which
            file to download and where to put it.
    """
    owner, name, *rest = hub_id.split("/")
    if local_weights(hub_id).exists():
        return local_weights(hub_id)
    wanted = "/".join(rest)
    try:
        import huggingface_hub
    except ImportError as error:
        raise _by_hand(hub_id, wanted, "huggingface_hub is not installed") from error
    try:
        wanted = wanted or _only_checkpoint(hub_id, huggingface_hub.list_repo_files(f"{owner}/{name}"))
        folder = PurePosixPath(wanted).parent
        texts = [str(folder / f"*{suffix}").removeprefix("./") for suffix in _TEXTS]
        snapshot = huggingface_hub.snapshot_download(f"{owner}/{name}", allow_patterns=[wanted, *texts])
    except UserError:
        raise
    except Exception as error:  # the client raises errors of several libraries below it
        cached = _cached(f"{owner}/{name}", wanted)
        if cached is not None:
            return cached
        reason = str(error).strip().splitlines()
        raise _by_hand(hub_id, wanted, reason[0] if reason else type(error).__name__) from error
    return Path(snapshot) / wanted


def _cached(repo: str, wanted: str) -> Path | None:
    """Return a download in the local hub cache: the file, or the folder of the snapshot when none was named."""
    import huggingface_hub

    try:
        snapshot = Path(huggingface_hub.snapshot_download(repo, local_files_only=True))
    except Exception:  # not in the cache
        return None
    return snapshot / wanted if (snapshot / wanted).exists() else None


def _only_checkpoint(hub_id: str, files: list[str]) -> str:
    found = [file for file in files if PurePosixPath(file).suffix in SUFFIXES]
    for name in PREFERRED:
        if name in found:
            return name
    if len(found) != 1:
        message = f"{len(found)} checkpoints ({', '.join(found[:8])})" if found else "no checkpoint"
        raise UserError(f"{hub_id}: holds {message}; name one as {hub_id}/<file>")
    return found[0]


def _by_hand(hub_id: str, wanted: str, reason: str) -> UserError:
    owner, name = hub_id.split("/")[:2]
    place = local_weights(f"{owner}/{name}").absolute()
    return UserError(
        f"{hub_id}: no such file or folder, and as a hub's repository it could not be fetched ({reason[:120]}); on a "
        f"machine with network download '{wanted or PREFERRED[0]}' and the .json files beside it from the hub's "
        f"repository {owner}/{name} and put them into {place}, where they are found next time"
    )

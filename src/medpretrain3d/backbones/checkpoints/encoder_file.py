"""The encoder file: a folder of weights (`encoder.safetensors`) and all there is to know of them (`encoder.json`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from medpretrain3d.atomic import finished_folder, put_back
from medpretrain3d.backbones.base import Backbone
from medpretrain3d.description import Description, describe
from medpretrain3d.errors import UserError

FORMAT = "medpretrain3d-encoder"
VERSION = 1
CARD, WEIGHTS = "encoder.json", "encoder.safetensors"


@dataclass(frozen=True)
class EncoderFile:
    """An encoder in memory, whoever trained it: architecture, weights, card.

    `card` holds what is known of it, as plain data: `preprocessing` (spacing, window or normalisation of the images),
    `pretraining` (objective, steps, corpus), `licence` (None where the file states none), `citations` (one line each).
    """

    architecture: Description
    """`description.build` makes the network."""
    weights: dict[str, Tensor]
    """All of the network's state dict, in our names and axis order."""
    card: dict[str, Any]
    sha256: str
    """Of the file of weights."""
    format: str = "medpretrain3d encoder file"
    """Who wrote it, in words."""
    unused: dict[str, int] = field(default_factory=dict)
    """Tensors of the file that belong to no encoder, counted by part: decoders, projectors, mask tokens."""
    notes: tuple[str, ...] = ()
    """What a user must know to trust the weights: stale copies, transposed tables, choices made by default."""


def stated(**facts: Any) -> dict[str, Any]:
    """Those facts that a file states."""
    return {name: fact for name, fact in facts.items() if fact is not None}


def origin(encoder: EncoderFile) -> dict[str, Any]:
    """What must be known of an encoder wherever its weights go on to: plain data for the card of what comes of it."""
    known = ("licence", "citations", "continued_from")
    kept = {key: encoder.card[key] for key in known if encoder.card.get(key)}
    return {"sha256": encoder.sha256, "format": encoder.format, **kept}


def save_encoder(folder: Path, backbone: Backbone, card: Mapping[str, Any]) -> str:
    """Write an encoder file; an existing one is replaced only once the new one is complete.

    Args:
        folder: where it goes.
        backbone: the encoder; its weights are stored on the CPU in their own precision.
        card: plain data that goes into `encoder.json` beside the architecture.

    Returns:
        The sha256 of the weights file, by which runs refer to it.
    """
    return write_encoder(folder, describe(backbone), backbone.state_dict(), card)


def write_encoder(
    folder: Path,
    architecture: Description,
    weights: Mapping[str, Tensor],
    card: Mapping[str, Any],
    beside: Mapping[str, str] | None = None,
) -> str:
    """Write an encoder file from its parts; see `save_encoder`. `beside` holds further text files by name."""
    from safetensors.torch import save

    # safetensors refuses tensors that share memory, hence the clones.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    payload = save(tensors)
    sha256 = hashlib.sha256(payload).hexdigest()
    document = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": architecture,
        "num_parameters": sum(value.numel() for value in tensors.values()),
        "weights_sha256": sha256,
        **{key: value for key, value in card.items() if key not in _OWN_KEYS},
    }
    with finished_folder(folder, replace=(CARD, WEIGHTS)) as unfinished:
        (unfinished / WEIGHTS).write_bytes(payload)
        (unfinished / CARD).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        for name, text in (beside or {}).items():
            (unfinished / name).write_text(text, encoding="utf-8")
    return sha256


def read_encoder_folder(folder: Path) -> EncoderFile:
    """Read an encoder file of this package.

    Raises:
        UserError: the folder is incomplete, was written by a newer version, or its weights are not the ones the card
            speaks of.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    put_back(folder)
    card_path, weights_path = folder / CARD, folder / WEIGHTS
    if not card_path.is_file() or not weights_path.is_file():
        raise UserError(
            f"{folder}: no encoder file here, wanted a folder with encoder.json and encoder.safetensors as a "
            "pretraining run writes it (runs/<group>/<name>/encoder)"
        )
    try:
        card = json.loads(card_path.read_text(encoding="utf-8"))
        is_ours = card["format"] == FORMAT
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{card_path}: no encoder card ({error!r}); export the encoder again") from error
    if not is_ours or card["version"] > VERSION:
        raise UserError(
            f"{card_path}: got {card['format']} version {card['version']}, wanted {FORMAT} up to version {VERSION}; "
            "update medpretrain3d or export again"
        )
    payload = weights_path.read_bytes()
    sha256 = hashlib.sha256(payload).hexdigest()
    if sha256 != card["weights_sha256"]:
        raise UserError(f"{weights_path}: its sha256 differs from the one in encoder.json; copy the folder again")
    try:
        weights = load(payload)
    except SafetensorError as error:
        raise UserError(f"{weights_path}: not a safetensors file ({error}); copy the folder again") from error
    return EncoderFile(card["architecture"], weights, card, sha256)


_OWN_KEYS = {"format", "version", "architecture", "num_parameters", "weights_sha256"}

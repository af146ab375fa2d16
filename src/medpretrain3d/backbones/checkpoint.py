"""The encoder file: a folder of weights (`encoder.safetensors`) and all there is to know of them (`encoder.json`)."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from medpretrain3d.atomic import finished_folder
from medpretrain3d.backbones.base import Backbone
from medpretrain3d.description import Description, describe
from medpretrain3d.errors import UserError

FORMAT = "medpretrain3d-encoder"
VERSION = 1


@dataclass(frozen=True)
class EncoderFile:
    """An encoder file in memory: architecture, weights, card.

    `card` holds what pretraining wrote down: `preprocessing` (spacing and window of the images), `pretraining`
    (objective, steps, corpus fingerprint, configuration), `git_commit`.
    """

    architecture: Description
    weights: dict[str, Tensor]
    card: dict[str, Any]
    sha256: str


@dataclass(frozen=True)
class LoadReport:
    """What a load did, tensor by tensor."""

    matched: int
    total: int
    fresh: dict[str, int]
    """Tensors of the receiving model outside the backbone, counted by part; they keep their random values."""
    sha256: str

    def __str__(self) -> str:
        fresh = ", ".join(f"{part} ({count})" for part, count in self.fresh.items()) or "none"
        return f"{self.matched} of {self.total} backbone tensors matched; fresh: {fresh}; unused: none"


def save_encoder(folder: Path, backbone: Backbone, card: Mapping[str, Any]) -> str:
    """Write an encoder file; an existing one is replaced only once the new one is complete.

    Args:
        folder: where it goes.
        backbone: the encoder; its weights are stored on the CPU in their own precision.
        card: plain data that goes into `encoder.json` beside the architecture.

    Returns:
        The sha256 of the weights file, by which runs refer to it.
    """
    from safetensors.torch import save

    weights = {name: value.detach().cpu().contiguous().clone() for name, value in backbone.state_dict().items()}
    payload = save(weights)
    sha256 = hashlib.sha256(payload).hexdigest()
    document = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": describe(backbone),
        "num_parameters": backbone.num_parameters(),
        "weights_sha256": sha256,
        **card,
    }
    with finished_folder(folder, replace=True) as unfinished:
        (unfinished / "encoder.safetensors").write_bytes(payload)
        (unfinished / "encoder.json").write_text(json.dumps(document, indent=2) + "\n")
    return sha256


def read_encoder(folder: Path) -> EncoderFile:
    """Read an encoder file.

    Raises:
        UserError: the folder is missing or no encoder file, was written by a newer version, or its weights are not the
            ones the card speaks of.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    folder = Path(folder)
    card_path, weights_path = folder / "encoder.json", folder / "encoder.safetensors"
    if not card_path.is_file() or not weights_path.is_file():
        raise UserError(
            f"{folder}: no encoder file here, wanted a folder with encoder.json and encoder.safetensors as a "
            "pretraining run writes it (runs/<group>/<name>/encoder)"
        )
    try:
        card = json.loads(card_path.read_text())
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


def load_encoder(backbone: Backbone, encoder: EncoderFile, model: nn.Module | None = None) -> LoadReport:
    """Put the weights of an encoder file into a backbone, all of them or none.

    Args:
        backbone: receives the weights; of a backbone around another, the inner one where the file holds only that.
        encoder: what `read_encoder` gave.
        model: the detector around the backbone, only to report which of its parts stay random.

    Raises:
        UserError: the architectures differ, or a tensor is missing, left over or of another shape.
    """
    if encoder.architecture["class_path"] != describe(backbone)["class_path"]:
        backbone = backbone.encoder
    ours, theirs = backbone.state_dict(), encoder.weights
    missing, unused = sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())
    shapes = [name for name in ours.keys() & theirs.keys() if ours[name].shape != theirs[name].shape]
    if missing or unused or shapes:
        details = [f"{len(missing)} missing ({missing[0]})"] if missing else []
        details += [f"{len(unused)} unused ({unused[0]})"] if unused else []
        if shapes:
            first = min(shapes)
            details.append(
                f"{len(shapes)} of another shape ({first}: file {tuple(theirs[first].shape)}, "
                f"model {tuple(ours[first].shape)})"
            )
        raise UserError(
            f"encoder of another architecture: got {_short(encoder.architecture)}, wanted "
            f"{_short(describe(backbone))}; "
            f"{'; '.join(details)}; choose the backbone of the encoder file or another encoder"
        )
    backbone.load_state_dict(theirs)
    return LoadReport(len(ours), len(ours), _fresh_parts(model, backbone), encoder.sha256)


def _fresh_parts(model: nn.Module | None, backbone: Backbone) -> dict[str, int]:
    if model is None:
        return {}
    own = {id(parameter) for parameter in backbone.parameters()}
    return dict(Counter(name.partition(".")[0] for name in _names(model.named_parameters(), own)))


def _names(parameters: Iterable[tuple[str, nn.Parameter]], exclude: set[int]) -> list[str]:
    return [name for name, parameter in parameters if id(parameter) not in exclude]


def _short(description: Description) -> str:
    arguments = ", ".join(f"{name}={value}" for name, value in description["init_args"].items() if value is not None)
    return f"{description['class_path'].rpartition('.')[2]}({arguments})"

"""The encoder file: a folder of weights (`encoder.safetensors`) and all there is to know of them (`encoder.json`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired

from pydantic import with_config
from torch import Tensor
from typing_extensions import TypedDict

from medpretrain3d.atomic import finished_folder, put_back
from medpretrain3d.backbones.base import Backbone
from medpretrain3d.backbones.checkpoints.publishing import without_places
from medpretrain3d.backbones.checkpoints.release import RESTRICTION
from medpretrain3d.backbones.checkpoints.weights_file import read_weights
from medpretrain3d.configurable import Config, plugins_in, to_config
from medpretrain3d.documents import SCHEMA, Artifact, Text
from medpretrain3d.errors import UserError
from medpretrain3d.finite import require_finite
from medpretrain3d.plugins import check_required

CARD, WEIGHTS, DETECTOR_WEIGHTS = "encoder.json", "encoder.safetensors", "detector.safetensors"


@with_config(SCHEMA)
class _DetectorCard(TypedDict):
    architecture: dict[str, Any]
    weights_sha256: Text


@with_config(SCHEMA)
class Card(TypedDict):
    """Schema of `encoder.json`; what else it holds is shown and not relied on."""

    architecture: dict[str, Any]
    weights_sha256: Text
    detector: NotRequired[_DetectorCard | None]
    plugins: NotRequired[list[dict[str, Any]]]
    preprocessing: NotRequired[dict[str, Any] | None]
    pretraining: NotRequired[dict[str, Any] | None]
    licence: NotRequired[Text | None]
    restriction: NotRequired[Text | None]
    citations: NotRequired[list[Text] | None]
    continued_from: NotRequired[dict[str, Any] | None]


CARD_DOCUMENT = Artifact("medpretrain3d-encoder", 1, Card, "no encoder card, export the encoder again")


@dataclass(frozen=True)
class DetectorPart:
    """What a file holds of a detector beside its encoder: neck and heads.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import DetectorPart
        >>> state = {"backbone.stem": torch.zeros(1), "fpn.lateral": torch.zeros(1), "box_head.scale": torch.ones(1)}
        >>> list(DetectorPart.of_state({"class_path": "medpretrain3d.detection.FCOS"}, state).weights)
        ['fpn.lateral', 'box_head.scale']
    """

    architecture: Config
    """Of the whole detector, the encoder inside; nothing here builds it."""
    weights: dict[str, Tensor]
    """All of its state dict but the encoder's."""

    @staticmethod
    def of_state(architecture: Config, state: Mapping[str, Tensor]) -> DetectorPart:
        """Return that of a detector's whole state dict."""
        return DetectorPart(
            architecture, {name: value for name, value in state.items() if not name.startswith("backbone.")}
        )


@dataclass(frozen=True)
class EncoderFile:
    """An encoder in memory, whoever trained it: architecture, weights, card.

    `card` holds what is known of it, as plain data: `preprocessing` (spacing, window or normalisation of the images),
    `pretraining` (objective, steps, corpus), `volumes_seen` (hashes of the scans, see `VolumesSeen`), `licence` (None
    where the file states none), `restriction` (what it forbids), `citations` (one line each).

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medpretrain3d.backbones import ResEnc, read_encoder, save_encoder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sha256 = save_encoder(Path(folder) / "encoder", ResEnc("XXS"), {"licence": "CC-BY-4.0"})
        ...     encoder = read_encoder(Path(folder) / "encoder")
        >>> encoder.architecture["class_path"], encoder.card["licence"], len(encoder.weights)
        ('medpretrain3d.backbones.resenc.ResEnc', 'CC-BY-4.0', 45)
        >>> encoder.sha256 == sha256
        True
    """

    architecture: Config
    """`configurable.from_config` makes the network."""
    weights: dict[str, Tensor]
    """All of the network's state dict, in our names and axis order."""
    card: dict[str, Any]
    sha256: str
    """Of the file of weights; where it holds a detector too, of the hashes of both files."""
    format: str = "medpretrain3d encoder file"
    """Who wrote it, in words."""
    unused: dict[str, int] = field(default_factory=dict)
    """Tensors of the file that belong to no encoder, counted by part: decoders, projectors, mask tokens."""
    notes: tuple[str, ...] = ()
    """What a user must know to trust the weights: stale copies, transposed tables, choices made by default."""
    detector: DetectorPart | None = None
    """Neck and heads, where the file is of a detector."""
    assumed: tuple[str, ...] = ()
    """Arguments of the architecture that no tensor tells and nobody stated."""
    heeded: tuple[str, ...] = ()
    """Names of the `ReadOptions` that were open in this file, beside an orientation that the card then states."""


def stated(**facts: Any) -> dict[str, Any]:
    """Return those facts that a file states."""
    return {name: fact for name, fact in facts.items() if fact is not None}


def provenance_of(encoder: EncoderFile) -> dict[str, Any]:
    """Return an encoder's provenance for the card of whatever its weights are used for next: plain data."""
    known = ("licence", RESTRICTION, "citations", "continued_from")
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
    return write_encoder(folder, to_config(backbone), backbone.state_dict(), card)


def write_encoder(
    folder: Path,
    architecture: Config,
    weights: Mapping[str, Tensor],
    card: Mapping[str, Any],
    beside: Mapping[str, str] | None = None,
    detector: DetectorPart | None = None,
) -> str:
    """Write an encoder file from its parts; see `save_encoder`. `beside` holds further text files by name.

    Where there is a `detector`, neck and heads are kept in a file beside the encoder, which older versions do not read.

    Raises:
        UserError: a weight is not finite, or a class is of no loaded plugin.
    """
    from safetensors.torch import save

    of_detector = {} if detector is None else detector.weights
    for part in (weights, of_detector):
        require_finite(f"{folder}: not written", part, "the training diverged, lower its learning rate")
    # safetensors refuses tensors that share memory, hence the clones.
    tensors, others = (
        {name: value.detach().cpu().contiguous().clone() for name, value in part.items()}
        for part in (weights, of_detector)
    )
    payload, payload_of_detector = save(tensors), save(others) if detector else b""
    sha256, sha256_of_detector = (hashlib.sha256(one).hexdigest() for one in (payload, payload_of_detector))
    plugins = plugins_in([architecture, card.get("preprocessing")])
    document = {
        "architecture": architecture,
        **({"plugins": plugins} if plugins else {}),
        "num_parameters": sum(value.numel() for value in tensors.values()),
        "weights_sha256": sha256,
        **(
            {"detector": {"architecture": detector.architecture, "weights_sha256": sha256_of_detector}}
            if detector
            else {}
        ),
        **{key: value for key, value in without_places(card).items() if key not in _OWN_KEYS},
    }
    with finished_folder(folder, replace=(CARD, WEIGHTS)) as unfinished:
        (unfinished / WEIGHTS).write_bytes(payload)
        if detector is not None:
            (unfinished / DETECTOR_WEIGHTS).write_bytes(payload_of_detector)
        (unfinished / CARD).write_text(CARD_DOCUMENT.text(document, indent=2), encoding="utf-8")
        for name, text in (beside or {}).items():
            (unfinished / name).write_text(text, encoding="utf-8")
    return sha256 if detector is None else _sha256_of_both(sha256, sha256_of_detector)


def read_encoder_folder(folder: Path) -> EncoderFile:
    """Read an encoder file of this package.

    Raises:
        UserError: the folder is incomplete, was written by a newer version, or its weights are not the ones the card
            speaks of, or it needs a plugin that is not loaded.
    """
    put_back(folder)
    card_path, weights_path = folder / CARD, folder / WEIGHTS
    if not card_path.is_file() or not weights_path.is_file():
        raise UserError(
            f"{folder}: no encoder file here, wanted a folder with encoder.json and encoder.safetensors as a "
            "pretraining run writes it (runs/<group>/<name>/encoder)"
        )
    card: dict[str, Any] = {**CARD_DOCUMENT.read(card_path)}
    notes = check_required(str(card_path), card.get("plugins"))
    sha256 = card["weights_sha256"]
    weights = read_weights(weights_path, sha256)
    of_detector = card.get("detector")
    if of_detector is None:
        return EncoderFile(card["architecture"], weights, card, sha256, notes=notes)
    others = read_weights(folder / DETECTOR_WEIGHTS, of_detector["weights_sha256"])
    return EncoderFile(
        card["architecture"],
        weights,
        card,
        _sha256_of_both(sha256, of_detector["weights_sha256"]),
        notes=notes,
        detector=DetectorPart(of_detector["architecture"], others),
    )


def _sha256_of_both(encoder: str, detector: str) -> str:
    """Two files with one encoder, kept frozen, differ in what they hold of a detector."""
    return hashlib.sha256(f"{encoder}{detector}".encode()).hexdigest()


_OWN_KEYS = {"format", "version", "architecture", "plugins", "num_parameters", "weights_sha256", "detector"}

"""The backbone inside a detector bundle: where supervised detection on another data set is the pretraining."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NotRequired

from pydantic import with_config
from typing_extensions import TypedDict

from medpretrain3d.backbones.checkpoints.encoder_file import DetectorPart, EncoderFile
from medpretrain3d.backbones.checkpoints.weights_file import read_weights
from medpretrain3d.configurable import class_paths
from medpretrain3d.documents import SCHEMA, Artifact, Text, read_json
from medpretrain3d.errors import UserError
from medpretrain3d.plugins import check_required

PREFIX = "backbone."


@with_config(SCHEMA)
class _Backbone(TypedDict):
    backbone: dict[str, Any]


@with_config(SCHEMA)
class _Detector(TypedDict):
    class_path: Text
    init_args: _Backbone


@with_config(SCHEMA)
class _Provenance(TypedDict):
    training: NotRequired[dict[str, Any]]
    licence: NotRequired[Text | None]
    encoder: NotRequired[dict[str, Any] | None]
    volumes_seen: NotRequired[dict[str, Any]]


@with_config(SCHEMA)
class _Bundle(TypedDict):
    """Schema of the `bundle.json` fields needed to load the backbone alone."""

    detector: _Detector
    weights_sha256: Text
    plugins: NotRequired[list[dict[str, Any]]]
    preprocessing: dict[str, Any]
    provenance: _Provenance
    classes: NotRequired[list[Text]]


BUNDLE_DOCUMENT = Artifact("medpretrain3d-bundle", 2, _Bundle, "export the bundle again")


def read_bundle_backbone(folder: Path) -> EncoderFile:
    """Read the backbone out of a bundle that a fine-tuning run wrote.

    Raises:
        UserError: the bundle is an ensemble, incomplete or damaged, or needs a plugin that is not loaded.
    """
    path = folder / "bundle.json"
    if "members" in read_json(path, dict[str, Any], BUNDLE_DOCUMENT.advice, allow_nan=True):
        raise UserError(f"{folder}: is an ensemble, wanted one detector; name one of the folders in it")
    document = BUNDLE_DOCUMENT.read(path)
    detector, provenance, sha256 = document["detector"], document["provenance"], document["weights_sha256"]
    paths = class_paths(detector["init_args"]["backbone"])  # a plugin of the detector alone is not needed
    needed = [
        one for one in document.get("plugins", []) if any(path.startswith(f"{one.get('module')}.") for path in paths)
    ]
    notes = check_required(str(path), needed)
    weights = read_weights(folder / "detector.safetensors", sha256)
    own = {name.removeprefix(PREFIX): value for name, value in weights.items() if name.startswith(PREFIX)}
    # Sorted, since safetensors hands out tensors in an order that changes from call to call.
    unused = dict(Counter(name.partition(".")[0] for name in sorted(weights) if not name.startswith(PREFIX)))
    training = provenance.get("training", {})
    card: dict[str, Any] = {
        "preprocessing": document["preprocessing"],
        "pretraining": {
            "paradigm": "supervised_detection",
            "method": "supervised_detection",
            "corpus": training.get("corpus"),
            "num_pretrain_volumes": training.get("num_train_cases"),
            "detector": detector["class_path"].rpartition(".")[2],
            "classes": document.get("classes"),
            "run": training.get("run"),
            "steps": training.get("steps"),
            "data_fingerprint": provenance.get("data_fingerprint"),
            **({"unlabeled": training["unlabeled"]} if "unlabeled" in training else {}),
        },
        "licence": provenance.get("licence"),
        "citations": [],
        **({"continued_from": provenance["encoder"]} if provenance.get("encoder") else {}),
        **({"volumes_seen": provenance["volumes_seen"]} if "volumes_seen" in provenance else {}),
    }
    architecture, form = detector["init_args"]["backbone"], "medpretrain3d detector bundle"
    return EncoderFile(
        architecture, own, card, sha256, form, unused, notes, DetectorPart.of_state({**detector}, weights)
    )

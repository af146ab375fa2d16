"""The backbone inside a detector bundle: where supervised detection on another data set is the pretraining."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.errors import UserError

PREFIX = "backbone."


def read_bundle_backbone(folder: Path) -> EncoderFile:
    """Read the backbone out of a bundle that a fine-tuning run wrote.

    Raises:
        UserError: the bundle is incomplete or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        document = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
        payload = (folder / "detector.safetensors").read_bytes()
        weights = load(payload)
        detector, preprocessing = document["detector"], document["preprocessing"]
        architecture = detector["init_args"]["backbone"]
        provenance, expected = document["provenance"], document["weights_sha256"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder}: not readable as a detector bundle ({error!r}); export the bundle again") from error
    sha256 = hashlib.sha256(payload).hexdigest()
    if sha256 != expected:
        raise UserError(f"{folder}: the sha256 of its weights differs from the one in bundle.json; copy it again")
    own = {name.removeprefix(PREFIX): value for name, value in weights.items() if name.startswith(PREFIX)}
    # Sorted, since safetensors hands out tensors in an order that changes from call to call.
    unused = dict(Counter(name.partition(".")[0] for name in sorted(weights) if not name.startswith(PREFIX)))
    training = provenance.get("training", {})
    card = {
        "preprocessing": preprocessing,
        "pretraining": {
            "paradigm": "supervised_detection",
            "method": "supervised_detection",
            "corpus": training.get("corpus"),
            "num_pretrain_volumes": training.get("num_train_cases", 0),
            "detector": detector["class_path"].rpartition(".")[2],
            "classes": document.get("classes"),
            "run": training.get("run"),
            "steps": training.get("steps"),
            "data_fingerprint": provenance.get("data_fingerprint"),
        },
        "licence": provenance.get("licence"),
        "citations": [],
    }
    return EncoderFile(architecture, own, card, sha256, "medpretrain3d detector bundle", unused)

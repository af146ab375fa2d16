"""The page that goes with an exported encoder, as hubs show it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.markdown import code, identifier, plain
from medpretrain3d.backbones.checkpoints.publishing import without_places
from medpretrain3d.backbones.checkpoints.release import restrictions
from medpretrain3d.configurable import Config

UNKNOWN = "not stated in the encoder's card"


def model_card(encoder: EncoderFile, name: str, licence: str | None = None, results: str | None = None) -> str:
    """Return Markdown with front matter: architecture, data, recipe, licence, results, citations, how to use it.

    Args:
        encoder: what is exported.
        name: of the folder it goes to.
        licence: identifier such as `cc-by-4.0`; by default what the encoder's card states.
        results: a paragraph about what it was measured to be good for; by default it says that nothing was handed over.
    """
    place = name if re.fullmatch(r"[\w.+-]+", name) else "FOLDER"
    card = without_places(encoder.card)
    stated = licence or card.get("licence")
    provenance_of = card.get("continued_from") or {}
    pretraining = card.get("pretraining") or {}
    sections = {
        "Architecture": _architecture(encoder),
        "Data": _facts(pretraining, ("corpus", "num_pretrain_volumes", "data_fingerprint", "classes", "unlabeled")),
        "Preprocessing": _facts(card.get("preprocessing") or {}),
        "Recipe": _facts(
            {key: value for key, value in pretraining.items() if key not in _DATA}
            | {key: card[key] for key in ("git_commit", "medpretrain3d") if card.get(key)}
        ),
        "Origin": _facts(
            {"format": encoder.format, "sha256": encoder.sha256} | ({"from": provenance_of} if provenance_of else {})
        ),
        "Licence": (plain(stated) if stated else UNKNOWN)
        + (
            f"; weights it was continued from: {plain(provenance_of['licence'])}"
            if provenance_of.get("licence")
            else ""
        ),
        "What the licence forbids": "\n".join(f"- {plain(text)}" for text in restrictions(card)),
        "Results": results or "None were handed over at export.",
        "Notes": "\n".join(f"- {plain(note)}" for note in encoder.notes),
        "Citations": "\n".join(
            f"- {plain(line)}" for line in [*(card.get("citations") or []), *(provenance_of.get("citations") or [])]
        ),
        "Use": f"```\nmedpretrain3d finetune --config RECIPE --model.init_from {place}\n```",
    }
    head = ["---", f"license: {identifier(stated or 'unknown')}", "tags: [medical, computed-tomography, 3d]", "---"]
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items() if text)
    return "\n".join(head) + f"\n\n# {plain(name)}\n\n{body}\n"


_DATA = {"corpus", "num_pretrain_volumes", "data_fingerprint", "classes", "unlabeled"}


def _architecture(encoder: EncoderFile) -> str:
    architecture: Config = encoder.architecture
    count = sum(value.numel() for value in encoder.weights.values())
    given = architecture.get("init_args", {})
    arguments = ", ".join(f"{key}={value}" for key, value in given.items() if value is not None)
    return code(f"{architecture['class_path']}({arguments})") + f", {count:,} parameters."


def _facts(facts: Mapping[str, Any], only: tuple[str, ...] | None = None) -> str:
    shown = {
        key: value for key, value in facts.items() if (only is None or key in only) and value not in (None, [], {})
    }
    lines = [
        f"- {plain(key)}: {plain(value if isinstance(value, str) else json.dumps(value))}"
        for key, value in shown.items()
    ]
    return "\n".join(lines) or UNKNOWN

"""The document of a detector bundle, `bundle.json`: its schema, its versions, how it is read and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NotRequired

from pydantic import with_config
from typing_extensions import TypedDict

from medpretrain3d.atomic import put_back
from medpretrain3d.documents import SCHEMA, Artifact, Name, Text, read_bytes
from medpretrain3d.errors import UserError
from medpretrain3d.store.preprocessing import PreprocessingDocument

DOCUMENT, WEIGHTS = "bundle.json", "detector.safetensors"
ENSEMBLE = "medpretrain3d-ensemble"
"""Format of the document of several bundles as one (`ensemble.py`)."""
ADVICE = "export the bundle again"


@with_config(SCHEMA)
class BundleDocument(TypedDict):
    """Schema of `bundle.json`."""

    detector: dict[str, Any]
    weights_sha256: Text
    classes: list[Name]
    preprocessing: PreprocessingDocument
    inference: dict[str, Any]
    provenance: dict[str, Any]
    plugins: NotRequired[list[dict[str, Any]]]
    operating_points: NotRequired[dict[str, Any]]
    rescorer_sha256: NotRequired[Text]


BUNDLE_DOCUMENT = Artifact("medpretrain3d-bundle", 1, BundleDocument, ADVICE)
TWO_STAGES = replace(BUNDLE_DOCUMENT, version=2)
"""With a second stage: a program that knows nothing of it refuses the bundle instead of giving other scores."""


def is_ensemble(folder: Path) -> bool:
    """Return whether a folder holds several bundles as one."""
    put_back(folder)
    path = folder / DOCUMENT
    # The format stands in the first bytes; whether the rest is whole is asked when it is read.
    return path.is_file() and ENSEMBLE.encode() in read_bytes(path, ADVICE)[:200]


def read_document(folder: Path) -> tuple[BundleDocument, bytes]:
    """Return what a bundle's document holds, and its bytes.

    Raises:
        UserError: no bundle is there, it is an ensemble, or its document is damaged.
    """
    put_back(folder)
    path = folder / DOCUMENT
    if is_ensemble(folder):
        raise UserError(f"{folder}: is an ensemble, wanted one detector; name one of the folders in it")
    if not path.is_file() or not (folder / WEIGHTS).is_file():
        raise UserError(
            f"{folder}: no detector bundle here, wanted a folder with bundle.json and detector.safetensors as a "
            "fine-tuning run writes it"
        )
    text = read_bytes(path, ADVICE)
    return TWO_STAGES.parse(text, str(path)), text


def document_text(document: Mapping[str, Any]) -> str:
    """Return the JSON text of a document, of the version that what it holds needs."""
    kind = TWO_STAGES if "rescorer_sha256" in document else BUNDLE_DOCUMENT
    header = ("format", "version")
    return kind.text({key: value for key, value in document.items() if key not in header}, indent=2)

"""The second stage as two files, in a folder of its own or in a detector bundle: `rescorer.json` and its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, cast

from pydantic import with_config
from typing_extensions import TypedDict

from medpretrain3d.atomic import finished_folder
from medpretrain3d.backbones.checkpoints.completeness import differences, outline
from medpretrain3d.backbones.checkpoints.publishing import without_places
from medpretrain3d.backbones.checkpoints.weights_file import read_weights
from medpretrain3d.configurable import from_config, plugins_in, to_config
from medpretrain3d.documents import SCHEMA, Artifact, Text, read_bytes
from medpretrain3d.errors import UserError
from medpretrain3d.finite import require_finite
from medpretrain3d.inference.rescorer import Rescorer
from medpretrain3d.plugins import check_required

RESCORER, RESCORER_WEIGHTS = "rescorer.json", "rescorer.safetensors"
_ADVICE = "make it again with `medpretrain3d rescore`"


@with_config(SCHEMA)
class _Document(TypedDict):
    rescorer: dict[str, Any]
    weights_sha256: Text
    provenance: dict[str, Any]
    plugins: NotRequired[list[dict[str, Any]]]


RESCORER_DOCUMENT = Artifact("medpretrain3d-rescorer", 1, _Document, _ADVICE)


def save_rescorer(folder: Path, rescorer: Rescorer, provenance: Mapping[str, Any]) -> None:
    """Write a folder with both files, complete or not at all; an earlier one gives way.

    Raises:
        UserError: a weight is not finite, or a class is of no loaded plugin.
    """
    from safetensors.torch import save

    require_finite(f"{folder}: not written", rescorer.state_dict(), "the training diverged, lower its learning rate")
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in rescorer.state_dict().items()}
    payload = save(weights)
    architecture = to_config(rescorer)
    plugins = plugins_in([architecture])
    document: dict[str, Any] = {
        "rescorer": architecture,
        **({"plugins": plugins} if plugins else {}),
        "weights_sha256": hashlib.sha256(payload).hexdigest(),
        "provenance": without_places(provenance),
    }
    with finished_folder(folder, replace=(RESCORER, RESCORER_WEIGHTS)) as unfinished:
        (unfinished / RESCORER_WEIGHTS).write_bytes(payload)
        (unfinished / RESCORER).write_bytes(RESCORER_DOCUMENT.text(document, indent=2).encode())


def load_rescorer(folder: Path, sha256: str | None = None) -> tuple[Rescorer, dict[str, Any]]:
    """Read a rescorer, in evaluation mode, and its provenance.

    Args:
        folder: with both files.
        sha256: of `rescorer.json`, as the bundle says; None where nobody says.

    Raises:
        UserError: a file is missing, damaged or another one, or the weights do not fit the network.
    """
    path = folder / RESCORER
    text = read_bytes(path, _ADVICE)
    if sha256 is not None and hashlib.sha256(text).hexdigest() != sha256:
        raise UserError(f"{path}: is another second stage than the one that the bundle was given; {_ADVICE}")
    document = RESCORER_DOCUMENT.parse(text, str(path))
    check_required(str(path), document.get("plugins"))
    weights = read_weights(folder / RESCORER_WEIGHTS, document["weights_sha256"])
    rescorer = outline(path, document["rescorer"], weights)
    if not isinstance(rescorer, Rescorer):
        raise UserError(f"{path}: describes a {type(rescorer).__name__}, wanted a Rescorer; {_ADVICE}")
    if message := differences(rescorer.state_dict(), weights):
        raise UserError(f"{folder / RESCORER_WEIGHTS}: does not fit the network of {RESCORER}: {message}; {_ADVICE}")
    require_finite(str(folder / RESCORER_WEIGHTS), weights, "its training diverged; train again")
    rescorer = cast(Rescorer, from_config(document["rescorer"]))
    rescorer.load_state_dict(weights)
    return rescorer.eval(), document["provenance"]

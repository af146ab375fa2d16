"""An ensemble as one bundle: a folder with the bundles of its members, and one way of merging what they see.

`bundle.json` names the members, which are bundles of their own in folders beside it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired

from pydantic import with_config
from typing_extensions import TypedDict

from medpretrain3d import __version__
from medpretrain3d.atomic import finished_folder
from medpretrain3d.documents import SCHEMA, Artifact, Name, Text
from medpretrain3d.errors import UserError
from medpretrain3d.inference.bundle import Bundle, check_members, load_bundle
from medpretrain3d.inference.bundle_document import (
    DOCUMENT,
    ENSEMBLE,
    WEIGHTS,
    document_text,
    is_ensemble,
    read_document,
)
from medpretrain3d.inference.config import InferenceConfig
from medpretrain3d.inference.operating_points import OperatingPoints
from medpretrain3d.inference.rescorer_file import RESCORER, RESCORER_WEIGHTS
from medpretrain3d.names import plain_name

_ADVICE = "make the ensemble again"


@with_config(SCHEMA)
class _Member(TypedDict):
    folder: Name
    sha256: Text


@with_config(SCHEMA)
class _Document(TypedDict):
    """Schema of the `bundle.json` of an ensemble."""

    members: list[_Member]
    inference: dict[str, Any]
    provenance: dict[str, Any]
    operating_points: NotRequired[dict[str, Any]]


ENSEMBLE_DOCUMENT = Artifact(ENSEMBLE, 1, _Document, _ADVICE)


def save_ensemble(
    folder: Path,
    members: Mapping[str, Path],
    inference: InferenceConfig,
    provenance: Mapping[str, Any] | None = None,
    replace: bool = False,
    operating_points: Mapping[str, Any] | None = None,
    rescorers: Mapping[str, Path] | None = None,
) -> None:
    """Copy bundles into one, complete or not at all.

    Args:
        folder: where it goes.
        members: bundles by the name of their folder in the ensemble.
        inference: how each member looks at a scan, and how what they see is merged.
        provenance: plain data; the version of this package is added.
        replace: whether an existing ensemble gives way once the new one is complete.
        operating_points: of its members in scans that each of them has not seen.
        rescorers: folders of second stages by the name of the member that gets each.

    Raises:
        UserError: no member, one that is damaged, members of other classes, or `folder` exists and `replace` is False.
    """
    bundles = {plain_name(name, "member"): load_bundle(place) for name, place in members.items()}
    check_members(list(bundles.values()))
    document: dict[str, Any] = {
        "inference": dataclasses.asdict(inference),
        "provenance": {"medpretrain3d_version": __version__, **(provenance or {})},
    }
    if operating_points is not None:
        document["operating_points"] = dict(operating_points)
    with finished_folder(folder, replace=(DOCUMENT,) if replace else False) as unfinished:
        copied = []
        for name, place in members.items():
            (unfinished / name).mkdir()
            sha256 = _copied(place, unfinished / name, (rescorers or {}).get(name))
            copied.append({"folder": name, "sha256": sha256})
        text = ENSEMBLE_DOCUMENT.text({"members": copied, **document}, indent=2)
        (unfinished / DOCUMENT).write_text(text, encoding="utf-8")


def load_members(folder: Path) -> list[Bundle]:
    """Read the members of an ensemble, or the one bundle that is there.

    Raises:
        UserError: no bundle, a member that is missing, damaged or another than when the ensemble was made, or members
            of other classes.
    """
    folder = Path(folder)
    if not is_ensemble(folder):
        return [load_bundle(folder)]
    path = folder / DOCUMENT
    document = ENSEMBLE_DOCUMENT.read(path)
    if not document["members"]:
        raise UserError(f"{path}: names no member; {_ADVICE}")
    try:
        inference = InferenceConfig.from_json(document["inference"])
        stated = document.get("operating_points")
        points = None if stated is None else OperatingPoints.from_json(stated)
        places = [folder / plain_name(member["folder"], "member") for member in document["members"]]
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    bundles = []
    for member, place in zip(document["members"], places, strict=True):
        bundle = load_bundle(place)
        if bundle.sha256 != member["sha256"]:
            raise UserError(
                f"{folder / member['folder']}: is another bundle than the one the ensemble was made of; {_ADVICE}"
            )
        bundles.append(dataclasses.replace(bundle, inference=inference, operating_points=points))
    check_members(bundles)
    return bundles


def _copied(folder: Path, to: Path, rescorer: Path | None = None) -> str:
    """Copy a bundle's files into an empty folder.

    Args:
        folder: the bundle.
        to: where its files go.
        rescorer: folder of a second stage that the copy gets; None keeps that of the bundle, if it has one.

    Returns:
        The copy's sha256.

    Raises:
        UserError: no bundle there.
    """
    document, text = read_document(folder)
    shutil.copyfile(folder / WEIGHTS, to / WEIGHTS)
    source = folder if rescorer is None else rescorer
    if rescorer is not None or "rescorer_sha256" in document:
        for file in (RESCORER, RESCORER_WEIGHTS):
            shutil.copyfile(source / file, to / file)
    if rescorer is not None:
        document["rescorer_sha256"] = hashlib.sha256((to / RESCORER).read_bytes()).hexdigest()
        text = document_text(document).encode()
    (to / DOCUMENT).write_bytes(text)
    return hashlib.sha256(text).hexdigest()

"""Tell what a file holds: an encoder, a checkpoint of any known format, a detector bundle or a store."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from medpretrain3d.atomic import put_back
from medpretrain3d.commands.read_options import add_read_options, read_options
from medpretrain3d.commands.unused_options import refuse_unused
from medpretrain3d.documents import LARGE, json_text, read_json
from medpretrain3d.store.store import Store
from medpretrain3d.urls import url_of

CARDS = {"encoder.json": "encoder file", "bundle.json": "detector bundle", "store.json": "store"}
BUNDLE_DOCUMENTS = ("bundle.json", "rescorer.json")
"""Of a detector and of its second stage; those of an ensemble's members lie in folders."""
DAMAGED = "it is damaged, make it again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file or folder."""
    parser.add_argument(
        "file", help="file or folder of this package, URL of a store, checkpoint of another project, or hub id"
    )
    add_read_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the card of what is ours without its longest entries; of other checkpoints what the reader found."""
    url, folder = url_of(args.file), Path(args.file)
    if url:
        folder = Store(url).path
    else:
        put_back(folder)
    found = [folder / name for name in CARDS if (folder / name).is_file()]
    if found:
        from medpretrain3d.backbones.checkpoints.release import restrictions

        why = f"is of checkpoints of other projects, {url or folder} is a {CARDS[found[0].name]}; leave it out"
        refuse_unused(args, add_read_options, ("stem", "token_order", "orientation", "norm"), why)
        print(f"{url or folder}: {CARDS[found[0].name]}")
        card = read_json(found[0], dict[str, Any], DAMAGED, LARGE, allow_nan=True)
        _print(card)
        begun_from = _encoders_behind(folder) if found[0].name == "bundle.json" else [card]
        for text in dict.fromkeys(text for one in begun_from for text in restrictions(one)):
            print(f"  the licence forbids: {text}")
        return 0
    from medpretrain3d.backbones.checkpoints import read_encoder
    from medpretrain3d.backbones.checkpoints.release import restrictions

    encoder = read_encoder(args.file, read_options(args))
    print(f"{args.file}: {encoder.format}")
    release = encoder.card.get("release") or {}
    _print(
        {
            **({"release": f"{release['name']}: {release['summary']}"} if release else {}),
            "architecture": encoder.architecture,
            "num_parameters": sum(value.numel() for value in encoder.weights.values()),
            **{key: encoder.card.get(key) for key in ("preprocessing", "pretraining")},
            "licence": encoder.card.get("licence") or "not stated in the file",
            **({"licence of the code": encoder.card["code_licence"]} if encoder.card.get("code_licence") else {}),
            **({"the licence forbids": forbidden} if (forbidden := restrictions(encoder.card)) else {}),
            "citations": encoder.card.get("citations"),
            "unused tensors": encoder.unused,
            "sha256": encoder.sha256,
        }
    )
    for note in encoder.notes:
        print(f"  note: {note}")
    return 0


def _encoders_behind(folder: Path) -> list[dict[str, Any]]:
    """Return what a bundle says of the encoders that its detector, second stage and members begin from."""
    documents = sorted(path for name in BUNDLE_DOCUMENTS for place in ("", "*/") for path in folder.glob(place + name))
    read = [read_json(path, dict[str, Any], DAMAGED, LARGE, allow_nan=True) for path in documents]
    provenances = [one["provenance"] for one in read if isinstance(one.get("provenance"), dict)]
    return [one["encoder"] for one in provenances if one.get("encoder")]


def _print(card: dict[str, Any]) -> None:
    for key, value in card.items():
        text = json_text(value).strip()
        print(f"  {key}: {text if len(text) <= 400 else text[:397] + '...'}")

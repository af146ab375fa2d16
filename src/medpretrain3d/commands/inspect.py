"""Tell what an encoder file, a detector bundle or a store holds."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from medpretrain3d.errors import UserError

CARDS = {"encoder.json": "encoder file", "bundle.json": "detector bundle", "store.json": "store"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folder."""
    parser.add_argument("folder", type=Path, help="folder written by pretraining, fine-tuning or prepare")


def run(args: argparse.Namespace) -> int:
    """Print the card without its longest entries."""
    found = [args.folder / name for name in CARDS if (args.folder / name).is_file()]
    if not found:
        raise UserError(f"{args.folder}: holds none of {', '.join(CARDS)}; give the folder that does")
    card = json.loads(found[0].read_text())
    print(f"{args.folder}: {CARDS[found[0].name]}")
    for key, value in card.items():
        text = json.dumps(value)
        print(f"  {key}: {text if len(text) <= 300 else text[:297] + '...'}")
    return 0

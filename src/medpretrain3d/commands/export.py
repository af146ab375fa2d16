"""Write an encoder for others: as safetensors with its card, or as an nnssl checkpoint; both with a model card.

ENCODER is whatever --model.init_from takes: an encoder file, a checkpoint of another project, a hub id.
"""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from medpretrain3d.atomic import locked
from medpretrain3d.commands.read_options import add_read_options, read_options
from medpretrain3d.documents import read_text
from medpretrain3d.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`: encoder, output folder, format, model card, read options."""
    parser.add_argument("encoder", help="encoder file, checkpoint, folder or hub id")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--format", default="safetensors", help="safetensors, nnssl, or what a plugin adds; default: safetensors"
    )
    parser.add_argument(
        "--licence", help="for the model card, such as cc-by-4.0; default: what the encoder's card states"
    )
    parser.add_argument("--results", type=Path, help="Markdown file with measured results, for the model card")
    add_read_options(parser)


def lock(args: argparse.Namespace) -> AbstractContextManager[None]:
    """Return one call makes the folder at a time."""
    return locked(args.output)


def run(args: argparse.Namespace) -> int:
    """Write the folder."""
    from medpretrain3d.atomic import finished_folder
    from medpretrain3d.backbones.checkpoints import EXPORTS, read_encoder, write_encoder
    from medpretrain3d.backbones.checkpoints.model_card import model_card

    own = "safetensors"  # whose card is more than files
    if args.format != own and args.format not in EXPORTS.names():
        raise UserError(f"--format {args.format}: unknown; known are {', '.join([own, *EXPORTS.names()])}")
    if args.output.exists():
        raise UserError(f"{args.output}: is there already; choose another folder or remove it")
    results = read_text(args.results, "give a Markdown file") if args.results else None
    encoder = read_encoder(args.encoder, read_options(args))
    page = model_card(encoder, args.output.name, args.licence, results)
    encoder = replace(encoder, card=encoder.card | ({"licence": args.licence} if args.licence else {}))
    if args.format == own:
        beside = {"README.md": page}
        write_encoder(args.output, encoder.architecture, encoder.weights, encoder.card, beside, encoder.detector)
    else:
        with finished_folder(args.output, replace=False) as unfinished:
            EXPORTS[args.format](unfinished, encoder)
            (unfinished / "README.md").write_text(page, encoding="utf-8")
    print(f"{args.output}: {args.format}, {', '.join(sorted(path.name for path in args.output.iterdir()))}")
    return 0

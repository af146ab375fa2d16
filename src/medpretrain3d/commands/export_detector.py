"""Write the network of a detector bundle as ONNX or for torch.export, checked against the bundle's own outputs.

OUT receives network.onnx or network.pt2, anchors.npy and export.json; docs/prediction.md tells how to decode boxes.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from medpretrain3d.atomic import locked


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Bundle, format, place."""
    parser.add_argument("bundle", type=Path, help="folder with bundle.json and detector.safetensors")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="new folder for the result")
    parser.add_argument("--format", choices=("onnx", "torch"), default="onnx", help="default: onnx")


def lock(args: argparse.Namespace) -> AbstractContextManager[None]:
    """Return one call makes the folder at a time."""
    return locked(args.out)


def run(args: argparse.Namespace) -> int:
    """Export and say how well it agrees.

    Raises:
        UserError: no bundle, a detector that is not exported, missing libraries, or outputs that differ.
    """
    from medpretrain3d.backbones.checkpoints.release import restrictions
    from medpretrain3d.inference.box_masks import mask_head_of
    from medpretrain3d.inference.bundle import load_bundle
    from medpretrain3d.inference.network_export import FILES, export_network

    bundle = load_bundle(args.bundle)
    for note in bundle.notes:
        print(f"note: {args.bundle}: {note}", file=sys.stderr)
    difference = export_network(bundle, args.out, args.format)
    if mask_head_of(bundle.detector) is not None:
        print(f"note: {args.bundle}: its head for masks of objects is not exported, boxes are all that the file gives")
    if bundle.rescorer is not None:
        print(f"note: {args.bundle}: its second stage is not exported, so scores are those of the first alone")
    for text in restrictions(bundle.provenance.get("encoder") or {}):
        print(f"note: {args.bundle}: the licence forbids: {text}")
    print(f"{args.out / FILES[args.format]}: differs from eager by {difference:.1e} of the largest output")
    return 0

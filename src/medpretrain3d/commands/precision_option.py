"""The precision of networks, as an argument of every command that runs one."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from medpretrain3d.precision.names import OTHER_NAMES, PRECISIONS, Precision

if TYPE_CHECKING:
    import torch


def add_precision(parser: argparse.ArgumentParser, place: str = "") -> None:
    """`--precision`; what is not given is None.

    Args:
        parser: of the command.
        place: words before the help.
    """
    parser.add_argument(
        "--precision",
        type=lambda text: OTHER_NAMES.get(text, text),
        choices=PRECISIONS,
        help=f"{place}{', '.join(PRECISIONS)} (default: what is quickest on the device, measured on a CPU)",
    )


def tell_precision(asked: Precision | None, device: torch.device) -> None:
    """Print the precision that networks run in and why, to the standard error.

    Args:
        asked: by the user; None was left to the device.
        device: where they run.
    """
    from medpretrain3d.precision.choice import choose_precision, note_on

    if asked is None:
        print(choose_precision(device), file=sys.stderr)
    elif note := note_on(asked, device):
        print(f"note: precision {asked}: {note}", file=sys.stderr)

"""List the copies of stores on this machine, and remove those that are not in use.

FOLDER is what `data.stage_to` names; without it, the mirrors of stores that were read from a URL are listed, in
~/.cache/medpretrain3d or the folder that MEDPRETRAIN3D_CACHE names. Copies that a process reads are never removed,
whoever's it is. What is removed can be had again from the stores themselves.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from medpretrain3d.commands.numbers import Number
from medpretrain3d.errors import UserError
from medpretrain3d.store.local_copies import LocalCopy, evict_to, local_copies
from medpretrain3d.store.mirror import mirrors_folder
from medpretrain3d.values import Gigabytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where, and how much may stay."""
    parser.add_argument("folder", type=Path, nargs="?", metavar="FOLDER", help="default: that of mirrors")
    parser.add_argument(
        "--limit-gb",
        type=Number(Gigabytes),
        metavar="GB",
        help="remove what was used longest ago until so much is left; 0 for all that is not in use",
    )


def run(args: argparse.Namespace) -> int:
    """Remove if asked to, then list.

    Raises:
        UserError: no such folder.
    """
    folder = args.folder or mirrors_folder()
    if args.folder is not None and not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name what data.stage_to names, or leave it out for mirrors of URLs")
    removed = [] if args.limit_gb is None else evict_to(folder, int(args.limit_gb * 1e9))
    for copy in removed:
        print(f"removed {_line(copy)}")
    left = local_copies(folder)
    for copy in left:
        print(_line(copy) + (", in use" if copy.is_in_use else ""))
    print(f"{folder}: {len(left)} copies, {sum(copy.num_bytes for copy in left) / 1e9:.2f} GB")
    return 0


def _line(copy: LocalCopy) -> str:
    used = time.strftime("%Y-%m-%d %H:%M", time.localtime(copy.used_s))
    return f"{copy.folder / copy.name}: {copy.num_bytes / 1e9:.2f} GB, last used {used}"

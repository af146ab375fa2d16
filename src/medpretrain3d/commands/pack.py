"""Convert a store of a folder per case to containers, many cases in one file, or back.

A container is a tar file of up to 16 GiB and a case, for file systems that count files or are slow to open them. Every
command reads both kinds. OUT has the same cases, splits, folds and fingerprint; the bytes of each case are the same,
and each chunk is compared with its checksum once it is written. A call that was killed continues. STORE stays as it is:
remove it yourself. A store of containers may be packed again, which leaves out what newer versions of cases replace.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from medpretrain3d.atomic import locked_folder
from medpretrain3d.store.pack import pack


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Both folders, and the direction."""
    parser.add_argument("store", type=Path, metavar="STORE")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--folders", action="store_true", help="a folder for each case instead of containers")


@contextmanager
def lock(args: argparse.Namespace) -> Iterator[None]:
    """No other call writes to OUT meanwhile."""
    with locked_folder(args.out):
        yield


def run(args: argparse.Namespace) -> int:
    """Convert, then say what there is now."""
    summary = pack(args.store, args.out, args.folders, lambda ids: tqdm(ids, desc="pack", unit="case"))
    reused = f", {summary.num_reused} of them were there" if summary.num_reused else ""
    print(f"{args.out}: {summary.num_cases} cases in {summary.num_files} files{reused}; {args.store} is as it was")
    return 0

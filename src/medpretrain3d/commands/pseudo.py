"""Find pseudo-objects in the scans of a store, for a detector to be pretrained on before it has seen a label.

OUT becomes a store with the same cases, splits and folds, whose objects are, of each scan: bone components, air
cavities inside the body, soft-tissue regions (watershed basins of the Gaussian gradient with the sharpest edge), and
where asked for pasted blobs and masks of organs. Where values have no unit (MR, PET), quantiles of the body take the
place of HU, and the kinds are `bright`, `dark` and `tissue`. The same store and options give the same objects. Images
are links to those of STORE, so keep it. A call that was killed continues. OUT/pseudo_objects.png shows some scans: look
at it.
Exit code: 0, or 1 where nothing was found in any scan; scans in which nothing was found are named.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from medpretrain3d.atomic import locked_folder
from medpretrain3d.commands.beside import beside
from medpretrain3d.commands.numbers import Number, Processes
from medpretrain3d.commands.unused_options import refuse_unused
from medpretrain3d.errors import UserError
from medpretrain3d.pseudo.options import PseudoOptions
from medpretrain3d.store.store import Store
from medpretrain3d.urls import url_of
from medpretrain3d.values import Positive, Real, Seed, Whole

SAVES_MEMORY = "use fewer --workers"
"""What to change where memory runs out."""
PICTURES = "pseudo_objects.png"
_RANGES = {
    "bone-cm3": "volume of bone components",
    "air-cm3": "volume of air cavities",
    "tissue-cm3": "volume of soft-tissue regions",
    "blob-mm": "diameter of blobs",
}
_SEVERAL = {
    "bone-hu": ("bone is above this", Real),
    "air-hu": ("air is below this", Real),
    "bright-quantile": ("of the body's voxels, instead of --bone-hu where values have no unit", Positive),
    "dark-quantile": ("of the body's voxels, instead of --air-hu", Positive),
    "sigma-mm": ("of the Gaussians whose gradient gives soft-tissue regions", Positive),
}
_OF_UNIT = {
    "hu": ("bright_quantile", "dark_quantile"),
    "any": ("bone_hu", "air_hu"),
}
"""Options that mean nothing where values are of a unit."""
_OF_KIND = {
    "bone": ("bone_hu", "bright_quantile", "bone_cm3"),
    "air": ("air_hu", "dark_quantile", "air_cm3"),
    "tissue": ("sigma_mm", "tissue_cm3"),
    "blob": ("blob_mm",),
}
"""Options of each kind, which mean nothing where none is looked for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Both folders, numbers per kind, thresholds and sizes."""
    default = PseudoOptions()
    parser.add_argument("store", type=Path, metavar="STORE")
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT", help="default: STORE_pseudo, beside it")
    for name, per in {"bone": " and threshold", "air": " and threshold", "tissue": " and scale", "blob": ""}.items():
        value = getattr(default, f"num_{name}")
        text = f"most per scan{per} (default: {value})"
        parser.add_argument(f"--num-{name}", type=Number(Whole), default=value, metavar="N", help=text)
    for name, (text, hint) in _SEVERAL.items():
        several = list(getattr(default, name.replace("-", "_")))
        parser.add_argument(
            f"--{name}",
            type=Number(hint),
            nargs="+",
            default=several,
            metavar="X",
            help=f"{text}; one or several (default: {' '.join(f'{value:g}' for value in several)})",
        )
    for name, text in _RANGES.items():
        low, high = getattr(default, name.replace("-", "_"))
        parser.add_argument(
            f"--{name}",
            type=Number(Positive),
            nargs=2,
            default=[low, high],
            metavar=("MIN", "MAX"),
            help=f"{text} (default: {low:g} {high:g})",
        )
    parser.add_argument(
        "--organs",
        type=Path,
        metavar="FOLDER",
        help="masks of a segmenter, as TotalSegmentator writes them: FOLDER/<case>/<organ>.nii.gz",
    )
    parser.add_argument("--channel", type=Number(Whole), default=0, help="of the scans, that is looked at")
    parser.add_argument("--seed", type=Number(Seed), default=0, help="of blobs")
    parser.add_argument("--pictures", type=Number(Whole), default=6, metavar="N", help="scans that are shown")
    parser.add_argument("--workers", type=Number(Processes), default=1, help="scans at a time")


@contextmanager
def lock(args: argparse.Namespace) -> Iterator[None]:
    """No other call writes to OUT meanwhile."""
    store = Path(str(args.store).rstrip("/"))
    if args.out is None and url_of(args.store):
        raise UserError(f"{args.store}: is a URL; name OUT, the folder to write")
    args.out = args.out or beside(store, "_pseudo")
    with locked_folder(args.out):
        yield


def run(args: argparse.Namespace) -> int:
    """Find them, then say what there is and what was left out."""
    from medpretrain3d.pseudo.store import pseudo_store

    names = [field.name for field in fields(PseudoOptions) if hasattr(args, field.name)]
    given = {name: getattr(args, name) for name in names}
    plain: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in given.items()}
    options = PseudoOptions(**plain, has_organs=args.organs is not None)
    _refuse_unheeded(args)
    summary = pseudo_store(
        str(args.store),
        args.out,
        options,
        args.organs,
        args.channel,
        args.workers,
        lambda done, total: tqdm(done, total=total, desc="pseudo", unit="scan"),
    )
    if args.pictures:
        _draw(Store(args.out), args.channel, args.pictures)
    num_cases = summary.num_found + summary.num_reused
    reused = f", {summary.num_reused} of them were there" if summary.num_reused else ""
    print(f"{args.out}: {num_cases} scans{reused}")
    for kind, count in summary.objects.items():
        why = ", ".join(f"{number:,} {reason}" for reason, number in summary.dropped.get(kind, {}).items())
        left_out = f"; left out: {why}" if why else ""
        print(f"  {kind:<7}{count:>7,} objects, {count / num_cases:.1f} per scan{left_out}")
    if args.pictures:
        print(f"look at {args.out / PICTURES}")
    if summary.without:
        shown = ", ".join(summary.without[:5]) + (" ..." if len(summary.without) > 5 else "")
        print(f"warning: nothing was found in {len(summary.without)} scans: {shown}", file=sys.stderr)
    return 0 if sum(summary.objects.values()) else 1


def _refuse_unheeded(args: argparse.Namespace) -> None:
    """Refuse options of kinds that are not looked for, and thresholds in another unit than that of the scans.

    Raises:
        UserError: there is one, or no store.
    """
    for kind, names in _OF_KIND.items():
        if not getattr(args, f"num_{kind}"):
            why = f"changes nothing with --num-{kind} 0, which looks for none; give a number, or leave it out"
            refuse_unused(args, add_arguments, names, why)
    unit = Store(str(args.store)).unit
    other = {
        "hu": f"is of scans without a unit, and {args.store} holds HU; give --bone-hu or --air-hu, or leave it out",
        "any": f"is of scans in HU, and values of {args.store} have no unit; give --bright-quantile or "
        "--dark-quantile, or leave it out",
    }
    refuse_unused(args, add_arguments, _OF_UNIT[unit], other[unit])


def _draw(store: Store, channel: int, num: int) -> None:
    from medpretrain3d.visualization.pictures import save_png
    from medpretrain3d.visualization.region_pictures import ScanRow, region_sheet

    chosen = np.unique(np.linspace(0, len(store) - 1, min(num, len(store))).round().astype(int))
    rows = []
    for index in chosen.tolist():
        case = store.case(store.case_ids[index])
        low, high = (-300.0, 700.0)
        if case.unit != "hu":
            low, high = (
                case.statistics[channel].low,
                max(case.statistics[channel].high, case.statistics[channel].low + 1),
            )
        image = (case.read_image()[channel].astype(np.float32) - low) / (high - low) * 2 - 1
        counts = np.bincount(case.labels, minlength=len(store.classes))
        told = ", ".join(f"{number} {kind}" for kind, number in zip(store.classes, counts.tolist(), strict=True))
        label_map = case.read_label_map().astype(np.int64)
        rows.append(ScanRow(f"{case.id}: {told}", image, case.grid.spacing_mm, label_map, case.boxes, case.labels))
    save_png(store.path / PICTURES, region_sheet(rows, store.classes))

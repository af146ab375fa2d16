"""Transfer of the pretraining's preprocessing to the configuration of the fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import Namespace

from medpretrain3d.backbones import ReadOptions, read_encoder
from medpretrain3d.configurable import from_config, to_config
from medpretrain3d.store.intensity import PerUnit
from medpretrain3d.store.preprocessing import differ_in_size, stated_window
from medpretrain3d.store.store import Store
from medpretrain3d.store.unit import Unit


def follow_pretraining(config: Namespace, rank_zero_print: Callable[[str], None], warn: Callable[[str], None]) -> None:
    """Show the detector the intensities that its backbone was pretrained on, unless the recipe says which it sees.

    Sets `data.window` to the window of pretraining scans in the unit of the data's store, and
    `data.pretrained_spacing_mm` to the spacing of the pretraining, where they are not given and the encoder's file
    states them.

    Args:
        config: of the run; changed.
        rank_zero_print: told what is taken.
        warn: told where the encoder saw other images than the detector will.

    Raises:
        UserError: the encoder or the store cannot be read.
    """
    source, data = config.model.init_from, config.data
    if not source:
        return
    options = config.model.init_options
    encoder = read_encoder(source, ReadOptions(**options.as_dict()) if isinstance(options, Namespace) else options)
    card: dict[str, Any] = encoder.card.get("preprocessing") or {}
    unit = Store(data.store).unit
    window = stated_window(card, unit)
    if data.pretrained_spacing_mm is None:
        data.pretrained_spacing_mm = card.get("spacing_mm")
        if data.pretrained_spacing_mm is not None:
            rank_zero_print(f"spacing of the encoder's pretraining: {list(data.pretrained_spacing_mm)} mm")
    theirs = None if window is None else to_config(window)
    if theirs is not None and data.window is None:
        data.window = Namespace(class_path=theirs["class_path"], init_args=Namespace(theirs["init_args"]))
        rank_zero_print(f"window of the encoder's pretraining: {window}")
    given = from_config(data.window.as_dict()) if data.window else PerUnit()
    ours = to_config(given.of_unit(unit))
    if theirs is not None and theirs != ours:
        warn(
            f"window of the encoder's pretraining is {theirs}, of this data {ours}; its features were learned on other "
            "intensities"
        )
    elif theirs is None and card.get("window"):
        warn(
            f"the encoder was pretrained on no scans in the unit of this data ({_in_words(unit)}): no window of its "
            f"pretraining is taken, images are mapped by {ours}"
        )
    schemes = card.get("normalisation")
    if schemes and not card.get("window"):
        warn(
            f"the encoder was pretrained on images normalised by {schemes}, this data is mapped by {ours}; no window "
            "can be taken from the file"
        )


def compare_spacing(
    ours_mm: Sequence[float] | None,
    pretrained_mm: Sequence[float],
    rank_zero_print: Callable[[str], None],
    warn: Callable[[str], None],
) -> None:
    """Tell where the detector sees objects of other sizes, in voxels, than its encoder did.

    Args:
        ours_mm: spacing of the data along (D, H, W); None where each scan has its own.
        pretrained_mm: of the scans that the encoder was pretrained on.
        rank_zero_print: told of a difference too small to matter.
        warn: told of a larger one.
    """
    message = (
        f"spacing_mm of the encoder's pretraining is {list(pretrained_mm)}, of this data "
        f"{None if ours_mm is None else list(ours_mm)}"
    )
    if differ_in_size(ours_mm, pretrained_mm):
        axes = " ".join(map(str, pretrained_mm))
        warn(f"{message}; its features were learned on other sizes: prepare a store with --spacing-mm {axes} for it")
    elif ours_mm != pretrained_mm:
        rank_zero_print(f"note: {message}")


def _in_words(unit: Unit) -> str:
    return "HU" if unit == "hu" else "not HU"

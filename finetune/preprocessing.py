"""What the images of the pretraining looked like, and those of this data."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from finetune.datamodule import FinetuneData
from medpretrain3d.backbones import EncoderFile
from medpretrain3d.configurable import from_config, to_config
from medpretrain3d.engine.distributed import say
from medpretrain3d.store.intensity import Normalisation
from medpretrain3d.store.unit import Unit


def follow_pretraining(encoder: EncoderFile, data: FinetuneData) -> None:
    """Show the detector the intensities that its backbone was pretrained on, unless the recipe says which it sees.

    The window of pretraining scans in the unit of this data's store is taken. Where there is none, or spacing and
    window differ, that is said.
    """
    card: dict[str, Any] = encoder.card.get("preprocessing", {})
    unit = data.store.unit
    window = _window_of(card, unit)
    if window is not None and not data.window_is_given:
        window.fitted_to(data.train_cases[0].open())  # before any time is spent: were its statistics measured?
        data.window = window
        say(f"window of the encoder's pretraining: {window}")
    ours = data.preprocessing().to_json()
    differs = {"spacing_mm": card.get("spacing_mm", ours["spacing_mm"])}
    differs["window"] = ours["window"] if window is None else to_config(window)
    for name, theirs in differs.items():
        if theirs != ours[name]:
            rank_zero_warn(
                f"{name} of the encoder's pretraining is {theirs}, of this data {ours[name]}; "
                "its features were learned on other intensities or sizes"
            )
    if window is None and card.get("window"):
        rank_zero_warn(
            f"the encoder was pretrained on no scans in the unit of this data ({_in_words(unit)}): no window of its "
            f"pretraining is taken, images are mapped by {ours['window']}"
        )
    schemes = card.get("normalisation")
    if schemes and not card.get("window"):
        rank_zero_warn(
            f"the encoder was pretrained on images normalised by {schemes}, this data is mapped by {ours['window']}; "
            "no window can be taken from the file"
        )


def _window_of(card: dict[str, Any], unit: Unit) -> Normalisation | None:
    """The window that pretraining scans in a unit had; None where it saw none, or the card says nothing of windows."""
    if not card.get("window"):
        return None
    window: Normalisation = from_config(card["window"]).of_unit(unit)
    units = {one["unit"] for one in (card, *card.get("stores", [])) if "unit" in one}
    # Cards of others, and ours before they named units, have a window only: one in HU serves none but CT.
    return window if (unit in units if units else window.suits(unit)) else None


def _in_words(unit: Unit) -> str:
    return "HU" if unit == "hu" else "not HU"

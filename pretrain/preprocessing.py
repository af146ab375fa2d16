"""Whether weights that pretraining goes on from were trained on images as it shows them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from medpretrain3d.backbones import EncoderFile
from medpretrain3d.configurable import to_config
from medpretrain3d.store.normalization import Normalization
from medpretrain3d.store.preprocessing import other_sizes, stated_window
from medpretrain3d.store.unit import Unit

KINDS: dict[Unit, str] = {"hu": "scans in HU", "any": "scans without unit"}


def compare_preprocessing(
    encoder: EncoderFile,
    source: str,
    window: Normalization,
    units: Collection[Unit],
    spacing_mm: tuple[float, float, float] | None,
    warn: Callable[[str], None],
) -> None:
    """Warn where the corpus is shown otherwise than what `model.init_from` was trained on.

    Nothing is taken from the file, as fine-tuning does, since a corpus may hold scans of several units.

    Args:
        encoder: what was read.
        source: where, for messages.
        window: of the run.
        units: of its stores.
        spacing_mm: of its stores along (D, H, W); None where each scan has its own.
        warn: told of each difference, and what to do about it.
    """
    card: dict[str, Any] = encoder.card.get("preprocessing") or {}
    for unit in sorted(set(units)):
        theirs, ours = stated_window(card, unit), window.of_unit(unit)
        if theirs is not None and ours.suits(unit) and to_config(theirs) != to_config(ours):
            warn(
                f"the weights of {source} were trained on {KINDS[unit]} mapped by {theirs}, this run maps them by "
                f"{ours}; set data.window to theirs unless they shall learn others"
            )
    if card.get("normalisation") and not card.get("window"):
        warn(
            f"the weights of {source} were trained on images normalised by {card['normalisation']}, and no window can "
            f"be taken from the file; this run maps scans by {window}"
        )
    if sizes := other_sizes(spacing_mm, card.get("spacing_mm")):
        warn(f"the weights of {source} were {sizes} unless they shall learn other sizes")

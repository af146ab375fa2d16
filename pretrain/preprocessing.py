"""Whether weights that pretraining goes on from were trained on the intensities that it shows."""

from __future__ import annotations

from collections.abc import Callable

from jsonargparse import Namespace

from medpretrain3d.backbones import ReadOptions, read_encoder
from medpretrain3d.configurable import from_config, to_config
from medpretrain3d.store.intensity import PerUnit
from medpretrain3d.store.preprocessing import stated_window


def compare_windows(config: Namespace, warn: Callable[[str], None]) -> None:
    """Warn where scans in HU are mapped otherwise than those that `model.init_from` was trained on.

    Args:
        config: of the run; left alone, since a corpus may hold scans of several units.
        warn: told of the difference, and how to take theirs.

    Raises:
        UserError: the encoder cannot be read.
    """
    if not config.model.init_from:
        return
    options = config.model.init_options
    encoder = read_encoder(
        config.model.init_from, ReadOptions(**options.as_dict()) if isinstance(options, Namespace) else options
    )
    theirs = stated_window(encoder.card.get("preprocessing") or {}, "hu")
    given = from_config(config.data.window.as_dict()) if config.data.window else PerUnit()
    ours = given.of_unit("hu")
    if theirs is not None and ours.suits("hu") and to_config(theirs) != to_config(ours):
        warn(
            f"the weights of {config.model.init_from} were trained on scans mapped by {theirs}, this run maps those in "
            f"HU by {ours}; set data.window to theirs unless they shall learn others"
        )

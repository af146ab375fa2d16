"""The encoder inside a checkpoint of one of our runs, which need not have ended: the weights that it would end with."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from medpretrain3d.backbones.base import Backbone
from medpretrain3d.backbones.checkpoints.encoder_file import DetectorPart, EncoderFile
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.configurable import Configurable, plugins_in, to_config
from medpretrain3d.errors import UserError
from medpretrain3d.plugins import check_required

KEY = "encoder"
"""Of the entry that tells what a checkpoint holds."""


def encoder_entry(
    backbone: Backbone,
    owner: str,
    card: Mapping[str, Any],
    detector: Configurable | None = None,
    prefix: str | None = None,
) -> dict[str, Any]:
    """Build the encoder entry that a stage adds to its checkpoints, plain data.

    Args:
        backbone: inside the trained module.
        owner: what holds it there, `objective` or `detector`.
        card: as in an encoder file.
        detector: what holds the backbone, or what the objective holds beside it, if that is a detector.
        prefix: of the names of its weights, where the owner holds them elsewhere than in its `backbone`.
    """
    architecture = to_config(backbone)
    plugins = plugins_in([architecture, card.get("preprocessing")])
    place = prefix or f"{owner}.backbone."
    entry = {"prefix": place, "architecture": architecture, "plugins": plugins, "card": dict(card)}
    if detector is not None:
        entry["detector"] = {
            "prefix": "detector." if owner == "detector" else f"{owner}.detector.",
            "architecture": to_config(detector),
        }
    plain: dict[str, Any] = json.loads(json.dumps({KEY: entry}))
    return plain


def read_run_checkpoint(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Read a run's `checkpoints/last.ckpt` or any of its other checkpoints; averaged weights where the run averages.

    Raises:
        UserError: the run is one of an earlier version, whose checkpoints do not tell what they hold; or it needs a
            plugin that is not loaded.
    """
    if "pytorch-lightning_version" not in raw.content or "global_step" not in raw.content:
        return None
    entry, weights, steps = raw.content.get(KEY), raw.content["state_dict"], int(raw.content["global_step"])
    if entry is None:
        if any(name.startswith(("objective.backbone.", "detector.backbone.")) for name in weights):
            raise UserError(
                f"{raw.path}: a checkpoint of a run of an earlier version, which does not say what it holds; call the "
                "run again with its configuration, which ends with an encoder file or a bundle, and take that"
            )
        return None
    notes = check_required(str(raw.path), entry.get("plugins"))
    prefix, card = str(entry["prefix"]), dict(entry["card"])
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    part, twice = None, tuple[str, ...]()
    if of_detector := entry.get("detector"):
        its_prefix = str(of_detector["prefix"])
        state = {name.removeprefix(its_prefix): value for name, value in weights.items() if name.startswith(its_prefix)}
        part, twice = DetectorPart.of_state(dict(of_detector["architecture"]), state), (f"{its_prefix}backbone.",)
    others = sorted(name for name in weights if not name.startswith((prefix, *twice)))
    card["pretraining"] = {**card["pretraining"], "steps": steps}
    form = f"medpretrain3d checkpoint of a run, step {steps}"
    unused = dict(Counter(name.split(".")[1] for name in others))
    return EncoderFile(dict(entry["architecture"]), own, card, raw.sha256, form, unused, notes, part)

"""Segmentation networks of nnU-Net v2 (Isensee et al., 2021): the encoder of a residual or plain U-Net, or a Primus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from medpretrain3d.backbones.checkpoints.aliases import without_aliases
from medpretrain3d.backbones.checkpoints.conv_layout import conv_architecture, with_turned_strides
from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile, stated
from medpretrain3d.backbones.checkpoints.frame import Turn, turn_of_transposed
from medpretrain3d.backbones.checkpoints.normalization import normalization
from medpretrain3d.backbones.checkpoints.primus_layout import read_primus, turn_primus
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.errors import UserError

CITATION = (
    "Isensee, F., Jaeger, P. F., Kohl, S. A. A., Petersen, J., & Maier-Hein, K. H. (2021). nnU-Net: a self-configuring "
    "method for deep learning-based biomedical image segmentation. Nature Methods, 18(2), 203-211."
)

TOKEN_ORDER = "whd"
"""How nnU-Net's Primus flattens tokens since June 2025; before that it was (h w d), and no file says which."""


def read_nnunet(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Return the encoder of an nnU-Net checkpoint; None for other files.

    Raises:
        UserError: no plans in the file, or a network that is not known here.
    """
    init_args = raw.content.get("init_args")
    if not isinstance(init_args, Mapping) or "network_weights" not in raw.content or "plans" not in init_args:
        return None
    where, plans = str(raw.path), init_args["plans"]
    configuration_name, configuration = _configuration(where, plans, init_args.get("configuration"))
    weights, notes = without_aliases(raw.weights)
    turn, transposed = turn_of_transposed(where, plans.get("transpose_forward"))
    is_transformer = "eva.pos_embed" in weights
    if is_transformer:
        names = [name for name in weights if name.startswith(("eva.", "down_projection.", "register_tokens"))]
        own = {name: weights[name] for name in names}
        order = options.token_order or TOKEN_ORDER
        own, architecture, more = read_primus(where, own, None, [configuration.get("patch_size")], order)
        own, architecture = turn_primus(own, architecture, turn)
    else:
        names = [name for name in weights if name.startswith(("encoder.stem.", "encoder.stages."))]
        own = {name.removeprefix("encoder."): weights[name] for name in names}
        if not own:
            parts = ", ".join(sorted({name.partition(".")[0] for name in weights}))
            raise UserError(f"{where}: an nnU-Net checkpoint of parts {parts}, wanted an encoder of stages or a Primus")
        own = turn.kernels(own)
        architecture, more = conv_architecture(where, own, _arch_kwargs(configuration, turn))
    unused = Counter(name.partition(".")[0] for name in sorted(weights.keys() - set(names)))
    dataset = init_args.get("dataset_json") or {}
    intensities = plans.get("foreground_intensity_properties_per_channel")
    card = {
        "preprocessing": stated(
            spacing_mm=turn.stated(configuration.get("spacing")),
            window=normalization(configuration.get("normalization_schemes"), intensities),
            patch=turn.stated(configuration.get("patch_size")),
            normalisation=configuration.get("normalization_schemes"),  # as cards spell it
            intensity=intensities,
            channel_names=dataset.get("channel_names"),
        ),
        "pretraining": stated(
            paradigm="supervised segmentation",
            trainer=raw.content.get("trainer_name"),
            corpus=plans.get("dataset_name"),
            configuration=configuration_name,
            fold=init_args.get("fold"),
            labels=dataset.get("labels"),
        ),
        "licence": dataset.get("licence") or dataset.get("license") or raw.licence,
        "citations": [CITATION],
    }
    return EncoderFile(
        architecture,
        own,
        card,
        raw.sha256,
        "nnU-Net checkpoint",
        dict(unused),
        (*notes, *transposed, *more),
        heeded=("token_order",) if is_transformer else (),
    )


def _configuration(where: str, plans: Mapping[str, Any], name: str | None) -> tuple[str, dict[str, Any]]:
    """Return a configuration with all that it inherits."""
    known = plans.get("configurations") or {}
    if name not in known:
        raise UserError(f"{where}: trained as '{name}', its plans know {', '.join(known) or 'no configuration'}")
    found: dict[str, Any] = {}
    following: str | None = name
    for _ in known:  # at most once each, so that a circle ends
        if following in known:
            found = {**known[following], **found}
            following = known[following].get("inherits_from")
    return str(name), found


def _arch_kwargs(configuration: Mapping[str, Any], turn: Turn) -> dict[str, Any]:
    """Return `arch_kwargs` of plans since nnU-Net 2.4, or the same from the flat keys of older ones, along our axes."""
    flat = {"strides": configuration.get("pool_op_kernel_sizes")}
    kwargs = dict(configuration["architecture"].get("arch_kwargs") or {}) if "architecture" in configuration else flat
    return with_turned_strides(kwargs, turn)

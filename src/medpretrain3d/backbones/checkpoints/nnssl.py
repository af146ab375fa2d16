"""Checkpoints of nnssl and its family: MissingPiece, OpenMind, nnFoundation, SSL3D (Wald et al., 2025).

A dictionary with `network_weights` and `nnssl_adaptation_plan`, which says where in the state dict the encoder, its
stem and its table of positions are. The plan's class name is not relied on: a file that calls itself ResEncL or 102M
may be another size. Architectures are told from the tensors; the plan is asked for what they do not show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from medpretrain3d.backbones.checkpoints.aliases import without_aliases
from medpretrain3d.backbones.checkpoints.conv_layout import conv_architecture, with_turned_strides
from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile, stated
from medpretrain3d.backbones.checkpoints.frame import Turn, turn_of_transposed
from medpretrain3d.backbones.checkpoints.normalization import normalization
from medpretrain3d.backbones.checkpoints.primus_layout import read_primus, turn_primus
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.backbones.checkpoints.release import RESTRICTION
from medpretrain3d.errors import UserError

TOKEN_ORDER, SIMMIM_TOKEN_ORDER = "hwd", "whd"
"""nnssl flattens tokens (h w d) to this day, but for its SimMIM trainers; only nnU-Net's copy of Primus was changed, in
June 2025. The tensors of all are called alike: the trainer's name tells."""

OWN_KEYS: Mapping[str, type] = {"pretraining": dict, RESTRICTION: str, "continued_from": dict, "volumes_seen": dict}
"""Entries of our cards for which nnssl has no key, and what each is: our export adds them to the file as they are."""


def read_nnssl(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Return the encoder of an nnssl checkpoint; None for other files.

    Raises:
        UserError: parts that the plan speaks of are not in the file, or of a variant that is not known here.
    """
    plan = raw.content.get("nnssl_adaptation_plan") or raw.sidecars.get("adaptation_plan.json")
    if not isinstance(plan, Mapping) or "key_to_encoder" not in plan:
        return None
    where = str(raw.path)
    weights, notes = without_aliases(raw.weights)
    turn, transposed = turn_of_transposed(where, (plan.get("pretrain_plan") or {}).get("transpose_forward"))
    notes += transposed
    is_transformer = "eva" in str(plan["key_to_encoder"]).split(".")
    if is_transformer:
        names = _primus_names(where, weights, plan)
        kwargs = _architecture_plans(plan).get("arch_kwargs") or {}
        patches = (kwargs.get("input_shape"), _configuration(plan, raw.content).get("patch_size"))
        asked = options.token_order or plan.get("token_order")
        by_default, message = _token_order(_trainer(raw, plan))
        notes += [] if asked else message
        order = asked or by_default
        own, architecture, more = read_primus(where, _renamed(weights, names), kwargs, patches, order)
        own, architecture = turn_primus(own, architecture, turn)
    else:
        names, message = _conv_names(where, weights, plan, options)
        own = turn.kernels(_renamed(weights, names))
        kwargs = with_turned_strides(_architecture_plans(plan).get("arch_kwargs"), turn)
        architecture, more = conv_architecture(where, own, kwargs)
        notes += message
    unused = dict(Counter(_part(name) for name in sorted(weights.keys() - names.values())))
    has_own_stem = any(name.startswith("stem.") for name in names)
    return EncoderFile(
        architecture,
        own,
        _card(raw, plan, turn),
        raw.sha256,
        "nnssl checkpoint",
        unused,
        (*notes, *more),
        heeded=("token_order",) if is_transformer else ("stem",) if has_own_stem else (),
    )


Names = dict[str, str]
"""Our name of a tensor to the file's."""


def _conv_names(
    where: str, weights: Mapping[str, Tensor], plan: Mapping[str, Any], options: ReadOptions
) -> tuple[Names, list[str]]:
    encoder, stem = str(plan["key_to_encoder"]), str(plan.get("key_to_stem") or "")
    if "stages" in _children(weights, encoder):  # the plan names the encoder as a whole
        encoder = f"{encoder}.stages"
    names, notes = _below(where, weights, encoder, "stages"), list[str]()
    if not stem.startswith(f"{encoder}."):  # the stem of a plain encoder is its first stage
        stem, notes = _stem(where, weights, stem, options.stem)
        names |= _below(where, weights, stem, "stem")
    return names, notes


def _stem(where: str, weights: Mapping[str, Tensor], default: str, wanted: str | None) -> tuple[str, list[str]]:
    """Return the prefix of the stem: the plan's, or of a network with one per data set the one that was asked for."""
    parent, _, name = default.rpartition(".")
    if (below := _children(weights, default)) and "convs" not in below:  # the plan names all stems at once
        parent, name = default, below[0]
    choices = _children(weights, parent) if parent.rpartition(".")[2] == "stem" else []
    if wanted is not None and wanted not in choices:
        raise UserError(f"{where}: got stem '{wanted}', wanted one of {', '.join(choices) or 'none: it has only one'}")
    how, name = ("as asked", wanted) if wanted else ("the file's default", name)
    if len(choices) < 2:
        return f"{parent}.{name}", []
    others = ", ".join(choice for choice in choices if choice != name)
    return f"{parent}.{name}", [f"{len(choices)} stems, one per data set: read with '{name}', {how}; others: {others}"]


def _children(weights: Mapping[str, Tensor], prefix: str) -> list[str]:
    depth = prefix.count(".") + 1
    return sorted({name.split(".")[depth] for name in weights if name.startswith(f"{prefix}.")})


def _primus_names(where: str, weights: Mapping[str, Tensor], plan: Mapping[str, Any]) -> Names:
    encoder, stem, positions = (str(plan.get(key) or "") for key in ("key_to_encoder", "key_to_stem", "key_to_lpe"))
    names = _below(where, weights, encoder, "eva") | _below(where, weights, stem, "down_projection")
    registers = f"{encoder.removesuffix('eva')}register_tokens"
    apart = {"eva.pos_embed": positions, "register_tokens": registers}
    return names | {new: old for new, old in apart.items() if old in weights}


def _below(where: str, weights: Mapping[str, Tensor], prefix: str, new_prefix: str) -> Names:
    """Return the names below a prefix, which ends at a dot, under another one."""
    found = {f"{new_prefix}{name.removeprefix(prefix)}": name for name in weights if name.startswith(f"{prefix}.")}
    if not found:
        parts = sorted({".".join(name.split(".")[:2]) for name in weights})
        raise UserError(
            f"{where}: its plan speaks of '{prefix}', the file holds {', '.join(parts[:8])}; they belong apart"
        )
    return found


def _renamed(weights: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    return {new: weights[old] for new, old in names.items()}


def _part(name: str) -> str:
    """Return `decoder` of `decoder.stages.0...`, `encoder.stem.004` of a stem that was not chosen."""
    parts = name.split(".")
    return ".".join(parts[: 3 if parts[1:2] == ["stem"] else 2 if parts[0] == "encoder" else 1])


def _architecture_plans(plan: Mapping[str, Any]) -> Mapping[str, Any]:
    return plan.get("architecture_plans") or {}


def _configuration(plan: Mapping[str, Any], content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the configuration of the training images: the one that was trained, or else the plan's first."""
    configurations = (plan.get("pretrain_plan") or {}).get("configurations") or {}
    name = (content.get("init_args") or {}).get("configuration_name")
    if name not in configurations:
        name = next(iter(configurations), None)
    return configurations.get(name) or {}


def _trainer(raw: RawCheckpoint, plan: Mapping[str, Any]) -> str:
    """Name of the class that trained the network, such as BaseEvaMAETrainer; empty where the file does not say."""
    return str(raw.content.get("trainer_name") or plan.get("trainer_name") or "")


def _token_order(trainer: str) -> tuple[str, list[str]]:
    """Return the order in which a trainer of nnssl flattens tokens, and a note where its name decides."""
    if "simmim" not in trainer.lower().replace("_", ""):
        return TOKEN_ORDER, []
    return SIMMIM_TOKEN_ORDER, [f"trained by {trainer}, and SimMIM of nnssl flattens tokens (w h d), unlike its MAE"]


def _card(raw: RawCheckpoint, plan: Mapping[str, Any], turn: Turn) -> dict[str, Any]:
    configuration, pretrain = _configuration(plan, raw.content), plan.get("pretrain_plan") or {}
    trainer = _trainer(raw, plan) or None
    added = {name: raw.content.get(name) for name in OWN_KEYS}
    own: dict[str, Any] = {name: value for name, value in added.items() if isinstance(value, OWN_KEYS[name])}
    return {
        "preprocessing": stated(
            spacing_mm=turn.stated(configuration.get("spacing")),
            patch=turn.stated(configuration.get("patch_size")),
            normalisation=configuration.get("normalization_schemes"),  # as cards spell it
            # These are no keys of nnssl: our export adds them.
            window=raw.content.get("window") or normalization(configuration.get("normalization_schemes")),
            unit=raw.content.get("unit"),
            stores=raw.content.get("stores"),
            recommended_patch=turn.stated(plan.get("recommended_downstream_patchsize")),
        ),
        **own,
        "pretraining": {
            **stated(
                paradigm=trainer,
                corpus=pretrain.get("dataset_name"),
                network=_architecture_plans(plan).get("arch_class_name"),
            ),
            **own.get("pretraining", {}),
        },
        "licence": raw.content.get("license") or raw.content.get("licence") or raw.licence,
        "citations": cited(raw.content.get("citations") or plan.get("citations")),
    }


def cited(citations: Any) -> list[str]:
    """Return one line per citation of a file's list, in which each entry has a type, a name and texts."""
    lines = []
    for entry in citations if isinstance(citations, list | tuple) else []:
        if isinstance(entry, Mapping):
            texts = entry.get("apa_citations") or entry.get("bibtex_citations") or []
            head = ": ".join(str(entry[key]) for key in ("type", "name") if entry.get(key))
            lead = f"{head}: " if entry.get("name") else ""  # our own export has entries without a name
            lines += [f"{lead}{text}" for text in ([texts] if isinstance(texts, str) else texts)] or [head]
        else:
            lines.append(str(entry))
    return lines

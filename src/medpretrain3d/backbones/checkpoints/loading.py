"""Putting an encoder's weights into a backbone: an event with a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from medpretrain3d.backbones.base import Backbone
from medpretrain3d.backbones.checkpoints.completeness import whole_architecture
from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.fitting import fit
from medpretrain3d.backbones.checkpoints.release import restrictions
from medpretrain3d.backbones.checkpoints.topology import Topology
from medpretrain3d.backbones.checkpoints.untold_differences import untold_differences
from medpretrain3d.configurable import Config, to_config
from medpretrain3d.errors import UserError


@dataclass(frozen=True)
class LoadReport:
    """Report of loading a state dict, tensor by tensor.

    Example:
        >>> from medpretrain3d.backbones import EncoderFile, ResEnc, load_encoder
        >>> from medpretrain3d.configurable import to_config
        >>> source = ResEnc("XXS")
        >>> encoder = EncoderFile(to_config(source), source.state_dict(), card={}, sha256="0" * 64)
        >>> report = load_encoder(ResEnc("XXS"), encoder)
        >>> print(report)
        45 of 45 backbone tensors matched; fresh: none; unused: none
          source: medpretrain3d encoder file; licence: not stated in the file
    """

    matched: int
    total: int
    fresh: dict[str, int]
    """Tensors of the receiving model that keep their random values, counted by part."""
    sha256: str
    unused: dict[str, int] = field(default_factory=dict)
    """Tensors of the file that went nowhere, counted by part."""
    adapted: tuple[str, ...] = ()
    """Of each tensor with another kernel or patch than the file's its name and how it was adapted."""
    notes: tuple[str, ...] = ()
    """What was changed on the way, and what the file's reader had to say."""
    source: str = ""
    licence: str | None = None
    restrictions: tuple[str, ...] = ()
    """What the licences of these weights, and of those that they were continued from, forbid."""
    citations: tuple[str, ...] = ()

    def __str__(self) -> str:
        message = [
            f"{self.matched} of {self.total} backbone tensors matched; fresh: {_counted(self.fresh)}; "
            f"unused: {_counted(self.unused)}"
        ]
        message += [f"  adapted: {tensor}" for tensor in self.adapted]
        message += [f"  note: {note}" for note in self.notes]
        message += [f"  source: {self.source}; licence: {self.licence or 'not stated in the file'}"]
        message += [f"  the licence forbids: {restriction}" for restriction in self.restrictions]
        message += [f"  cite: {citation}" for citation in self.citations]
        return "\n".join(message)


def load_encoder(
    backbone: Backbone,
    encoder: EncoderFile,
    model: nn.Module | None = None,
    taken: Collection[str] = (),
    topology: Topology = "same",
    num_groups: int | None = None,
) -> LoadReport:
    """Put the weights of an encoder file into a backbone, all that fit or none.

    A backbone may differ from the file's in five ways, each of which the report tells: other input channels, another
    grid of positions, instance norm instead of batch norm, more or fewer stages at the coarse end, other strides. Where
    it is asked for, kernels and the patch of a transformer may differ too.

    Args:
        backbone: receives the weights.
        encoder: what `read_encoder` gave.
        model: the detector around the backbone, only to report which of its parts stay random.
        taken: its tensors that the file has given already.
        topology: whether kernels and patches of another size are refused or adapted.
        num_groups: depth groups that are taken, from the input; those behind them keep their random values, as Yosinski
            et al. (2014) ask layer by layer what transfers. None takes all.

    Raises:
        UserError: the architectures differ in another way, a tensor is missing, left over or of another shape, or there
            are not so many groups.
    """
    encoder = replace(encoder, architecture=whole_architecture(encoder.architecture))
    receiver = backbone
    if encoder.architecture["class_path"] != to_config(backbone)["class_path"]:
        receiver = backbone.encoder
    ours = receiver.state_dict()
    fitted = fit(encoder, receiver, topology)
    theirs = fitted.weights
    missing, unused = sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())
    fresh_stages, unused_stages = _whole_stages(missing, theirs), _whole_stages(unused, ours)
    missing = [name for name in missing if _stage(name) not in fresh_stages]
    unused = [name for name in unused if _stage(name) not in unused_stages]
    shapes = [name for name in sorted(ours.keys() & theirs.keys()) if ours[name].shape != theirs[name].shape]
    if encoder.architecture["class_path"] != to_config(receiver)["class_path"] or missing or unused or shapes:
        can_adapt = not missing and not unused and _differ_in_topology(encoder, receiver, shapes)
        raise _mismatch(encoder, receiver, missing, unused, shapes, theirs, can_adapt)
    behind = _behind(receiver, num_groups)
    kept = {name: value for name, value in theirs.items() if name in ours and name not in behind}
    receiver.load_state_dict(kept, strict=False)
    notes = [*fitted.notes, *encoder.notes, *untold_differences(encoder, receiver)]
    if behind:
        notes.append(f"{num_groups} of {len(receiver.depth_groups())} depth groups taken, others keep random values")
    if statistics := {name.removesuffix(_MEAN) for name in kept if name.endswith(_MEAN)}:
        receiver.loaded_statistics = frozenset(statistics)
        receiver.train(receiver.training)
        if receiver.freeze_statistics:
            notes += [_FROZEN, _OF_HIDDEN_VOXELS] if _hides_voxels(encoder.card) else [_FROZEN]
            if fresh := sum(name.endswith(_MEAN) for name in ours.keys() - kept.keys()):
                notes.append(f"{fresh} batch norms came with no statistics and go by those of each batch")
    loaded = {id(parameter) for name, parameter in receiver.named_parameters() if name in kept}
    return LoadReport(
        matched=len(kept),
        total=len(ours),
        fresh=_by_stage(backbone, loaded) if model is None else _by_part(model, loaded, taken),
        sha256=encoder.sha256,
        unused=encoder.unused | {f"encoder.{stage}": count for stage, count in unused_stages.items()},
        adapted=tuple(fitted.adapted),
        notes=tuple(notes),
        source=encoder.format,
        licence=encoder.card.get("licence"),
        restrictions=tuple(restrictions(encoder.card)),
        citations=tuple(encoder.card.get("citations") or ()),
    )


def _behind(backbone: Backbone, num_groups: int | None) -> set[str]:
    """Return names of the tensors of all depth groups but the first ones: parameters, and the buffers beside them."""
    if num_groups is None:
        return set()
    groups = backbone.depth_groups()
    if not 0 < num_groups <= len(groups):
        raise UserError(
            f"model.init_groups {num_groups}: the encoder has {len(groups)} depth groups; take 1 .. {len(groups)}, or "
            "leave init_groups and init_from out for random weights"
        )
    left = {id(parameter) for group in groups[num_groups:] for parameter in group}
    behind = {name for name, parameter in backbone.named_parameters() if id(parameter) in left}
    modules = {name.rpartition(".")[0] for name in behind}
    return behind | {name for name, _ in backbone.named_buffers() if name.rpartition(".")[0] in modules}


def _stage(name: str) -> str:
    """Return `stages.4` of `stages.4.blocks.0.conv1.conv.weight`; empty for a tensor that belongs to no stage."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "stages" else ""


def _whole_stages(names: Iterable[str], other_side: Iterable[str]) -> dict[str, int]:
    """Return stages among the names of which the other side has nothing at all, with their number of tensors."""
    known = {_stage(name) for name in other_side}
    return dict(Counter(stage for name in names if (stage := _stage(name)) and stage not in known))


def _by_part(model: nn.Module, loaded: set[int], taken: Collection[str]) -> dict[str, int]:
    # What has no gradient, such as a teacher, copies what has one.
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    trained = [(name, parameter) for name, parameter in trained if name not in taken]
    return dict(Counter(name.partition(".")[0] for name, parameter in trained if id(parameter) not in loaded))


def _by_stage(backbone: Backbone, loaded: set[int]) -> dict[str, int]:
    names = [name for name, parameter in backbone.named_parameters() if id(parameter) not in loaded]
    return dict(Counter(_stage(name) or name.partition(".")[0] for name in names))


_MEAN = ".running_mean"
# Measured on the phantom: at 2e-3 several detectors found nothing at all, at 5e-4 none did (docs/experiments.md).
_FROZEN = (
    "batch norm keeps the file's statistics, since those of a small batch are no guide; scale and shift are trained; "
    "if nothing is learned, lower model.optim.lr: frozen statistics want a low one"
)
# Measured: means off by a standard deviation, variances by up to 3.6 times, AP10 0, not 0.4 (docs/experiments.md).
_OF_HIDDEN_VOXELS = (
    "warning: these statistics are of crops with hidden voxels, far from those of whole crops; set `freeze_statistics: "
    "false`, or begin from an encoder with `norm: instance`"
)
# Largest distance of a mean from that of whole crops of the phantom, in standard deviations, of a SegResNet with random
# weights: MAE 0.6, SliceWise 0.6, SparK (visible voxels alone) 1.0, ConsistentViews 0.6, painted crops 0.9 and 0.2.
_HIDING = {"mae", "slicewise", "spark", "consistentviews", "modelsgenesis", "swinmultitask"}


def _hides_voxels(card: Mapping[str, Any]) -> bool:
    """Return whether pretraining, or an objective beside it, showed the network crops of which voxels were hidden."""
    part: Any = card.get("pretraining")
    names = [str(part.get("method"))] if isinstance(part, Mapping) else []
    for key in ("objective", "init_args", "beside", "class_path"):
        part = part.get(key) if isinstance(part, Mapping) else None
    return any(name.rpartition(".")[2].lower() in _HIDING for name in (*names, str(part)))


def _mismatch(
    encoder: EncoderFile,
    receiver: Backbone,
    missing: list[str],
    unused: list[str],
    shapes: list[str],
    theirs: dict[str, Tensor],
    can_adapt: bool,
) -> UserError:
    details = [f"{len(missing)} missing ({missing[0]})"] if missing else []
    details += [f"{len(unused)} unused ({unused[0]})"] if unused else []
    if shapes:
        first = shapes[0]
        shape = tuple(receiver.state_dict()[first].shape)
        details.append(f"{len(shapes)} of another shape ({first}: file {tuple(theirs[first].shape)}, model {shape})")
    advice = "choose the backbone of the encoder file or another encoder"
    if can_adapt:
        advice = f"set model.init_topology to adapt, which fits kernels and patches, or {advice}"
    return UserError(
        f"encoder of another architecture: got {_short(encoder.architecture)}, wanted {_short(to_config(receiver))}; "
        f"{'; '.join(details)}; {advice}"
    )


def _differ_in_topology(encoder: EncoderFile, receiver: Backbone, names: Sequence[str]) -> bool:
    """Return whether tensors whose shapes differ fit once kernels and patches are adapted."""
    adapted, ours = fit(encoder, receiver, "adapt").weights, receiver.state_dict()
    return bool(names) and all(adapted[name].shape == ours[name].shape for name in names)


def _counted(parts: dict[str, int]) -> str:
    return ", ".join(f"{part} ({count})" for part, count in parts.items()) or "none"


def _short(config: Config) -> str:
    arguments = ", ".join(f"{name}={value}" for name, value in config["init_args"].items() if value is not None)
    return f"{config['class_path'].rpartition('.')[2]}({arguments})"

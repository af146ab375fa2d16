"""Neck and heads that another detector has learned, put into a detector: what fits, with a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from medpretrain3d.backbones import DetectorPart
from medpretrain3d.configurable import from_config
from medpretrain3d.detection.base import Detector, Part
from medpretrain3d.detection.mask_head import MaskHead
from medpretrain3d.errors import UserError
from medpretrain3d.finite import require_finite

Init = Literal["encoder", "neck", "detector", "all"]
"""How much of a file is taken: `detector` leaves class tower and class layers fresh, `all` the class layers alone."""
TAKEN: Mapping[Init, tuple[Part, ...]] = {
    "encoder": (),
    "neck": ("neck",),
    "detector": ("neck", "box"),
    "all": ("neck", "box", "class"),
}
WORDS: Mapping[Part, str] = {"neck": "neck", "box": "box head", "class": "class tower", "labels": "class layers"}


@dataclass(frozen=True)
class TransferReport:
    """What of a detector beside its encoder came from a file."""

    init: Init
    taken: tuple[str, ...]
    """Names of the detector's tensors that are the file's now."""
    total: int
    """Tensors of the detector beside its encoder."""
    taken_parts: dict[str, int] = field(default_factory=dict)
    """How many of each part."""
    fresh: dict[str, int] = field(default_factory=dict)
    """How many of each part keep their random values."""
    unused: dict[str, int] = field(default_factory=dict)
    """Tensors of the file that went nowhere, by part."""
    notes: tuple[str, ...] = ()
    """Why tensors of parts that were asked for are fresh."""

    def __str__(self) -> str:
        counted = [
            ", ".join(f"{part} ({count})" for part, count in parts.items()) or "none"
            for parts in (self.taken_parts, self.fresh, self.unused)
        ]
        lines = [
            f"init {self.init}: {len(self.taken)} of {self.total} tensors beside the encoder taken: {counted[0]}; "
            f"fresh: {counted[1]}; unused: {counted[2]}"
        ]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def load_detector(detector: Detector, part: DetectorPart, init: Init, source: str = "the file") -> TransferReport:
    """Put neck and heads of a file into a detector: tensors of the same name and shape that mean the same.

    The neck is taken where both join the same levels at the same width, heads where the neck that they read is, what
    is relative to anchors or lengths where these are the same, a mask head where its own neck joins the same levels,
    what reads the last of several layers where there are as many.

    Args:
        detector: receives the weights.
        part: what an encoder file, bundle or checkpoint holds.
        init: how much of it is taken.
        source: where it is from, for messages.

    Raises:
        UserError: the file's detector cannot be built, or has values that are not finite.

    Example:
        >>> from medpretrain3d.backbones import DetectorPart, ResEnc
        >>> from medpretrain3d.configurable import to_config
        >>> from medpretrain3d.detection import FCOS
        >>> from medpretrain3d.detection.transfer import load_detector
        >>> theirs = FCOS(ResEnc("XXS"), num_classes=3, fpn_channels=16, head_convs=1)
        >>> part = DetectorPart.of_state(to_config(theirs), theirs.state_dict())
        >>> report = load_detector(FCOS(ResEnc("XXS"), 1, fpn_channels=16, head_convs=1), part, "detector")
        >>> report.taken_parts, report.fresh
        ({'neck': 10, 'box head': 8}, {'class tower': 3, 'class layers': 2})
    """
    with torch.device("meta"):
        twin = from_config(part.architecture, Detector)
    require_finite(source, part.weights, "the file is damaged or its training diverged; take another one")
    state = {name: value for name, value in detector.state_dict().items() if not name.startswith("backbone.")}
    of_neck = _misfit_of_neck(detector, twin, state, part)
    taken, fresh, why = [], Counter[str](), dict[str, list[str]]()
    for name, value in state.items():
        its_part = part_of(detector, name)
        reason = of_neck or _misfit(name, detector, twin, state, part)
        if its_part in TAKEN[init] and not reason and value.shape == part.weights[name].shape:
            taken.append(name)
            continue
        fresh[WORDS[its_part]] += 1
        if its_part in TAKEN[init]:
            why.setdefault(reason or "of another shape in the file", []).append(name)
    detector.load_state_dict({name: part.weights[name] for name in taken}, strict=False)
    return TransferReport(
        init,
        tuple(taken),
        len(state),
        dict(Counter(WORDS[part_of(detector, name)] for name in taken)),
        dict(fresh),
        dict(Counter(WORDS[part_of(twin, name)] for name in sorted(part.weights) if name not in taken)),
        tuple(f"{_some(names)} fresh: {reason}" for reason, names in why.items()),
    )


def part_of(detector: Detector, name: str) -> Part:
    """Return the part that a tensor beside the backbone is of, by the longest beginning of its name that is known."""
    known = [prefix for prefix in detector.parts if name.startswith(prefix)]
    return detector.parts[max(known, key=len)] if known else "class"


def _misfit_of_neck(detector: Detector, twin: Detector, state: Mapping[str, Tensor], part: DetectorPart) -> str:
    """Return why the neck of the file means nothing here, nor what reads it; empty where it fits."""
    if detector.geometry() != twin.geometry():
        return f"the neck is of {detector.geometry()}, in the file of {twin.geometry()}"
    names = [name for name in state if name in part.weights and part_of(detector, name) == "neck"]
    others = [name for name in names if state[name].shape != part.weights[name].shape]
    if others or not names:
        return "another neck in the file" if not names else f"another width of the neck ({others[0]})"
    return ""


def _misfit(name: str, detector: Detector, twin: Detector, state: Mapping[str, Tensor], part: DetectorPart) -> str:
    """Return why a tensor of the file means nothing here; empty where it fits, its shape aside."""
    if name not in part.weights:
        return "not in the file"
    if name.startswith(detector.shaped_by_anchors) and detector.anchoring() != twin.anchoring():
        return "relative to other anchors or lengths than in the file"
    for layers in (layers for reader, layers in detector.behind_layers.items() if name.startswith(reader)):
        num_ours, num_theirs = _num_layers(state, layers), _num_layers(part.weights, layers)
        if num_ours != num_theirs:
            return f"behind {num_ours} layers of {layers}*, in the file behind {num_theirs}"
    ours, theirs = (getattr(one, "mask_head", None) for one in (detector, twin))
    if not (name.startswith("mask_head.") and isinstance(ours, MaskHead) and isinstance(theirs, MaskHead)):
        return ""
    here, there = ours.options.level, theirs.options.level
    return "" if here == there else f"masks of level {here}, in the file of level {there}"


def _num_layers(names: Iterable[str], prefix: str) -> int:
    """Return of how many numbered layers there are tensors among the names; those without weights do not count."""
    return len({name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix)})


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def chosen_init(init: Init | None, part: DetectorPart | None, is_pretrained: bool, source: str | None) -> Init:
    """Return how much of a file is taken where nothing was said: its detector, where it was pretrained as one.

    Raises:
        UserError: more than an encoder was asked for of a file that holds no more, or of none.
    """
    if init not in (None, "encoder") and part is None:
        raise UserError(
            f"model.init {init}: {source or 'no model.init_from'} holds no neck and heads; wanted an encoder file of "
            "DetectorPretraining, a detector bundle or a checkpoint of a run; or set model.init to encoder"
        )
    return init or ("detector" if part is not None and is_pretrained else "encoder")

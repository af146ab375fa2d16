"""Differences of two networks that no tensor's shape shows: the weights of one fit the other, the features do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from medpretrain3d.backbones.base import Backbone
from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.configurable import from_config, to_config

# Arguments that change shapes or names, and so are checked tensor by tensor; that change no feature; that are but the
# first values of tensors, which the file brings; or that show in the pyramid.
_SEEN_ELSEWHERE = {
    *("preset", "in_channels", "channels", "convs", "kernel_sizes", "width", "depth", "position_grid"),
    *("checkpointing", "drop_path", "drop_path_uniform", "freeze_statistics"),
    *("layer_scale", "rope_base"),
    "strides",
}


def untold_differences(encoder: EncoderFile, receiver: Backbone) -> list[str]:
    """List what differs between the network of a file and one that took its weights, in words; strides first.

    Args:
        encoder: what was read.
        receiver: of the same class.
    """
    with torch.device("meta"):
        twin = from_config(encoder.architecture, Backbone)
    theirs, ours = [[level.stride for level in backbone.levels] for backbone in (twin, receiver)]
    shared = min(len(theirs), len(ours))
    facts, assumed = list[str](), list[str]()
    of_levels = [("strides", "levels have strides", theirs[:shared], ours[:shared])]
    of_arguments = [(name, f"{name} is", *values) for name, *values in _differing(twin, receiver)]
    for name, what, of_file, own in (*of_levels, *of_arguments):
        if of_file == own:
            continue
        if name in encoder.assumed:
            assumed.append(
                f"{what} {own}, and no tensor of the file tells its own ({of_file} was assumed): features are the "
                f"same if it was trained with {own}"
            )
        else:
            facts.append(f"{what} {own}, in the file {of_file}")
    return [
        *(f"{difference}: features differ until fine-tuned" for difference in facts),
        *assumed,
    ]


def _differing(theirs: Backbone, ours: Backbone) -> Iterator[tuple[str, Any, Any]]:
    """Iterate over the arguments that differ: name, value in the file, value here; then those of what both wrap."""
    a, b = _arguments(theirs), _arguments(ours)
    for name in sorted((a.keys() & b.keys()) - _SEEN_ELSEWHERE):
        one, other = _plain(a[name]), _plain(b[name])
        is_wrapped = theirs.encoder is not theirs and isinstance(one, Mapping)
        # Of more or fewer stages, whose tensors are told as fresh or unused; as many are those of a `TokenPyramid`.
        is_longer = name == "blocks" and (not isinstance(one, list) or len(one) != len(other or ()))
        if None not in (one, other) and one != other and not is_wrapped and not is_longer:
            yield name, a[name], b[name]
    if theirs.encoder is not theirs and ours.encoder is not ours:
        yield from _differing(theirs.encoder, ours.encoder)


def _arguments(backbone: Backbone) -> dict[str, Any]:
    """Return a network's arguments, with the heads that a preset says: the other of two may name its own."""
    arguments: dict[str, Any] = {**to_config(backbone)["init_args"]}
    if "heads" in arguments and arguments["heads"] is None:
        arguments["heads"] = next((part.heads for part in backbone.modules() if hasattr(part, "heads")), None)
    return arguments


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value

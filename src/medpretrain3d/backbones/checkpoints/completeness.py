"""Whether a checkpoint holds the network that it speaks of: every tensor, in its shape, and none besides."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from medpretrain3d.backbones.base import Backbone
from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.configurable import Config, Configurable, from_config, plugins_in, to_config
from medpretrain3d.errors import UserError
from medpretrain3d.finite import require_finite


def check_complete(path: Path, encoder: EncoderFile) -> None:
    """Compare the weights with the state dict of the described network, which is built without memory.

    Raises:
        UserError: a tensor is missing, left over, of another shape or not finite; or the config is not that of a
            backbone.
    """
    backbone = outline(path, encoder.architecture, encoder.weights)
    if not isinstance(backbone, Backbone):
        raise UserError(f"{path}: describes a {type(backbone).__name__}, wanted a backbone; export it again")
    message = differences(backbone.state_dict(), encoder.weights)
    if message:
        raise UserError(
            f"{path}: its weights are not the {backbone.name} of {encoder.format} that its plan describes: "
            f"{message}; the file is incomplete or of a variant that is not known here"
        )
    require_finite(str(path), encoder.weights, "the file is damaged or its training diverged; take another one")


def whole_architecture(config: Config) -> Config:
    """Return a network's config with its class by module and name, and all arguments, as `to_config` has them.

    A file of others may name a class by its package and leave out defaults, which then are no difference.

    Raises:
        UserError: no network can be made of it.
    """
    with torch.device("meta"):
        return to_config(from_config(config, Backbone))


def check_described(part: Configurable) -> list[dict[str, Any]]:
    """Refuse what the file that a run writes at its end could not name.

    Returns:
        The plugins that it is of, as a file names them.

    Raises:
        UserError: it has a class of no loaded plugin, or an argument that is no plain data.
    """
    try:
        return plugins_in(json.loads(json.dumps(to_config(part))))
    except (TypeError, UserError) as error:
        raise _unreadable(part, error) from error


def check_rebuildable(part: Configurable) -> None:
    """Refuse, before any time is spent, what could not be made again from the file that a run writes at its end.

    Raises:
        UserError: see `check_described`; or its state dict does not follow from its arguments.
    """
    check_described(part)
    name = type(part).__name__
    try:
        with torch.device("meta"):
            twin = from_config(to_config(part), type(part))
    except UserError as error:
        raise _unreadable(part, error) from error
    message = ""
    if isinstance(part, nn.Module) and isinstance(twin, nn.Module):
        message = differences(part.state_dict(), twin.state_dict())
    if message:
        raise UserError(
            f"{name}: its arguments make another network than the one here: {message}; build everything in the "
            "constructor, from its arguments alone"
        )


def _unreadable(part: Configurable, error: Exception) -> UserError:
    return UserError(f"{type(part).__name__}: could not be read from the file that a run writes: {error}")


def outline(path: Path, config: Config, weights: Mapping[str, Tensor]) -> Any:
    """Build what a file describes without memory, and no further than there are weights for.

    Raises:
        UserError: it cannot be built, or has many more parts than the file has tensors; begins with the path.
    """
    try:
        with torch.device("meta"), _at_most(1000 + 20 * len(weights)):
            return from_config(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def differences(wanted: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> str:
    """Compare a state dict with a network's: missing, unused and mismatched tensors as text; empty if there is none."""
    faults = {
        "missing": sorted(wanted.keys() - got.keys()),
        "unused": sorted(got.keys() - wanted.keys()),
        "of another shape": [
            f"{name}: file {tuple(got[name].shape)}, network {tuple(wanted[name].shape)}"
            for name in sorted(wanted.keys() & got.keys())
            if wanted[name].shape != got[name].shape
        ],
    }
    return "; ".join(f"{len(names)} tensors {fault} ({names[0]})" for fault, names in faults.items() if names)


@contextmanager
def _at_most(num_parts: int) -> Iterator[None]:
    """Within, a network of more modules and parameters is not built: a file may claim a million blocks."""
    count = 0

    def count_part(*_: object) -> None:
        nonlocal count
        count += 1
        if count > num_parts:
            raise UserError("describes a network of many more parts than the file has weights; export it again")

    hooks = [
        torch_module.register_module_module_registration_hook(count_part),
        torch_module.register_module_parameter_registration_hook(count_part),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

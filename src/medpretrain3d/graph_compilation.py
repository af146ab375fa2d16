"""Compiling the parts of a network that hold its time with `torch.compile`, in place: names of weights stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from torch import nn

from medpretrain3d.randomness import keep_draws_out_of_graphs

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "eager", "aot_eager"]
"""Modes of `torch.compile` with its inductor, of which `reduce-overhead` and `max-autotune` replay CUDA graphs where
shapes are static; `eager` and `aot_eager` trace without generating code, to find what cannot be traced."""
MODES: tuple[str, ...] = get_args(CompileMode)


def network_parts(network: nn.Module) -> dict[str, nn.Module]:
    """Return the children that have weights, by name; those of a list one by one."""
    parts: dict[str, nn.Module] = {}
    for name, child in network.named_children():
        if isinstance(child, nn.ModuleList):
            parts |= {f"{name}.{index}": entry for index, entry in enumerate(child)}
        else:
            parts[name] = child
    return {name: part for name, part in parts.items() if next(part.parameters(), None) is not None}


def compile_parts(parts: Mapping[str, nn.Module], mode: CompileMode) -> None:
    """Compile each part where it is; what happens between them (drawing, matching, losses) stays as it is.

    Each is compiled when it is first called, which takes tens of seconds. Its weights keep their names, so a checkpoint
    with and one without are the same. A copy of a part, such as averaged weights, is not compiled.
    """
    keep_draws_out_of_graphs()
    options: dict[str, Any] = {"backend": mode} if mode in ("eager", "aot_eager") else {"mode": mode}
    for part in parts.values():
        part.compile(**options)

"""Compiling the parts of a network that hold its time with `torch.compile`, in place: names of weights stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from torch import nn

from medpretrain3d.errors import UserError
from medpretrain3d.randomness import keep_draws_out_of_graphs

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "eager", "aot_eager"]
"""Modes of `torch.compile` with its inductor, of which `reduce-overhead` and `max-autotune` replay CUDA graphs where
shapes are static; `eager` and `aot_eager` trace without generating code, to find what cannot be traced."""
MODES: tuple[str, ...] = get_args(CompileMode)
GRAPHS_PER_PART = 8
"""For training and validation, several shapes, and the pieces around what is drawn; PyTorch's own limit for one."""


def network_parts(network: nn.Module) -> dict[str, nn.Module]:
    """Return the outermost modules with weights that can be called, by name: children, those of a container one by one.

    A container is what has no `forward`, such as a list; the compiler compiles calls.
    """
    parts: dict[str, nn.Module] = {}
    for name, child in network.named_children():
        if type(child).forward is nn.Module.forward:
            parts |= {f"{name}.{inner}": part for inner, part in network_parts(child).items()}
        elif next(child.parameters(), None) is not None:
            parts[name] = child
    return parts


def compile_parts(parts: Mapping[str, nn.Module], mode: CompileMode) -> None:
    """Compile each part where it is; what happens between them (drawing, matching, losses) stays as it is.

    Each is compiled when it is first called, which takes tens of seconds. Its weights keep their names, so a checkpoint
    with and one without are the same. A copy of a part, such as averaged weights, is not compiled.

    Args:
        parts: by name.
        mode: of the compiler.

    Raises:
        UserError: there is no such mode.
    """
    if mode not in MODES:
        raise UserError(f"compile: got '{mode}', wanted one of {', '.join(MODES)}")
    from torch._dynamo import config  # takes a second to import, of everyone

    keep_draws_out_of_graphs()
    # PyTorch counts the graphs of all modules that are compiled in place together, and would run those beyond the
    # limit (8) as they are, with no more than a warning: the ninth part of Deformable DETR for one.
    limits: Any = config
    limits.recompile_limit += GRAPHS_PER_PART * len(parts)
    options: dict[str, Any] = {"backend": mode} if mode in ("eager", "aot_eager") else {"mode": mode}
    for part in parts.values():
        part.compile(**options)

"""The contract of the zoo: what any objective and any detector may expect of a backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils.checkpoint import checkpoint

from medpretrain3d.backbones.norm import ONE_VOXEL
from medpretrain3d.configurable import Configurable
from medpretrain3d.errors import UserError
from medpretrain3d.randomness import drawing_from, sample_seeds

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Level:
    """One feature map of the pyramid: its channels and its stride in input voxels (D, H, W).

    Example:
        >>> from medpretrain3d.backbones import ResEnc
        >>> ResEnc("XXS").levels[1]
        Level(channels=16, stride=(2, 2, 2))
    """

    channels: int
    stride: tuple[int, int, int]


class Backbone(Configurable, nn.Module):
    """A 3D encoder. Subclasses set `levels` (finest first) and return one tensor per level.

    `forward` maps an image (B, C, D, H, W) to L tensors (B, C_l, D / s_d, H / s_h, W / s_w); D, H and W are multiples
    of the coarsest stride. The constructor takes `in_channels` and `checkpointing`, and builds everything from its
    arguments alone. Every parameter gets a gradient when all levels are used; nothing is drawn but from `draw_bits`;
    features are close under bf16 autocast; `torch.export` can trace it.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from medpretrain3d.backbones import Backbone, Level
        >>> class Strided(Backbone):
        ...     def __init__(self, in_channels: int = 1) -> None:
        ...         super().__init__()
        ...         self.in_channels, self.checkpointing = in_channels, False
        ...         self.levels = (Level(channels=8, stride=(2, 2, 2)),)
        ...         self.conv = nn.Conv3d(in_channels, 8, kernel_size=3, stride=2, padding=1)
        ...     def forward(self, image):
        ...         self.check_input(image)
        ...         return [self.run_block(self.conv, image)]
        >>> [features.shape for features in Strided()(torch.zeros(1, 1, 16, 16, 16))]
        [torch.Size([1, 8, 8, 8, 8])]
    """

    levels: tuple[Level, ...]
    in_channels: int
    checkpointing: bool = False
    """Whether activations are computed again in the backward pass instead of kept."""
    freeze_statistics: bool = True
    """Whether batch norms keep the statistics that an encoder file brought: those of a batch of one to four volumes
    would be too few to go by. Without such a file they are those of each batch."""
    loaded_statistics: frozenset[str] = frozenset()
    """Names of the batch norms of which an encoder file brought some."""
    citation: ClassVar[str] = ""
    """Paper of the architecture: authors, year, identifier."""
    sizes: ClassVar[tuple[dict[str, Any], ...]] = ()
    """Constructor arguments of the sizes worth listing: the published ones and those of ours for small machines."""
    tiny: ClassVar[Mapping[str, Any]] = {}
    """Constructor arguments of a network of some thousand parameters, of which every contract test is asked; wide
    enough to learn something of every objective in thirty steps."""

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return one feature map per level, finest first."""
        raise NotImplementedError("a Backbone subclass implements forward")

    @property
    def name(self) -> str:
        """Class and preset, as in `ResEnc-L`."""
        preset = self._init_args.get("preset")
        return f"{type(self).__name__}-{preset}" if preset else type(self).__name__

    def train(self, mode: bool = True) -> Self:
        """Set training mode, in which batch norms with loaded statistics go on normalizing by these."""
        super().train(mode)
        if self.loaded_statistics and self.freeze_statistics:
            for name, module in self.named_modules():
                if isinstance(module, _BatchNorm) and name in self.loaded_statistics:
                    module.eval()
        return self

    def num_parameters(self) -> int:
        """Return the number of trainable parameters of the encoder."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def encoder(self) -> Backbone:
        """The part that pretraining trains and an encoder file fills: all of it, unless a subclass wraps another."""
        return self

    def depth_groups(self) -> list[list[nn.Parameter]]:
        """Every parameter once, in groups from the input to the output: what layer-wise rates and freezing count by.

        A child module is one group, a child `ModuleList` one group per entry; parameters that no child owns are of the
        first group. Subclasses whose children are not in the order of the computation override this.
        """
        groups: list[list[nn.Parameter]] = []
        for child in self.children():
            parts = list(child) if isinstance(child, nn.ModuleList) else [child]
            groups += [parameters for part in parts if (parameters := list(part.parameters()))]
        groups[0] = [*self.parameters(recurse=False), *groups[0]]
        return groups

    def sharded_blocks(self) -> list[nn.Module]:
        """Return what is gathered one after the other where weights are dealt out over processes; the rest is together.

        Entries of a `ModuleList` that a subclass calls as modules; none, unless it says so.
        """
        return []

    def run_block(self, block: Callable[..., Tensor], *inputs: Tensor | int) -> Tensor:
        """Return the block's output; with `checkpointing`, its inner activations are not kept."""
        if self.checkpointing and torch.is_grad_enabled():
            modes = _get_current_function_mode_stack()  # an objective may run the network in one, on blocks
            drawn = drawing_from()
            return checkpoint(
                block,
                *inputs,
                use_reentrant=False,
                context_fn=lambda: (nullcontext(), _recomputing(block, modes, drawn)),
            )
        return block(*inputs)

    def check_input(self, image: Tensor) -> None:
        """Refuse an image that the pyramid cannot divide, or whose coarsest features batch norms cannot learn from.

        Raises:
            UserError: wrong number of axes or channels, a size that is no multiple of the coarsest stride, or batch
                norms in training that see one image with a single voxel at that stride.
        """
        if image.ndim != 5 or image.shape[1] != self.in_channels:
            raise UserError(
                f"{type(self).__name__}: got an image of shape {tuple(image.shape)}, "
                f"wanted (B, {self.in_channels}, D, H, W); set in_channels to the channels of the data"
            )
        check_patch(tuple(image.shape[2:]), self.levels[-1].stride)
        is_one_voxel = self.training and len(image) == 1 and tuple(image.shape[2:]) == self.levels[-1].stride
        if is_one_voxel and any(module.training for module in self.modules() if isinstance(module, _BatchNorm)):
            raise UserError(ONE_VOXEL)


def sharded_blocks(network: nn.Module) -> list[nn.Module]:
    """Return the blocks of all backbones in a network, each once: of a slow teacher's as well."""
    blocks = [block for part in network.modules() if isinstance(part, Backbone) for block in part.sharded_blocks()]
    return list(dict.fromkeys(blocks))


@contextmanager
def _recomputing(
    block: Callable[..., Tensor], modes: list[TorchFunctionMode], drawn: tuple[Tensor, int] | None
) -> Iterator[None]:
    """The modes and random numbers of the first pass, which has already moved the running statistics of batch norms."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm)] if isinstance(block, nn.Module) else []
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        with ExitStack() as stack:
            for mode in modes:
                stack.enter_context(mode)
            if drawn is not None:
                stack.enter_context(sample_seeds(*drawn))
            yield
    finally:
        for norm, momentum, count in before:
            norm.momentum, norm.num_batches_tracked = momentum, count


def check_patch(patch: tuple[int, ...], stride: tuple[int, int, int], whose: str = "the coarsest stride") -> None:
    """Refuse a patch (D, H, W) that is no multiple of a stride, and name the sizes that would do.

    Args:
        patch: of voxels.
        stride: along the same axes.
        whose: what the message calls it.

    Raises:
        UserError: with the axis, its size, and the next smaller and larger multiple.
    """
    for axis, size, step in zip("DHW", patch, stride, strict=True):
        if size % step or size < step:
            smaller, larger = size // step * step, (size // step + 1) * step
            choices = f"{smaller} or {larger}" if smaller else f"{larger}"
            raise UserError(
                f"patch {tuple(patch)}: {axis} is {size}, must be a multiple of {whose} {step}; use {choices}"
            )

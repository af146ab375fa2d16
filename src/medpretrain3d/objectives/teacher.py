"""The slow copy of a network that a student learns from."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medpretrain3d.backbones import Backbone
from medpretrain3d.precision.split_weights import whole


class Teacher(nn.Module):
    """Exponential moving average of a student's weights (Tarvainen and Valpola, 2017).

    Its weights have no gradient, are part of the state dict, so that a run resumes exactly, and never of the encoder
    file. `start_from` once the student's weights are final, then `follow` after every step of the optimiser.

    Args:
        student: what is copied.
        momentum: share of the teacher that stays in each step.
    """

    def __init__(self, student: nn.Module, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.network = copy.deepcopy(student).requires_grad_(False)
        self.train()

    @torch.no_grad()
    def forward(self, x: Tensor) -> list[Tensor] | Tensor:
        """Run the teacher network on its input, without gradient."""
        result: list[Tensor] | Tensor = self.network(x)
        return result

    def train(self, mode: bool = True) -> Teacher:
        """Set batch norms to see the batch or loaded statistics as the student's do; drop path and the like are off."""
        super().train(mode)  # the backbones within keep batch norms with loaded statistics in evaluation mode
        for module in self.network.modules():
            if not isinstance(module, _BatchNorm):
                module.training = False
        return self

    @torch.no_grad()
    def start_from(self, student: nn.Module) -> None:
        """Take over the student's weights, and whether its batch norms go by statistics of a file."""
        self.network.load_state_dict(student.state_dict())
        for ours, theirs in zip(self.network.modules(), student.modules(), strict=True):
            if isinstance(ours, Backbone) and isinstance(theirs, Backbone):
                ours.loaded_statistics = theirs.loaded_statistics
        self.train(self.training)

    @torch.no_grad()
    def follow(self, student: nn.Module) -> None:
        """Move the weights towards the student's; statistics of batch norms are copied."""
        torch._foreach_lerp_(
            list(self.network.parameters()), [whole(one) for one in student.parameters()], 1 - self.momentum
        )
        if statistics := list(self.network.buffers()):
            torch._foreach_copy_(statistics, list(student.buffers()))

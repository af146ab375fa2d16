"""Weights, gradients and optimizer states dealt out over the processes: FSDP (Zhao et al., 2023, arXiv:2304.11277)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.overrides.distributed import _sync_module_states
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import SGD

from medpretrain3d.engine.ddp import PatientDDP
from medpretrain3d.errors import UserError

ENCODE = "encode"
"""The method that gathers weights as `forward` does."""


@runtime_checkable
class Shardable(Protocol):
    """A module of a stage that trains in the forward pass of one part."""

    def sharded_parts(self) -> list[nn.Module]:
        """Return what is gathered together, one after the other: blocks first, what holds all of them last.

        That has a method `encode` beside `forward`, which all processes may call together.
        """


class ShardedDDP(PatientDDP):
    """Steps as those of DDP, where every process keeps its share of each weight, gradient and optimizer state.

    A block's weights are gathered when its forward or backward pass needs them. Checkpoints hold whole weights, so that
    a run goes on with other numbers of processes and without shards; at the end of training each process has the whole
    weights on the CPU, and what a run writes is what it writes otherwise. It is PyTorch's FSDP2, since Lightning's
    strategies know no CPU.
    """

    is_sharded = True

    def setup(self, trainer: L.Trainer) -> None:
        """Refuse what would need the weights whole in every step.

        Raises:
            UserError: averaged weights, or a stage that does not train in one forward pass.
        """
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # a list of them
        if any(isinstance(one, WeightAveraging) for one in callbacks):
            raise UserError(
                "trainer.strategy fsdp2: got averaged weights (trainer.callbacks), which are whole; leave them out or "
                "take ddp"
            )
        if not isinstance(self.lightning_module, Shardable):
            raise UserError(
                "trainer.strategy fsdp2: deals out the weights of pretraining alone; take ddp. Each process validates "
                "whole volumes of its own, and weights that are dealt out are gathered by all processes at once"
            )
        super().setup(trainer)
        self._step_by_kernels_for_shards()

    def configure_ddp(self) -> None:
        """Deal the weights out, those of the first process."""
        module = self.lightning_module
        assert isinstance(module, Shardable)
        _sync_module_states(module)
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        parts = module.sharded_parts()
        for part in parts:
            fully_shard(part, mesh=mesh)
        register_fsdp_forward_method(parts[-1], ENCODE)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return whole weights; every process calls this."""
        return {name: whole(value) for name, value in super().lightning_module_state_dict().items()}

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Return whole states; every process calls this."""
        state: dict[str, Any] = super().optimizer_state(optimizer)
        parts = {key: {name: whole(value) for name, value in one.items()} for key, one in state["state"].items()}
        return {**state, "state": parts}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Deal whole states out as the weights are; those were whole when they were read."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            parts = {
                index: {name: _dealt_like(value, weights[index]) for name, value in one.items()}
                for index, one in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": parts})
        self._step_by_kernels_for_shards()

    def _step_by_kernels_for_shards(self) -> None:
        """Take the fused kernel out of SGD, which torch 2.14 has for whole weights only; that of AdamW takes shards."""
        for optimizer in self.optimizers:
            if isinstance(optimizer, SGD):
                for group in optimizer.param_groups:
                    group["fused"] = False

    def on_train_end(self) -> None:
        """Give every process the whole weights, for what is written at the end."""
        super().on_train_end()
        assert self.lightning_module is not None
        for module in self.lightning_module.modules():
            for name, weight in module._parameters.items():
                if isinstance(weight, DTensor):
                    module._parameters[name] = nn.Parameter(whole(weight).cpu(), weight.requires_grad)
            if isinstance(module, FSDPModule):  # which moves its shards when it is moved, and has none any more
                module.__class__ = type(module).__bases__[1]
                vars(module).pop(ENCODE, None)


def whole(value: Any) -> Any:
    """Return the tensor that the shards of all processes make, which all of them call; anything else as it is."""
    return value.full_tensor().detach() if isinstance(value, DTensor) else value


def _dealt_like(value: Any, weight: Tensor) -> Any:
    if not isinstance(weight, DTensor) or not isinstance(value, Tensor) or value.shape != weight.shape:
        return value
    return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements, src_data_rank=None)

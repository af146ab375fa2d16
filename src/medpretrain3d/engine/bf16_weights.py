"""Training with weights and gradients in bf16, and an optimizer that steps in fp32 (`trainer.precision bf16-true`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.plugins import Precision as PrecisionPlugin
from torch import Tensor, nn
from torch.optim import Optimizer

from medpretrain3d.engine.distributed import SHARDED
from medpretrain3d.errors import UserError
from medpretrain3d.precision.mixed import autocast
from medpretrain3d.precision.split_weights import is_split, join_weights, put_whole, split_weights, whole


class BF16Weights(PrecisionPlugin):
    """Weights of linear maps and convolutions are bf16 and so are their gradients; the rest is as in `bf16-mixed`.

    The optimizer steps on weights in fp32, which exist during its step alone and are put together from the weight and
    the sixteen bits kept beside it (`precision/split_weights.py`); its states and the clipping of gradients are fp32.
    With AdamW a weight takes 14 bytes in place of 16, and no copy of it is cast in each step, which are two more.

    Args:
        device_type: where the network is trained.
    """

    precision: Any = "bf16-true"

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self._device = torch.device(device_type)
        self._masters: dict[nn.Parameter, nn.Parameter] = {}  # in fp32, empty between two steps, by the weight
        self._module: nn.Module | None = None
        self._has_trained = False

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Split the weights of a module that will be trained; they were read from a checkpoint before."""
        if not self._has_trained:
            split_weights(module)
            self._module = module
        return module

    def connect(self, model: nn.Module, optimizers: list[Optimizer], lr_schedulers: list[Any]) -> Any:
        """Give the optimizers weights in fp32 to step on."""
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["params"] = [
                    self._master_of(weight) if is_split(weight) else weight for weight in group["params"]
                ]
        return model, optimizers, lr_schedulers

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """Run a step of training, validation or test."""
        with autocast(self._device, "bf16-true", cache_enabled=self._device.type != "cpu"):
            yield

    def optimizer_step(  # type: ignore[override]  # as Lightning's own plugins, which take any optimizer
        self, optimizer: Optimizer, model: L.LightningModule, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        """Compute the gradients, clip and step in fp32, and round."""
        result = closure()
        own = [(weight, master) for weight, master in self._masters.items() if weight.grad is not None]
        for weight, master in own:
            assert weight.grad is not None
            master.data, master.grad = whole(weight), weight.grad.float().contiguous()
            weight.grad = None
        self._after_closure(model, optimizer)
        if not model.automatic_optimization or result is not None:
            optimizer.step(**kwargs)
        for weight, master in own:
            put_whole(weight, master.data)
            master.data, master.grad = _nothing(weight), None
        return result

    def teardown(self) -> None:
        """Make the weights whole, for what is written at the end."""
        if self._module is not None:
            join_weights(self._module)
            self._module, self._has_trained = None, True

    def _master_of(self, weight: nn.Parameter) -> nn.Parameter:
        return self._masters.setdefault(weight, nn.Parameter(_nothing(weight)))


def check_bf16_weights(callbacks: list[L.Callback], strategy: str | None) -> None:
    """Refuse what copies weights without their other half.

    Raises:
        UserError: an average that `average_in_fp32` does not know, or weights that are dealt out.
    """
    if any(isinstance(one, StochasticWeightAveraging) for one in callbacks):
        raise UserError(
            "trainer.precision bf16-true: got StochasticWeightAveraging (trainer.callbacks), which would round the "
            "average to bf16; take WeightAveraging, the same mean, or bf16-mixed"
        )
    if strategy == SHARDED:
        raise UserError(
            "trainer.precision bf16-true: got trainer.strategy fsdp2, which deals out weights of one type; take "
            "bf16-mixed with it, or ddp"
        )


def _nothing(weight: Tensor) -> Tensor:
    return torch.empty(0, dtype=torch.float32, device=weight.device)

"""What a GPU is told about a run: number format of what stays in fp32, layout of convolutions, choice of algorithms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import lightning as L
import torch

from medpretrain3d.backbones import Backbone, TokenBackbone
from medpretrain3d.channels_last import to_channels_last
from medpretrain3d.engine.distributed import rank_zero_print
from medpretrain3d.values import check_fields


@dataclass(frozen=True)
class DeviceConfig:
    """How networks run on a GPU (docs/howto/gpu.md gives the reasons for the defaults)."""

    tf32: Literal["off", "convolutions", "all"] = "convolutions"
    """Where products in fp32 are made of inputs of 10 bits; `all` adds those of matrices, which carry coordinates."""
    channels_last: bool = False
    """Keep the channels of a voxel beside each other in memory; takes effect on a GPU, for networks of convolutions."""

    def __post_init__(self) -> None:
        check_fields(self)

    def apply(self, model: L.LightningModule, backbone: Backbone, device_type: str) -> None:
        """Set PyTorch's switches, and lay out a model.

        Args:
            model: whose weights are laid out.
            backbone: in it.
            device_type: of the device that it goes to; a CPU has neither.
        """
        if device_type != "cuda":
            if self.channels_last:
                rank_zero_print(
                    "device.channels_last: left out, on a CPU the norms of this layout take 8 to 50 times as long"
                )
            return
        torch.backends.cudnn.allow_tf32 = self.tf32 != "off"
        torch.set_float32_matmul_precision("high" if self.tf32 == "all" else "highest")
        if self.channels_last and isinstance(backbone.encoder, TokenBackbone):
            rank_zero_print(f"device.channels_last: left out, {backbone.name} is made of tokens and gains nothing")
        elif self.channels_last:
            to_channels_last(model)

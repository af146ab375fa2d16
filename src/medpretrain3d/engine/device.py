"""What a GPU is told about a run: number format of what stays in fp32, layout of convolutions, choice of algorithms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from medpretrain3d.backbones import Backbone, TokenBackbone
from medpretrain3d.channels_last import to_channels_last
from medpretrain3d.engine.distributed import rank_zero_print
from medpretrain3d.graph_compilation import CompileMode, compile_parts
from medpretrain3d.values import check_fields


@dataclass(frozen=True)
class DeviceConfig:
    """How networks run on a GPU (docs/howto/gpu.md gives the reasons for the defaults)."""

    tf32: Literal["off", "convolutions", "all"] = "convolutions"
    """Where products in fp32 are made of inputs of 10 bits; `all` adds those of matrices, which carry coordinates."""
    channels_last: bool = False
    """Keep the channels of a voxel beside each other in memory; takes effect on a GPU, for networks of convolutions."""

    compile: CompileMode | None = None
    """Compile backbone, decoder and heads with `torch.compile`; names and files stay what they are."""

    def __post_init__(self) -> None:
        check_fields(self)

    def apply(self, model: Any, backbone: Backbone, device_type: str) -> None:
        """Set PyTorch's switches, lay out a model and have its parts compiled.

        Args:
            model: of a stage; its weights are laid out, its `compiled_parts` compiled.
            backbone: in it.
            device_type: of the device that it goes to; a CPU has neither.
        """
        if self.compile is not None:
            parts = model.compiled_parts()
            compile_parts(parts, self.compile)
            rank_zero_print(f"device.compile: {self.compile}, when they are first called: {', '.join(parts)}")
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

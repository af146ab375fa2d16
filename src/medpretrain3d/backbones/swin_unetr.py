"""SwinUNETR's encoder (Hatamizadeh et al., 2022): a 3D Swin transformer of MONAI's layers."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medpretrain3d.backbones.base import Backbone, Level, Triple
from medpretrain3d.errors import UserError
from medpretrain3d.values import Channels, Layers, Steps

BLOCKS = (2, 2, 2, 2)
HEADS = (3, 6, 12, 24)
MLP_RATIO = 4.0

Merging = Literal["all", "published"]
# Offsets (D, H, W) of the eight tokens that become one. MONAI before 1.5 took two of them twice and two not at all; all
# weights published until then (MONAI's own, SuPreM, VoCo) were trained so. `all` is the order of MONAI from 1.5 on.
MERGED_OFFSETS: dict[str, tuple[Triple, ...]] = {
    "all": ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)),
    "published": ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1)),
}


class SwinUNETR(Backbone):
    """Patch embedding and four stages of windowed attention, each followed by a merging of 2x2x2 tokens.

    Five levels, from the embedding at stride `patch_size` on, each layer-normed over its channels as MONAI hands them
    to its decoder. Parameter names are those of MONAI's `SwinTransformer`, whose layers these are.

    Args:
        feature_size: channels of the first level, a multiple of 12; published are 24 and 48 (VoCo: 96 and 192).
        in_channels: channels of the image.
        patch_size: stride of the first level along (D, H, W).
        window_size: tokens of an attention window along (D, H, W).
        merging: which tokens are merged: `all` eight of a cube, or those that `published` weights were trained with.
        is_v2: a residual convolution block before each stage (SwinUNETR-V2: He et al., 2023), as in VoCo.
        checkpointing: compute each transformer block's activations again in the backward pass.
        depths: transformer blocks of each of the four stages.
        heads: attention heads of each.

    Raises:
        UserError: a feature size that the heads do not divide, an unknown merging, or not four depths and heads.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import SwinUNETR
        >>> backbone = SwinUNETR(feature_size=12, window_size=(3, 3, 3))
        >>> [tuple(features.shape[1:]) for features in backbone(torch.zeros(1, 1, 32, 32, 32))]
        [(12, 16, 16, 16), (24, 8, 8, 8), (48, 4, 4, 4), (96, 2, 2, 2), (192, 1, 1, 1)]
    """

    citation = "Hatamizadeh et al., 2022, arXiv:2201.01266"
    sizes = ({"feature_size": 24}, {"feature_size": 48}, {"feature_size": 48, "is_v2": True})

    def __init__(
        self,
        feature_size: Channels = 48,
        in_channels: Channels = 1,
        patch_size: Steps = (2, 2, 2),
        window_size: Steps = (7, 7, 7),
        merging: Merging = "all",
        is_v2: bool = False,
        checkpointing: bool = False,
        depths: tuple[Layers, Layers, Layers, Layers] = BLOCKS,
        heads: tuple[Channels, Channels, Channels, Channels] = HEADS,
    ) -> None:
        from monai.networks.blocks.patchembedding import PatchEmbed
        from monai.networks.blocks.unetr_block import UnetrBasicBlock
        from monai.networks.nets.swin_unetr import BasicLayer

        super().__init__()
        if tuple(heads) == HEADS and feature_size % 12:
            raise UserError(f"SwinUNETR: got feature_size {feature_size}, wanted a multiple of 12 such as 24 or 48")
        if any(feature_size * 2**stage % count for stage, count in enumerate(heads)):
            raise UserError(
                f"SwinUNETR: got heads {tuple(heads)}, wanted such as divide {feature_size} times 1, 2, 4, 8"
            )
        if merging not in MERGED_OFFSETS:
            raise UserError(f"SwinUNETR: got merging '{merging}', wanted one of {', '.join(MERGED_OFFSETS)}")
        d, h, w = (int(edge) for edge in patch_size)
        self.feature_size = feature_size
        self.in_channels = in_channels
        self.is_v2 = is_v2
        self.checkpointing = checkpointing
        # MONAI annotates a norm and a module, but takes None for no norm and calls `downsample`, below, for the module.
        self.patch_embed = PatchEmbed((d, h, w), in_channels, feature_size, norm_layer=None)  # type: ignore[arg-type]  # MONAI's hint leaves None out
        self.levels = tuple(Level(feature_size * 2**i, (d * 2**i, h * 2**i, w * 2**i)) for i in range(5))
        for index, (num_blocks, num_heads) in enumerate(zip(depths, heads, strict=True)):
            width = feature_size * 2**index
            if is_v2:
                block = UnetrBasicBlock(3, width, width, kernel_size=3, stride=1, norm_name="instance", res_block=True)
                self.add_module(f"layers{index + 1}c", nn.ModuleList([block]))
            layer = BasicLayer(
                dim=width,
                depth=num_blocks,
                num_heads=num_heads,
                window_size=tuple(window_size),
                drop_path=[0.0] * num_blocks,
                mlp_ratio=MLP_RATIO,
                qkv_bias=True,
                downsample=partial(_Merging, offsets=MERGED_OFFSETS[merging]),  # type: ignore[arg-type]  # a factory does
                use_checkpoint=checkpointing,
            )
            self.add_module(f"layers{index + 1}", nn.ModuleList([layer]))

    @property
    def name(self) -> str:
        """Model name, as in `SwinUNETR-48` or `SwinUNETR-V2-48`."""
        return f"SwinUNETR{'-V2' if self.is_v2 else ''}-{self.feature_size}"

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map an image (B, C, D, H, W) to one map (B, C_l, D / s_d, H / s_h, W / s_w) per level, finest first."""
        self.check_input(image)
        return self.encode(self.embed(image))

    def embed(self, image: Tensor) -> Tensor:
        """Map an image (B, C, D, H, W) to tokens (B, feature_size, d, h, w), each a function of its own patch."""
        result: Tensor = self.patch_embed(image)
        return result

    def encode(self, tokens: Tensor) -> list[Tensor]:
        """Return tokens of `embed`, of which an objective may have replaced some, to one map per level."""
        x = tokens
        features = [_channel_norm(x)]
        for index in range(1, 5):
            if self.is_v2:
                x = self.run_block(self.get_submodule(f"layers{index}c.0"), x)
            x = self.get_submodule(f"layers{index}.0")(x.contiguous())
            features.append(_channel_norm(x))
        return features


class _Merging(nn.Module):
    """Tokens (B, D, H, W, C) to half as many along each axis with twice the channels; names are MONAI's."""

    def __init__(self, dim: int, norm_layer: Any, spatial_dims: int, offsets: tuple[Triple, ...]) -> None:
        super().__init__()
        self.offsets = offsets
        self.reduction = nn.Linear(8 * dim, 2 * dim, bias=False)
        self.norm = norm_layer(8 * dim)

    def forward(self, x: Tensor) -> Tensor:
        merged = torch.cat([x[:, d::2, h::2, w::2] for d, h, w in self.offsets], dim=-1)
        result: Tensor = self.reduction(self.norm(merged))
        return result


def _channel_norm(x: Tensor) -> Tensor:
    """Return layer norm over the channels of (B, C, D, H, W), without weights."""
    return F.layer_norm(x.movedim(1, -1), [x.shape[1]]).movedim(-1, 1)

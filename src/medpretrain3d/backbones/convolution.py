"""A 3D convolution that takes the fast kernels of oneDNN on the CPU, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import has_torch_function_unary

MAX_SLOW = 20480
"""Channels x D x H of a single image up to which torch (2.14) does not leave a convolution on the CPU to oneDNN."""
MIN_DEPTH = 6
"""Of a small image, below which two halves are more margin than image."""
VECTOR = 16
"""Floats of an AVX-512 register, into whose multiples oneDNN blocks channels."""


class Conv3d(nn.Conv3d):
    """`torch.nn.Conv3d` in what it computes, to rounding, and in its parameters; faster on the CPU in float32.

    - With AVX2 alone, oneDNN leaves the gradient of the weights to matrix products where the convolution itself
      pads along D. Of an image padded before, it has a kernel for it: 100 instead of 240 ms for 16 channels at
      (4, 48, 48, 48) on one core, where the whole convolution, forward and backward, takes 260 instead of 400.
    - With AVX-512, gradients of few channels that are no multiple of 16 are computed channels last: oneDNN has no fast
      kernel for them in PyTorch's order. Forward and backward of 8 channels at (4, 48, 48, 48) take 86 instead of 209
      ms on one core, of 8 to 2 channels 66 instead of 171, of 24 channels at 24^3 55 instead of 62. The convolution
      itself gains nothing and stays what it is.
    - A small image in a batch of one goes in as two halves along D, a batch of two, which torch leaves to oneDNN:
      forward and backward of 48 channels at 24 x 16 x 16 take 11 instead of 54 ms on one core, of 128 channels at 8^3 7
      instead of 19 ms.

    Everywhere else, as on a GPU, under autocast and in `torch.compile`, it is PyTorch's.
    """

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, C, D, H, W) to (B, C', D', H', W')."""
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super().forward(image)
        return conv3d(image, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def conv3d(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1, 1),
    padding: Sequence[int] = (0, 0, 0),
    dilation: Sequence[int] = (1, 1, 1),
    groups: int = 1,
) -> Tensor:
    """Convolve as `torch.nn.functional.conv3d` does, to rounding; see `Conv3d`.

    Args:
        image: (B, C, D, H, W).
        weight: (C', C / groups, kernel_d, kernel_h, kernel_w).
        bias: (C',).
        stride: along (D, H, W).
        padding: along (D, H, W).
        dilation: along (D, H, W).
        groups: of channels.

    Returns:
        (B, C', D', H', W').
    """
    if groups == 1 and tuple(dilation) == (1, 1, 1) and _is_in_float32_on_cpu(image, weight):
        if _keeps_size(weight, stride, padding) and _is_left_to_slow_kernel(image):
            return _in_halves(image, weight, bias)
        if _has_slow_weight_gradient(image, weight, padding):
            result: Tensor = _PaddedBefore.apply(image, weight, bias, tuple(stride), tuple(padding))
            return result
        if _has_slow_gradients(image, weight):
            result = _ChannelsLastBackward.apply(image, weight, bias, tuple(stride), tuple(padding))
            return result
    return F.conv3d(image, weight, bias, tuple(stride), tuple(padding), tuple(dilation), groups)


def _is_in_float32_on_cpu(image: Tensor, weight: Tensor) -> bool:
    if torch.compiler.is_compiling() or has_torch_function_unary(image):  # or a mode that replaces convolutions
        return False
    is_plain = image.device.type == "cpu" and image.dtype == weight.dtype == torch.float32
    # Under autocast oneDNN is used anyway, and half a map may be too short for its bf16 gradients.
    return is_plain and image.ndim == 5 and not torch.is_autocast_enabled("cpu")


def _keeps_size(weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> bool:
    return weight.shape[2:] == (3, 3, 3) and tuple(stride) == tuple(padding) == (1, 1, 1)


def _is_left_to_slow_kernel(image: Tensor) -> bool:
    batch, channels, d, h, _ = image.shape
    return batch == 1 and channels * d * h <= MAX_SLOW and d >= MIN_DEPTH and d % 2 == 0


def _in_halves(image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    half = image.shape[2] // 2
    padded = F.pad(image, (0, 0, 0, 0, 1, 1))
    pair = torch.cat([padded[:, :, : half + 2], padded[:, :, half:]])
    return torch.cat(F.conv3d(pair, weight, bias, padding=(0, 1, 1)).chunk(2), dim=2)


def _has_slow_weight_gradient(image: Tensor, weight: Tensor, padding: Sequence[int]) -> bool:
    is_learnt = torch.is_grad_enabled() and weight.requires_grad
    return is_learnt and padding[0] > 0 and image.shape[1] > 1 and _has_avx2_alone()


def _has_avx2_alone() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def _has_slow_gradients(image: Tensor, weight: Tensor) -> bool:
    """Whether copies into another order cost less than they save; of 32 channels and more they do not."""
    is_learnt = torch.is_grad_enabled() and (image.requires_grad or weight.requires_grad)
    channels, channels_in = weight.shape[:2]
    is_narrow = 1 < channels_in < 2 * VECTOR and (channels_in % VECTOR > 0 or channels < VECTOR)
    return is_learnt and is_narrow and weight[0, 0].numel() > 1 and _has_avx512()


def _has_avx512() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


class _OwnBackward(torch.autograd.Function):
    """PyTorch's convolution, whose gradients are left to a subclass."""

    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int, int],
        padding: tuple[int, int, int],
    ) -> Tensor:
        ctx.save_for_backward(image, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv3d(image, weight, bias, stride, padding)


class _PaddedBefore(_OwnBackward):
    """A convolution that pads its image along D for the gradient of the weights alone, so that no more is kept."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        image, weight = ctx.saved_tensors
        of_image, of_weight, of_bias = ctx.needs_input_grad[:3]
        d, h, w = ctx.padding
        image_grad = weight_grad = bias_grad = None
        if of_image:
            image_grad, _, _ = _gradients(grad, image, weight, ctx.stride, (d, h, w), (True, False, False))
        if of_weight or of_bias:
            padded = F.pad(image, (0, 0, 0, 0, d, d))
            mask = (False, of_weight, of_bias)
            _, weight_grad, bias_grad = _gradients(grad, padded, weight, ctx.stride, (0, h, w), mask)
        return image_grad, weight_grad, bias_grad, None, None


class _ChannelsLastBackward(_OwnBackward):
    """A convolution whose gradients are computed channels last, from copies that are let go at once."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        image, weight = ctx.saved_tensors
        grad, image = (one.contiguous(memory_format=torch.channels_last_3d) for one in (grad, image))
        found = _gradients(grad, image, weight, ctx.stride, ctx.padding, ctx.needs_input_grad[:3])
        image_grad, weight_grad, bias_grad = (None if one is None else one.contiguous() for one in found)
        return image_grad, weight_grad, bias_grad, None, None


def _gradients(
    grad: Tensor,
    image: Tensor,
    weight: Tensor,
    stride: tuple[int, int, int],
    padding: tuple[int, int, int],
    mask: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of image, weight and bias that the mask asks for."""
    result: tuple[Tensor | None, Tensor | None, Tensor | None] = torch.ops.aten.convolution_backward(
        grad, image, weight, [len(weight)], stride, padding, (1, 1, 1), False, (0, 0, 0), 1, mask
    )
    return result

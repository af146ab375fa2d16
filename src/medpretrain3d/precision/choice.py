"""The precision that suits a device where none is asked for: what pays on a CPU is measured there.

bf16 runs a training step in 0.5 to 0.8 of the time on CPUs with instructions for it (AVX512-BF16, AMX), in 2 to 30
times the time on those that emulate it, and the libraries call both "supported".
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medpretrain3d.precision.names import Precision, TrainingPrecision, network_precision, precision_name

ENVIRONMENT = "MEDPRETRAIN3D_PRECISION"
"""Variable that says what a machine shall take where nothing else does, instead of measuring."""
MARGIN = 1.15
"""Speed of a convolution in bf16, relative to fp32, from which on bf16 is taken. Below, casts and what is no
convolution eat up the gain, and the noise of a machine would decide."""
HOPELESS = 0.5
"""Of the small convolution: below, the larger one is not waited for."""
SMALL, LARGE = (16, 8), (64, 16)
"""Channels and edge of the convolutions that are timed: 1 and 26 ms in fp32 on one core. Where bf16 is emulated the
small one takes 4 to 20 ms in it, the large one a second. The large one is as wide as what takes most of a step: one of
32 channels and edge 12 said 1.14 to 1.38 on a Zen 5, call by call, where steps are 1.5 to 2 times as fast. It grows
with the number of threads, which would otherwise wait for each other more than they compute."""
MOST_THREADS = 64
ROUNDS = (2, 3)
"""Of each. The quickest counts; the precisions take turns, so that other programs disturb both alike. The large one is
timed again before bf16 is taken."""
TOLERANCE = 0.02
"""Norm of the difference of bf16's gradients from those of fp32, relative to theirs; 0.003 where all is well."""

Timing = Callable[[int, int, bool], float]
"""Milliseconds of a convolution, forward and backward: of its channels, its edge, and whether it runs in bf16."""


@dataclass(frozen=True)
class PrecisionChoice:
    """A precision, and why it was taken."""

    precision: TrainingPrecision
    reason: str
    bf16_speed_ratio: float | None = None
    """Time of a convolution in fp32 divided by that in bf16, as measured; None where nothing was timed."""

    @property
    def of_network(self) -> Precision:
        """In which a network runs, however its weights are trained."""
        return network_precision(self.precision)

    def __str__(self) -> str:
        return f"precision {self.precision}: {self.reason}"


def choose_precision(device: torch.device | str) -> PrecisionChoice:
    """Return the precision that suits a device; the same in every call of a process.

    Args:
        device: where networks shall run.

    Raises:
        UserError: the environment names a precision that there is not.
    """
    asked = os.environ.get(ENVIRONMENT, "").strip()
    if asked:
        return PrecisionChoice(precision_name(asked, ENVIRONMENT), f"{ENVIRONMENT} says so")
    return _of_device(str(torch.device(device)))


def precision_of(asked: Precision | None, device: torch.device | str) -> Precision:
    """Return the precision that a network runs in.

    Args:
        asked: by any of its names; None is what suits the device.
        device: where the network runs.

    Raises:
        UserError: no name of a precision, or the environment names none.
    """
    return choose_precision(device).of_network if asked is None else precision_name(asked)


def note_on(precision: Precision, device: torch.device | str) -> str:
    """Return what a user should know who asked for a precision on a device; empty where there is nothing.

    Args:
        precision: that was asked for.
        device: where networks shall run.
    """
    device = torch.device(device)
    if device.type == "cuda" and precision == "bf16-mixed" and not has_native_bf16(device):
        return "this GPU has no bf16 instructions and emulates them; 16-mixed is quicker"
    if device.type != "cpu" or precision == "32-true":
        return ""
    if precision == "16-mixed":
        return "fp16 is emulated on CPUs, which takes many times as long; bf16-mixed or 32-true are quicker"
    ratio = _of_device("cpu").bf16_speed_ratio
    if ratio is None or ratio >= 1:
        return ""
    emulated = "has no bf16 instructions and emulates them" if is_bf16_emulated(torch.cpu.get_capabilities()) else ""
    return f"this processor {emulated or 'is slower in it'}: {_ratio_in_words(ratio)}; 32-true is quicker"


@functools.cache
def _of_device(device: str) -> PrecisionChoice:
    kind = torch.device(device).type
    if kind == "cpu":
        return choose_for_cpu(torch.cpu.get_capabilities(), milliseconds, bf16_fault, torch.get_num_threads())
    if kind == "cuda":
        at = torch.device(device)
        return choose_for_gpu(has_native_bf16(at), torch.cuda.get_device_capability(at))
    return PrecisionChoice("32-true", f"half precision was never tried on {kind}")


def choose_for_cpu(
    capabilities: Mapping[str, Any], timing: Timing, fault: Callable[[], str], num_threads: int = 1
) -> PrecisionChoice:
    """Return the precision for a processor.

    Args:
        capabilities: as `torch.cpu.get_capabilities` gives them.
        timing: measures a convolution.
        fault: what is wrong about bf16 here, empty if nothing is; asked where bf16 would be taken.
        num_threads: that compute.
    """
    ratio = _ratio(timing, *SMALL, ROUNDS[0])
    if is_bf16_emulated(capabilities):
        reason = f"this processor has no bf16 instructions and emulates them: {_ratio_in_words(ratio)}"
        return PrecisionChoice("32-true", reason, ratio)
    if ratio >= HOPELESS:
        channels, edge = LARGE
        large_edge = round(edge * min(num_threads, MOST_THREADS) ** (1 / 3))
        ratio = _ratio(timing, channels, large_edge, ROUNDS[1])
        # A run of a study that took bf16 by one disturbed measurement (1.26, where 0.62 is usual) was of no use.
        if ratio >= MARGIN:
            ratio = min(ratio, _ratio(timing, channels, large_edge, ROUNDS[1]))
    if ratio < MARGIN:
        reason = f"bf16 does not pay on this processor: {_ratio_in_words(ratio)}, it would from {MARGIN:g} on"
        return PrecisionChoice("32-true", reason, ratio)
    if wrong := fault():
        return PrecisionChoice("32-true", f"{wrong}, though {_ratio_in_words(ratio)}", ratio)
    return PrecisionChoice("bf16-mixed", f"bf16 pays on this processor: {_ratio_in_words(ratio)}", ratio)


def choose_for_gpu(is_bf16_native: bool, capability: tuple[int, int]) -> PrecisionChoice:
    """Return the precision for a GPU: bf16 where it has it, fp16 on tensor cores, else fp32.

    Args:
        is_bf16_native: whether it has instructions for bf16.
        capability: of CUDA; tensor cores came with 7.0.
    """
    if is_bf16_native:
        return PrecisionChoice("bf16-mixed", "this GPU has bf16 instructions")
    if capability >= (7, 0):
        return PrecisionChoice("16-mixed", "this GPU has fp16 tensor cores and emulates bf16")
    return PrecisionChoice("32-true", "this GPU has no tensor cores")


def is_bf16_emulated(capabilities: Mapping[str, Any]) -> bool:
    """Return whether a processor is known to have no instructions for bf16.

    `torch.ops.mkldnn._is_mkldnn_bf16_supported()` alone says that oneDNN can emulate them.

    Args:
        capabilities: as `torch.cpu.get_capabilities` gives them.
    """
    flags = {
        "x86_64": ("avx512_bf16", "amx_bf16", "avx10_2", "avx_ne_convert"),
        "arm64": ("bf16", "sve_bf16"),
        "aarch64": ("bf16", "sve_bf16"),
    }.get(str(capabilities.get("architecture")))
    return flags is not None and not any(capabilities.get(flag) for flag in flags)


def has_native_bf16(device: torch.device) -> bool:
    """Return whether a GPU computes in bf16 itself."""
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def milliseconds(channels: int, edge: int, in_bf16: bool) -> float:
    """Time a 3x3x3 convolution of two images on the CPU, forward and backward, once.

    What counts is the time that this process computes, not that by the clock, in which other programs take their turns.

    Args:
        channels: that go in and come out.
        edge: of the cubes.
        in_bf16: whether it runs under bf16 autocast.
    """
    start = time.process_time()
    _gradient(channels, (edge, edge, edge), in_bf16)
    return (time.process_time() - start) * 1e3


def bf16_fault() -> str:
    """Say what is wrong about convolutions in bf16 on the CPU; empty if nothing is."""
    channels, edge = SMALL
    wanted, found = (_gradient(channels, (edge, edge, edge), in_bf16) for in_bf16 in (False, True))
    difference = float((found - wanted).norm() / wanted.norm())
    if difference <= TOLERANCE:
        return ""
    return f"gradients of convolutions in bf16 differ from those in fp32 by {difference:.2g} here"


def _ratio(timing: Timing, channels: int, edge: int, rounds: int) -> float:
    """Return how much quicker bf16 is."""
    precisions = (False, True)
    for in_bf16 in precisions:  # the first time, oneDNN makes its code
        timing(channels, edge, in_bf16)
    times = [[timing(channels, edge, in_bf16) for in_bf16 in precisions] for _ in range(rounds)]
    fp32, bf16 = map(min, zip(*times, strict=True))
    return float(f"{fp32 / bf16:.3g}")


def _gradient(channels: int, shape: tuple[int, int, int], in_bf16: bool) -> Tensor:
    """Return the gradient of a convolution's weight; nothing is drawn, for that would change what a run draws."""
    count = 2 * channels * shape[0] * shape[1] * shape[2]
    image = torch.arange(count, dtype=torch.float32).mul_(0.7).sin_().view(2, channels, *shape).requires_grad_()
    weight = torch.arange(channels * channels * 27, dtype=torch.float32).mul_(0.3).cos_()
    weight = weight.view(channels, channels, 3, 3, 3).requires_grad_()
    with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=in_bf16, cache_enabled=False):
        found = F.conv3d(image, weight, padding=1)
    with torch.enable_grad():  # of a scalar: for a gradient that is given, torch imports sympy first (0.5 s)
        gradient, _ = torch.autograd.grad(found.float().square().sum(), [weight, image])
    return gradient


def _ratio_in_words(ratio: float) -> str:
    return f"a 3D convolution in bf16 runs at {ratio:.2f} x the speed of fp32 (measured)"

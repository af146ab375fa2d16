"""ResEnc-S against the same encoder built by dynamic-network-architectures, which nnU-Net and nnssl are built on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.memory import MemoryRow, compare_memory
from benchmarks.peers import peer
from benchmarks.timing import Row, race
from medpretrain3d.backbones import ResEnc
from medpretrain3d.backbones.checkpoints.aliases import without_aliases
from medpretrain3d.backbones.resenc import PRESETS
from medpretrain3d.precision.choice import choose_precision
from medpretrain3d.precision.mixed import autocast
from medpretrain3d.precision.names import Precision

WORK = "ResEnc-S at (1, 1, 64, 64, 64), forward and backward"
PEER = "dynamic-network-architectures"


def theirs() -> nn.Module:
    """The peer's network with nnU-Net's settings."""
    encoders = peer("dynamic_network_architectures.building_blocks.residual_encoders")
    channels, blocks = PRESETS["S"]
    num_stages = len(channels)
    network: nn.Module = encoders.ResidualEncoder(
        input_channels=1,
        n_stages=num_stages,
        features_per_stage=channels,
        conv_op=nn.Conv3d,
        kernel_sizes=[[3, 3, 3]] * num_stages,
        strides=[[1, 1, 1]] + [[2, 2, 2]] * (num_stages - 1),
        n_blocks_per_stage=blocks,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        return_skips=True,
    )
    return network


def step(network: nn.Module, precision: Precision = "32-true") -> Callable[[], Tensor]:
    """Forward and backward on a fixed image."""
    image = torch.randn(1, 1, 64, 64, 64, generator=torch.Generator().manual_seed(0))

    def run() -> Tensor:
        network.zero_grad(set_to_none=True)
        with autocast(image.device, precision):
            features = network(image)
        loss = torch.stack([feature.float().square().mean() for feature in features]).sum()
        loss.backward()
        return loss

    return run


def their_step() -> Callable[[], Tensor]:
    return step(theirs())


def our_step() -> Callable[[], Tensor]:
    return step(ResEnc("S"))


def rows() -> Iterator[Row | MemoryRow]:
    other, ours = theirs(), ResEnc("S")
    ours.load_state_dict(without_aliases(other.state_dict())[0])
    image = torch.randn(1, 1, 64, 64, 64)
    with torch.no_grad():
        for a, b in zip(ours(image), other(image), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    yield race(WORK, PEER, step(other), step(ours), rounds=9)
    chosen = choose_precision("cpu").precision
    if chosen != "32-true":  # what a run takes here
        yield race(f"{WORK}, ours in {chosen}", PEER, step(other), step(ours, chosen), rounds=9)
    yield compare_memory("ResEnc-S at (1, 1, 64, 64, 64), peak memory", PEER, their_step, our_step)

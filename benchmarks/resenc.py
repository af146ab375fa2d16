"""ResEnc against the same encoder built by dynamic-network-architectures, which nnU-Net and nnssl are built on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.memory import compare_memory
from benchmarks.peers import peer
from benchmarks.timing import Row
from benchmarks.training_step import our_step, race_steps, their_step
from medpretrain3d.backbones import ResEnc
from medpretrain3d.backbones.checkpoints.aliases import without_aliases
from medpretrain3d.backbones.resenc import PRESETS, Preset

SHAPE = (2, 1, 64, 64, 64)
PEER = "dynamic-network-architectures"


def their_encoder(preset: Preset) -> nn.Module:
    """The peer's network with nnU-Net's settings."""
    encoders = peer("dynamic_network_architectures.building_blocks.residual_encoders")
    channels, blocks = PRESETS[preset]
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


def loss_of(network: nn.Module) -> Callable[[], Tensor]:
    """A loss of all features of a fixed batch."""
    image = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    return lambda: torch.stack([feature.float().square().mean() for feature in network(image)]).sum()


def their_memory() -> Callable[[], None]:
    network = their_encoder("S")
    return their_step(network, loss_of(network))


def our_memory() -> Callable[[], None]:
    network = ResEnc("S")
    return our_step(network, loss_of(network), "32-true")


def rows() -> Iterator[Row]:
    other, ours = their_encoder("S"), ResEnc("S")
    ours.load_state_dict(without_aliases(other.state_dict())[0])
    image = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        for a, b in zip(ours(image), other(image), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    work = f"training step, ResEnc-S at {SHAPE}"
    theirs = their_step(other, loss_of(other))
    yield from race_steps(work, PEER, theirs, lambda precision: our_step(ours, loss_of(ours), precision), rounds=5)
    yield compare_memory(f"{work}, peak memory", PEER, their_memory, our_memory)

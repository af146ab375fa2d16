"""The contract of every pretraining task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from medpretrain3d.backbones import Backbone
from medpretrain3d.configurable import Configurable
from medpretrain3d.graph_compilation import network_parts
from medpretrain3d.randomness import counter_random, derived_seeds, sample_seeds

Batch = Mapping[str, Tensor]
"""What a corpus gives: `image` (B, C, D, H, W) float32 in [-1, 1] and `seed` (B,) int64, one random seed per sample.

A stage keeps `seed_on_host` on the CPU beside them, see `on_host`. A recipe's `data.views` may ask for more than one
crop of each sample; see `medpretrain3d.loading.views`.
"""

Paradigm = Literal["reconstruction", "contrastive", "supervised", "detector"]
"""`detector`: a whole detector is trained, on objects that nobody labelled, and neck and heads are handed on too."""


@dataclass(frozen=True)
class ObjectiveOutput:
    """Output of one training step of an objective.

    Example:
        >>> import torch
        >>> from medpretrain3d.objectives import ObjectiveOutput
        >>> ObjectiveOutput(loss=torch.tensor(0.5), logs={"accuracy": torch.tensor(0.75)})
        ObjectiveOutput(loss=tensor(0.5000), logs={'accuracy': tensor(0.7500)}, preview={})
    """

    loss: Tensor
    logs: dict[str, Tensor] = field(default_factory=dict)
    """Named scalars for the curves, detached."""
    preview: dict[str, Tensor] = field(default_factory=dict)
    """Named volumes (D, H, W) of the first sample to look at, detached; empty where there is nothing to see.

    Floating point is an image in [-1, 1], integers are labels, 0 for none; see `medpretrain3d.visualization.pictures`.
    """


class Objective(Configurable, nn.Module):
    """A pretraining task around a backbone: batch in, loss and named scalars out.

    Whatever is thrown away after pretraining (decoders, projectors) lives here, never in the backbone. Random choices
    come from `batch["seed"]` alone, so a run can be repeated and resumed. Every parameter that wants a gradient gets
    one in every step, also when the batch has one sample of each kind.

    The first argument of the constructor is the backbone, the others have defaults or are in `tiny`.

    Raises:
        UserError: by the constructor, where it cannot train a backbone of that kind; says which one or which other
            objective to use.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.objectives import Objective, ObjectiveOutput
        >>> class Energy(Objective):
        ...     paradigm = "reconstruction"
        ...     def __init__(self, backbone) -> None:
        ...         super().__init__()
        ...         self.backbone = backbone
        ...         self.patch_stride = backbone.levels[-1].stride
        ...     def forward(self, batch):
        ...         loss = sum(features.square().mean() for features in self.backbone(batch["image"]))
        ...         return ObjectiveOutput(loss, logs={"energy": loss.detach()})
        >>> batch = {"image": torch.rand(2, 1, 16, 16, 16), "seed": torch.tensor([0, 1])}
        >>> Energy(ResEnc("XXS"))(batch).logs.keys()
        dict_keys(['energy'])
    """

    backbone: Backbone
    paradigm: ClassVar[Paradigm]
    """The family that studies compare; the method is the name of the class."""
    encoder_prefix: ClassVar[str] = "backbone."
    """Before the names of the weights that become the encoder file."""
    views: ClassVar[tuple[str, ...]] = ()
    """Names of the classes of `data.views` it can be fed by; empty for any."""
    tiny: ClassVar[Mapping[str, Any]] = {}
    """Arguments beside the backbone of a small objective, of which every contract test is asked."""
    patch_stride: tuple[int, int, int]
    """The patch (D, H, W) must be a multiple of this."""

    def __call__(self, batch: Batch) -> ObjectiveOutput:
        """Return `forward`, in which the network draws (drop path) from the seeds of the samples.

        A task that shows the network other rows than one per sample says whose they are with `sample_seeds`.
        """
        with sample_seeds(batch["seed"]) if "seed" in batch else nullcontext():
            output: ObjectiveOutput = super().__call__(batch)
        return output

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """Return loss, scalars and pictures of one batch."""
        raise NotImplementedError("an Objective subclass implements forward")

    def compiled_parts(self) -> dict[str, nn.Module]:
        """Return what `torch.compile` is given, by name: parts that hold the time and are called as modules."""
        return network_parts(self)

    @property
    def encoder(self) -> Backbone:
        """The backbone that a run hands on; the trained one, unless `encoder_prefix` names another."""
        found = self.get_submodule(self.encoder_prefix.removesuffix("."))
        assert isinstance(found, Backbone)
        return found

    def encode(self, image: Tensor) -> list[Tensor]:
        """Return the maps of the encoder, one per level; also between two steps where weights are dealt out."""
        maps: list[Tensor] = self.encoder(image)
        return maps

    def at_step(self, step: int, num_steps: int) -> None:
        """Say where the run stands, before every step and every validation: schedules are functions of it.

        Args:
            step: steps of the optimizer that are made.
            num_steps: of the whole run.
        """

    def schedules(self, step: int, num_steps: int) -> dict[str, float]:
        """Return by name what `at_step` sets that follows the length of the run: an extended run says where it jumps.

        Args:
            step: steps of the optimizer that are made.
            num_steps: of the whole run.
        """
        return {}

    def after_load(self) -> None:
        """Reset copies of the backbone to its weights, after it has received them from a file."""

    def after_step(self) -> None:
        """Update averages of weights, after every step of the optimizer."""


ON_HOST = "_on_host"
"""What the name of a tensor of a batch ends with that stayed on the CPU when the batch went to its device."""
KEPT_ON_HOST = ("seed", "dataset", "boxes", "labels", "box_of", "ignore", "ignore_of")


def with_host_copies(moved: Batch, batch: Batch) -> dict[str, Tensor]:
    """Return a batch that went to its device along with what stays on the CPU of it: numbers that decide what is done.

    Args:
        moved: on the device.
        batch: the same on the CPU.
    """
    return {**moved, **{name + ON_HOST: batch[name] for name in KEPT_ON_HOST if name in batch}}


def on_host(batch: Batch, name: str) -> Tensor:
    """Return a tensor of a batch on the CPU: the one that a stage kept there, or a copy, which waits for the device."""
    return batch.get(name + ON_HOST, batch[name]).cpu()


def seeds_on_host(batch: Batch) -> list[int]:
    """Return the seeds (B,) as numbers, for what is drawn where it is decided; see `on_host`."""
    seeds: list[int] = on_host(batch, "seed").tolist()
    return seeds


def seeds_of_views(seed: Tensor, num_views: int) -> Tensor:
    """Return seeds (V B,) for the views of each sample (B,): all first views, then all second ones."""
    return counter_random(derived_seeds(seed, "views"), num_views).T.flatten()


def common_stride(*strides: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return least common multiple of several strides, axis by axis."""
    d, h, w = (math.lcm(*along_axis) for along_axis in zip(*strides, strict=True))
    return (d, h, w)

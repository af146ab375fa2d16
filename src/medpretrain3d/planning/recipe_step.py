"""The training step of a recipe without values: its network on the meta device, a batch, and the way to a loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from medpretrain3d.backbones import Backbone
from medpretrain3d.command_line.composition import ARGUMENTS, CLASS
from medpretrain3d.detection import DeformableDETR, Detector, HeatMap, RetinaUNet
from medpretrain3d.detection.dense import DenseDetector
from medpretrain3d.detection.mask_head import MaskHead
from medpretrain3d.errors import UserError
from medpretrain3d.objectives import CaseClassification, DetectorPretraining, MultiTalent, Objective
from medpretrain3d.objectives.base import with_host_copies
from medpretrain3d.planning.traced_step import META, TracedStep, trace_step
from medpretrain3d.precision.names import Precision

NO_CLASSES = (("one", "other"),)
"""In place of the classes that the data of a supervised objective would tell."""
ONE_CROP = ("None", "OneView", "LabeledView", "CaseLabelView", "ObjectView")
"""Views of one crop, with labels or without; a recipe that names none has those of the first kind."""
DRAWN = {"normal_", "uniform_", "erfinv_"}
"""Functions that draw, or that only what was drawn is given to."""


class RecipeStep(NamedTuple):
    """A network without values, and the batch of one process."""

    network: nn.Module
    batch: dict[str, Tensor]

    def trace(self, precision: Precision) -> TracedStep:
        """Trace forward and backward pass.

        Raises:
            UserError: the network asks for values, so that its step cannot be traced.
        """
        size = len(self.batch["seed"])
        if size == 1 and getattr(self.network, "paradigm", "") == "contrastive":
            # Against the samples of other processes, which are not there: two samples, and half of what they take.
            both = RecipeStep(self.network, {name: torch.cat([one, one]) for name, one in self.batch.items()})
            traced = both.trace(precision)
            return TracedStep(traced.activation_bytes // 2, traced.flop // 2)
        on_device = [tensor for tensor in self.batch.values() if tensor.is_meta]
        self.network.train()
        try:
            return trace_step(self.network, lambda: _loss(self.network, self.batch), on_device, precision)
        except (RuntimeError, NotImplementedError) as error:
            raise UserError(
                f"{type(self.network).__name__}: its memory cannot be computed, for its training step asks for values "
                f"({' '.join(str(error).split())[:200]}); train it for some steps, the log says what they take"
            ) from error


def recipe_step(model: Mapping[str, Any], data: Mapping[str, Any]) -> RecipeStep:
    """Build the step of one process.

    Args:
        model: `model` of a recipe.
        data: `data` of it, with `patch` and `batch_size`.
    """
    with torch.device("cpu"), NothingDrawn():  # some numbers are computed while a network is built
        network = network_of(model).to(META)
    channels = cast(Backbone, network.backbone).in_channels
    if data.get("unlabeled") and model.get("semi_supervised"):  # the graphs of both are there until the backward pass
        own = int(data["batch_size"])
        data = {**data, "batch_size": own + int(data.get("unlabeled_batch_size") or own)}
    return RecipeStep(network, batch_of(data, channels))


def network_of(model: Mapping[str, Any]) -> nn.Module:
    """Build the objective or detector of a recipe; of two classes where the data would tell them."""
    if "detector" in model:
        return cast(nn.Module, made(Detector, model["detector"]))
    described = model["objective"]
    supervised = {one.__name__: one for one in (MultiTalent, CaseClassification)}
    name = str(described[CLASS]).rpartition(".")[2]
    if name not in supervised:
        return cast(nn.Module, made(Objective, described))
    arguments = dict(described.get(ARGUMENTS) or {})
    backbone = made(Backbone, arguments.pop("backbone"))
    return supervised[name](backbone, **{"classes": NO_CLASSES, **arguments})


def made(base: type, config: Mapping[str, Any]) -> Any:
    """Build an object of a recipe."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base, "made")
    return parser.instantiate_classes(parser.parse_object({"made": config})).made


def batch_of(data: Mapping[str, Any], channels: int) -> dict[str, Tensor]:
    """Return the batch of one process, images without memory; of views that vary, the most that they give.

    Args:
        data: `data` of a recipe.
        channels: of the images.

    Raises:
        UserError: views of another package, of which nobody knows what they give.
    """
    patch, size = list(data["patch"]), int(data["batch_size"])
    views = data.get("views") or {}
    name, options = str(views.get(CLASS)).rpartition(".")[2], views.get(ARGUMENTS) or {}

    def images(*shape: int) -> Tensor:
        return torch.empty(*shape, channels, *patch, device=META)

    batch: dict[str, Tensor] = {"seed": torch.arange(size), "dataset": torch.zeros(size, dtype=torch.long)}
    batch = with_host_copies({name: one.to(META) for name, one in batch.items()}, batch)
    if name == "TwoViews":
        affine, overlap = torch.empty(size, 2, 3, 4, device=META), torch.empty(size, 2, 6, device=META)
        return {**batch, "image": images(size, 2), "affine": affine, "overlap": overlap}
    if name == "MultiCrop":
        d, h, w = _given(options, "local_patch", (48, 48, 48))
        local = torch.empty(size, int(options.get("num_local", 8)), channels, d, h, w, device=META)
        return {**batch, "image": images(size, 2), "local": local, "affine": torch.empty(size, 2, 3, 4, device=META)}
    if name == "VolumePairs":
        return {**batch, "image": images(size, 2)}
    if name == "GridAndTargets":
        d, h, w = _given(options, "grid", (1, 4, 4))
        num_targets = _given(options, "num_targets", (2, 8))[1]
        return {
            **batch,
            "base": images(size, d * h * w),
            "target": images(size * num_targets),
            "target_of": torch.empty(size * num_targets, dtype=torch.long, device=META),
            "grid": torch.empty(size, 3, dtype=torch.long, device=META),
            "share": torch.empty(size * num_targets, d * h * w, device=META),
        }
    if name not in ONE_CROP:
        known = ", ".join((*ONE_CROP[1:], "TwoViews", "MultiCrop", "VolumePairs", "GridAndTargets"))
        raise UserError(
            f"data.views {views.get(CLASS)}: what a batch of it holds is not known, wanted one of {known}; train for "
            "some steps, the log says what they take"
        )
    if name == "LabeledView":
        batch["label_map"] = torch.empty(size, *patch, dtype=torch.long, device=META)
    if name == "ObjectView":  # boxes are few; the maps are there where all cases have masks
        batch["label_map"] = torch.empty(size, *patch, dtype=torch.uint8, device=META)
    if name == "CaseLabelView":
        batch["case_label"] = torch.empty(size, dtype=torch.long, device=META)
    return {**batch, "image": images(size)}


def _given(options: Mapping[str, Any], name: str, default: Sequence[int]) -> Sequence[int]:
    return cast(Sequence[int], options.get(name, default))


def _loss(network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the loss; of a detector, on its own or in an objective, the sum of what its losses are made of."""
    if isinstance(network, Detector):
        return sum_of_outputs(network, batch["image"])
    if isinstance(network, DetectorPretraining):
        of_detector = sum_of_outputs(network.detector, batch["image"])
        return of_detector if network.beside is None else of_detector + _loss(network.beside, batch)
    loss: Tensor = network(batch).loss
    return loss


def sum_of_outputs(detector: Detector, image: Tensor) -> Tensor:
    """Return the sum of what the losses of a detector are made of: matching needs values."""
    head = getattr(detector, "mask_head", None)
    if isinstance(head, MaskHead):
        return _sum_with_masks(detector, head, image)
    return _sum_of(detector, image)


def _sum_with_masks(detector: Detector, head: MaskHead, image: Tensor) -> Tensor:
    """Return the sum with the masks of as many objects an image as are learnt at most."""
    features: list[Sequence[Tensor]] = []
    hook = detector.backbone.register_forward_hook(lambda *call: features.append(call[2]))
    outputs = _sum_of(detector, image)
    hook.remove()
    whole = torch.tensor([[0.0, 0, 0, *image.shape[2:]]]).expand(head.options.most_objects, 6).to(image.device)
    of_masks: Tensor = head(features[0], [whole] * len(image))
    return outputs + of_masks.sum()


def _sum_of(detector: Detector, image: Tensor) -> Tensor:
    if isinstance(detector, RetinaUNet):
        mask_logits, pyramid = detector.branches(image)
        outputs = [mask_logits, detector.classification_head(pyramid), detector.box_head(pyramid)]
    elif isinstance(detector, DenseDetector | HeatMap | DeformableDETR):  # of DETR without auxiliary queries
        outputs = list(detector.outputs(image))
    else:
        outputs = list(detector.losses(image, []).values())
    return torch.stack([one.float().sum() for one in outputs]).sum()


class NothingDrawn(torch.overrides.TorchFunctionMode):
    """Puts zeros in place of the random numbers that weights begin with: they take seconds, and are thrown away."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """Run one of torch's functions."""
        if getattr(func, "__name__", "") in DRAWN and args:
            return args[0].zero_()
        return func(*args, **(kwargs or {}))

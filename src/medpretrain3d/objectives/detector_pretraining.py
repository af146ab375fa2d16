"""A whole detector as the pretraining task: encoder, neck and heads learn to find objects that nobody labelled."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medpretrain3d.backbones import DetectorPart, TokenPyramid
from medpretrain3d.boxes import Targets
from medpretrain3d.configurable import from_config, to_config
from medpretrain3d.detection import Detector
from medpretrain3d.detection.base import without_invalid
from medpretrain3d.detection.transfer import TransferReport, load_detector
from medpretrain3d.errors import UserError
from medpretrain3d.objectives.base import KEPT_ON_HOST, ON_HOST, Batch, Objective, ObjectiveOutput, common_stride
from medpretrain3d.objectives.multi_talent import ClassesOfSets
from medpretrain3d.objectives.proposal_contrast import ProposalContrast
from medpretrain3d.objectives.proposal_embedding import ProposalEmbedding
from medpretrain3d.objectives.proposals import ProposalTask
from medpretrain3d.transfer import to_host
from medpretrain3d.values import NonNegative


class DetectorPretraining(Objective):
    """Train a whole detector to find pseudo-objects; the encoder file then holds neck and heads too.

    In 2D this is worth several AP at few labels (DETReg: Bar et al., 2022; AlignDet: Li et al., 2023). Wants
    `data.views` ObjectView, and a store of `medpretrain3d pseudo`, or any other with objects, which count as labels.

    Args:
        detector: any detector, with the encoder to train inside.
        classes: names of the classes of each data set; taken from the stores when a recipe is run.
        class_agnostic: whether all objects are of one class; the detector then has `num_classes` 1.
        frozen_encoder: whether the encoder keeps its weights, those that `model.init_from` gave it, and only neck and
            heads learn (and branches of a TokenPyramid), as in DETReg and AlignDet. A run without `model.init_from` is
            refused. With `freeze_statistics: false` statistics of batch norms are those of the crops.
        beside: another objective of the same backbone, such as MAE or SparK, whose loss is added in every step.
        weight: factor of the detector's losses where there is another objective beside.
        contrast: `ProposalContrast`, which takes each proposal as a class of its own in two views (AlignDet).
        embedding: `ProposalEmbedding`, which regresses the frozen encoder's embedding of each proposal (DETReg).

    Raises:
        UserError: `num_classes` is not that of the data, branches of a TokenPyramid would learn nothing, the objective
            beside has another backbone or wants other views, or it is asked to train a frozen encoder; in `forward`, a
            batch without boxes.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.detection import FCOS
        >>> from medpretrain3d.objectives import DetectorPretraining
        >>> objective = DetectorPretraining(FCOS(ResEnc("XXS"), num_classes=2, fpn_channels=16))
        >>> batch = {"image": torch.rand(2, 1, 16, 16, 16), "seed": torch.tensor([0, 1])}
        >>> batch |= {"boxes": torch.tensor([[2.0, 2, 2, 9, 9, 9]]), "labels": torch.tensor([1])}
        >>> output = objective(batch | {"box_of": torch.tensor([0])})
        >>> output.loss.backward()
        >>> sorted(output.logs)
        ['boxes', 'centerness', 'classification', 'num_objects']
    """

    paradigm = "detector"
    views = ("ObjectView",)

    def __init__(
        self,
        detector: Detector,
        classes: ClassesOfSets = (),
        class_agnostic: bool = False,
        frozen_encoder: bool = False,
        beside: Objective | None = None,
        weight: NonNegative = 1.0,
        contrast: ProposalContrast | None = None,
        embedding: ProposalEmbedding | None = None,
    ) -> None:
        super().__init__()
        _check_classes(detector, classes, class_agnostic)
        _check_levels(detector)
        self.backbone = detector.backbone
        self.detector = detector
        self.class_agnostic = class_agnostic
        self.frozen_encoder = frozen_encoder
        self.weight = weight
        self.patch_stride = detector.backbone.levels[-1].stride
        self.beside = None if beside is None else _around(detector, beside)
        if self.beside is not None:
            self.patch_stride = common_stride(self.patch_stride, self.beside.patch_stride)
        if frozen_encoder:
            if beside is not None:
                raise UserError(
                    f"DetectorPretraining: got frozen_encoder and {type(beside).__name__} beside, which trains the "
                    "encoder; leave one of them out"
                )
            # Branches of a TokenPyramid stand on it, are of no file, and learn as the neck does.
            self.backbone.encoder.requires_grad_(False)
        tasks: dict[str, ProposalTask | None] = {"contrast": contrast, "embedding": embedding}
        self.tasks = nn.ModuleDict({name: task for name, task in tasks.items() if task is not None})
        for task in self._tasks().values():
            task.build(detector, frozen_encoder)

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """`image` (B, C, D, H, W), `boxes` (N, 6), `labels` (N,) and `box_of` (N,) to the loss; pictures of masks."""
        if "boxes" not in batch:
            raise UserError("DetectorPretraining: the batch has no boxes; set data.views to ObjectView")
        image = batch["image"]
        targets = self._targets(batch)
        losses = self.detector.losses(image, targets)
        loss = torch.stack(list(losses.values())).sum()
        logs = {name: value.detach() for name, value in losses.items()}
        if self.tasks:
            valid = without_invalid(targets)
            for name, task in self._tasks().items():
                value = task(self.detector, image, valid, batch["seed"])
                loss, logs[name] = loss + task.weight * value, value.detach()
        logs["num_objects"] = image.new_full((), float(sum(len(one.labels) for one in targets)))
        preview = {"input": image[0, 0].detach()}
        if "label_map" in batch:
            preview["objects"] = batch["label_map"][0].long()
        if self.beside is None:
            return ObjectiveOutput(loss, logs, preview)
        other = self.beside(batch)
        name = type(self.beside).__name__.lower()
        logs |= {name: other.loss.detach(), **{f"{name}_{key}": value for key, value in other.logs.items()}}
        return ObjectiveOutput(self.weight * loss + other.loss, logs, preview | other.preview)

    def compiled_parts(self) -> dict[str, nn.Module]:
        """Return what the detector and the objective beside are compiled by."""
        parts = {f"detector.{name}": part for name, part in self.detector.compiled_parts().items()}
        if self.beside is not None:
            others = {f"beside.{name}": part for name, part in self.beside.compiled_parts().items()}
            of_encoder = set(self.backbone.modules())  # once, and not at all where the other objective hides blocks
            has_backbone = any(part is self.backbone for part in others.values())
            parts = {name: part for name, part in parts.items() if has_backbone or part not in of_encoder}
            parts |= {name: part for name, part in others.items() if part is not self.backbone}
        return parts

    def take(self, part: DetectorPart, source: str) -> TransferReport:
        """Go on from neck and heads of a file: all that fits but the class layers.

        Raises:
            UserError: see `load_detector`.
        """
        return load_detector(self.detector, part, "all", source)

    def after_load(self) -> None:
        """Reset copies of backbone and detector that the objective beside and the tasks keep."""
        for task in self._tasks().values():
            task.after_load(self.detector)
        if self.beside is not None:
            self.beside.after_load()

    def at_step(self, step: int, num_steps: int) -> None:
        """Say to the objective beside where the run stands."""
        if self.beside is not None:
            self.beside.at_step(step, num_steps)

    def schedules(self, step: int, num_steps: int) -> dict[str, float]:
        """Return those of the objective beside."""
        return {} if self.beside is None else self.beside.schedules(step, num_steps)

    def after_step(self) -> None:
        """Update averages that the objective beside and the tasks keep."""
        for task in self._tasks().values():
            task.after_step(self.detector)
        if self.beside is not None:
            self.beside.after_step()

    def _tasks(self) -> dict[str, ProposalTask]:
        return {name: task for name, task in self.tasks.items() if isinstance(task, ProposalTask)}

    def _targets(self, batch: Batch) -> list[Targets]:
        """Return the objects of each sample, on the CPU, where they are matched: those that a stage kept there."""
        names = [name for name in KEPT_ON_HOST if name in batch and name not in ("seed", "dataset")]
        are_kept = all(name + ON_HOST in batch for name in names)
        kept = [batch[name + ON_HOST] for name in names] if are_kept else to_host([batch[name] for name in names])
        here = dict(zip(names, kept, strict=True))
        boxes, box_of = here["boxes"], here["box_of"]
        labels = torch.zeros_like(here["labels"]) if self.class_agnostic else here["labels"]
        targets = []
        for sample, seed in enumerate(batch["seed"]):
            own = box_of == sample
            ignore = here["ignore"][here["ignore_of"] == sample] if "ignore" in here else None
            targets.append(Targets(boxes[own], labels[own], self._mask(batch, sample), ignore, seed))
        return targets

    def _mask(self, batch: Batch, sample: int) -> Tensor | None:
        if "label_map" not in batch:
            return None
        mask = batch["label_map"][sample]
        return mask.clamp(max=1) if self.class_agnostic else mask


def _around(detector: Detector, beside: Objective) -> Objective:
    """Return the objective around the detector's own backbone.

    Raises:
        UserError: it was given another one, or wants other views than one crop.
    """
    name, config, wanted = type(beside).__name__, to_config(beside), to_config(detector.backbone)
    if isinstance(beside, DetectorPretraining) or config["init_args"].get("backbone") != wanted:
        raise UserError(
            f"DetectorPretraining: {name} beside has another backbone than the detector; give both the same arguments"
        )
    if beside.views and "OneView" not in beside.views:
        raise UserError(
            f"DetectorPretraining: {name} beside wants data.views {' or '.join(beside.views)}, here is ObjectView; "
            "use an objective of one crop, such as MAE or SparK"
        )
    arguments = {**config["init_args"], "backbone": detector.backbone}
    return from_config({**config, "init_args": arguments}, Objective)


def _check_levels(detector: Detector) -> None:
    """Refuse a pyramid of tokens whose finer branches nothing looks at: they would get no gradient."""
    levels = detector.backbone.levels
    first = getattr(detector, "first_level", len(levels) - getattr(detector, "num_levels", len(levels)))
    if isinstance(detector.backbone, TokenPyramid) and first > 0:
        raise UserError(
            f"DetectorPretraining: {type(detector).__name__} looks at a TokenPyramid from level {first} on, so that "
            f"finer branches would learn nothing; use first_level 0, of Deformable DETR num_levels {len(levels)}"
        )


def _check_classes(detector: Detector, classes: ClassesOfSets, class_agnostic: bool) -> None:
    if class_agnostic and detector.num_classes != 1:
        raise UserError(
            f"DetectorPretraining: got num_classes {detector.num_classes} and class_agnostic, wanted 1; set "
            "detector.init_args.num_classes to 1"
        )
    names = classes[0] if classes else ()
    if names and not class_agnostic and detector.num_classes != len(names):
        raise UserError(
            f"DetectorPretraining: got num_classes {detector.num_classes}, but the store has {len(names)} kinds of "
            f"objects ({', '.join(names)}); set detector.init_args.num_classes to {len(names)}, or class_agnostic to "
            "true and it to 1"
        )

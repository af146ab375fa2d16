"""Trains any Detector; validates and tests on whole volumes."""

from __future__ import annotations

from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn

from finetune.datamodule import FinetuneData
from finetune.finished_volumes import FinishedVolumes
from finetune.initialization import initialize
from finetune.provenance import encoder_card, start_metadata
from finetune.scoring import CaseResult, evaluate_results
from finetune.seen_scans import SeenScans, check_seen_scans
from finetune.unlabeled_term import Term, UnlabeledTerm
from finetune.validated_cases import check_validated
from medpretrain3d.backbones import (
    ReadOptions,
    check_patch,
    encoder_entry,
    read_encoder,
)
from medpretrain3d.backbones.checkpoints.completeness import check_rebuildable
from medpretrain3d.backbones.checkpoints.topology import Topology
from medpretrain3d.boxes import Targets
from medpretrain3d.detection import Detector
from medpretrain3d.detection.transfer import Init
from medpretrain3d.engine.distributed import (
    gather_by_case,
    numbers_to_log,
    rank_zero_print,
    show_loss,
)
from medpretrain3d.engine.optimizer import OptimConfig, configure, current_lr, freeze, rests_at_random
from medpretrain3d.engine.step_means import StepMeans
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.protocols import PROTOCOLS, ObjectProtocol, ProtocolName
from medpretrain3d.inference import (
    InferenceConfig,
    RawDetections,
    ScanTiles,
    detect_tiles,
    merge_raw_detections,
)
from medpretrain3d.inference.cached_detections import CachedCase
from medpretrain3d.precision.names import network_precision, training_precision_name
from medpretrain3d.processes import total
from medpretrain3d.randomness import sample_seeds
from medpretrain3d.run_metadata import RunMetadata
from medpretrain3d.semi_supervised import SemiSupervised
from medpretrain3d.store.left_right import mirrored_sides
from medpretrain3d.store.points import refuse_points
from medpretrain3d.store.store import Case
from medpretrain3d.values import Checked, Count


class FinetuneModule(Checked, L.LightningModule):
    """Wiring between a detector and the trainer.

    Args:
        detector: the network, with the backbone inside.
        init_from: weights of the backbone: file, folder or `owner/name` of a hub; else random. Its format is
            one of docs/checkpoints.md, or an encoder file or detector bundle of this package.
        init_options: choices that some of these formats leave open.
        init: what is taken of the file: `encoder`, `neck` (and encoder), `detector` (box head too), `all` but class
            layers. `detector` leaves class tower and mask classifier (a channel a class, of RetinaUNet) fresh, `all`
            the mask classifier; a head of InstanceMasks, which knows no class, comes with the box head. What other
            levels, anchors or lengths shape stays fresh. When absent `detector` of an encoder file of
            DetectorPretraining, else `encoder`.
        init_fpn: with a bundle, its feature pyramid too.
        init_groups: depth groups of the encoder that are taken, from its input. The others stay random, and neck and
            heads fresh (`init: encoder`).
        init_topology: with `adapt` other kernels and patches are fitted. Each such tensor is named; `same` refuses
            them.
        allow_seen_scans: go on with an encoder that saw labels of held-out scans.
        optim: how weights are updated.
        inference: tiles and merging on whole volumes; the bundle predicts with the same settings.
        weights: of the bundle and the test: the `last` ones, or those of the `best` validation. The last ones are
            averaged where the recipe averages; the best are those with the highest mAP (of `centre`: AP by distance).
            Few validation cases choose by chance, and what they then score is better than what new cases will.
        protocol: of validation and test, by overlap or distance of centers. When absent `centre` where the data
            hold points, else `detection`.
        semi_supervised: how `data.unlabeled` is learned from. The teacher is the moving average of the weights, so the
            recipe has to keep one.

    Raises:
        UserError: the detector is of no loaded plugin or cannot be made again from its arguments, or the checkpoint is
            unreadable, of another architecture, or does not hold what shall be taken, or nothing of that fits, or the
            detector is none that `semi_supervised` can teach.
    """

    def __init__(
        self,
        detector: Detector,
        init_from: str | None = None,
        init_options: ReadOptions = ReadOptions(),  # noqa: B008  frozen
        init: Init | None = None,
        init_fpn: bool = False,
        init_groups: Count | None = None,
        init_topology: Topology = "same",
        allow_seen_scans: bool = False,
        optim: OptimConfig = OptimConfig(),  # noqa: B008  frozen
        inference: InferenceConfig = InferenceConfig(),  # noqa: B008  frozen
        weights: Literal["last", "best"] = "last",
        protocol: ProtocolName | None = None,
        semi_supervised: SemiSupervised | None = None,
    ) -> None:
        super().__init__()
        check_rebuildable(detector)
        self.detector = detector
        self.optim = optim
        self.inference = inference
        self.weights: Literal["last", "best"] = weights
        self.protocol: ProtocolName | None = protocol
        self.allow_seen_scans = allow_seen_scans
        self.seen: SeenScans | None = None
        if doubt := rests_at_random(optim, init_from, init_groups):
            rank_zero_print(doubt)
        self.init_from, self.init_groups = init_from, init_groups
        self.encoder = read_encoder(init_from, init_options) if init_from else None
        self.transferred = initialize(detector, self.encoder, init_from, init, init_fpn, init_topology, init_groups)
        self.unlabeled: UnlabeledTerm | None = None
        if semi_supervised is not None:
            self.unlabeled = UnlabeledTerm(semi_supervised, semi_supervised.check(detector))
        self.results: dict[str, CaseResult] = {}
        self.raw_detections: dict[str, CachedCase] = {}
        """Of the validation that runs, in this process's share of the volumes."""
        self.finished: FinishedVolumes | None = None
        """Volumes that an interrupted validation or test has looked at; None where none are kept."""
        self._left_out_elsewhere = torch.zeros(2, dtype=torch.long)
        self._means = StepMeans()

    def metadata(self) -> RunMetadata:
        """Return which network is trained, and what its weights come from."""
        network = RunMetadata(
            detector=type(self.detector).__name__,
            backbone=self.detector.backbone.name,
            params=sum(parameter.numel() for parameter in self.detector.parameters()),
        )
        beside = RunMetadata(semi_supervised=type(self.unlabeled.method).__name__.lower() if self.unlabeled else None)
        return network | start_metadata(self.encoder) | beside | (self.seen.metadata() if self.seen else RunMetadata())

    def compiled_parts(self) -> dict[str, nn.Module]:
        """Return what `device.compile` compiles."""
        return self.detector.compiled_parts()

    @property
    def data(self) -> FinetuneData:
        """The data module that the trainer was given."""
        result: FinetuneData = self.trainer.datamodule  # type: ignore[attr-defined]  # set when fitting starts
        return result

    def schedules(self, step: int, num_steps: int) -> dict[str, float]:
        """Return by name what follows the length of the run: how much unlabeled crops weigh."""
        if self.unlabeled is None:
            return {}
        return {"weight of unlabeled crops": self.unlabeled.method.weight_at(step, num_steps)}

    def configure_callbacks(self) -> list[L.Callback]:
        """Return what counts what unlabeled crops give."""
        return [] if self.unlabeled is None else [self.unlabeled]

    def setup(self, stage: str) -> None:
        """Check that detector and data fit together before any time is spent."""
        data = self.data
        freeze(self.detector, self.optim)
        check_patch(data.patch, self.detector.backbone.levels[-1].stride)
        if self.detector.num_classes != len(data.classes):
            raise UserError(
                f"detector.num_classes is {self.detector.num_classes}, but the store has {len(data.classes)} classes "
                f"({', '.join(data.classes)}); set num_classes to {len(data.classes)}"
            )
        if stage != "fit":  # the final test is set up once more
            return
        self._check_objects(data)
        if data.unlabeled is not None and self.unlabeled is None:
            raise UserError(
                "data.unlabeled: nothing learns from it; set model.semi_supervised to MeanTeacher or FocalMix, or take "
                "the store away"
            )
        if exchanged := mirrored_sides(data.classes, self.inference.mirror_axes):
            rank_zero_print(f"warning: model.inference: {exchanged}")
        check_validated(data, self.trainer.limit_val_batches, self.weights == "best")
        if self.encoder is not None:
            self.seen = check_seen_scans(self.encoder, data, self.allow_seen_scans)
        else:
            self.seen = SeenScans.of(None, data)

    @property
    def scored_by(self) -> ObjectProtocol:
        """The protocol of validation and test."""
        return PROTOCOLS[self.protocol or ("centre" if self.data.num_points else "detection")]

    def _check_objects(self, data: FinetuneData) -> None:
        """Compare the detector and the protocol with what the objects are, and lengths in mm with the spacing."""
        counts = data.num_points, data.num_objects
        if not self.detector.learns_points:
            name = type(self.detector).__name__
            refuse_points(*counts, f"{name}, which learns boxes,", "take HeatMap, or add a column diameter_mm")
        if self.protocol == "detection":
            refuse_points(*counts, "model.protocol detection", "set it to centre")
        self.detector.check_spacing(data.corpus.spacing_mm)

    def training_step(self, batch: tuple[Any, ...], batch_idx: int) -> Tensor:
        """Return sum of the detector's losses on one batch, and of what its crops without labels teach."""
        image, targets, *unlabeled = batch
        with sample_seeds(torch.stack([_seed(target) for target in targets])):
            losses = self.detector.losses(image, targets)
        loss = torch.stack(list(losses.values())).sum()
        term = Term(None, {}) if self.unlabeled is None else self.unlabeled(self, image, targets, *unlabeled)
        if term.loss is not None:
            loss = loss + term.loss
        left_out = float(self._left_out_here().sum()) * self.trainer.world_size  # the sum, of what is averaged below
        own = numbers_to_log(self, {"num_invalid": left_out, "lr": current_lr(self.trainer.optimizers[0])})
        rate = own.pop("lr")
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches:  # it counts on: the last one holds all
            own = {}
        values = self._means.add(self.trainer, {"loss": loss, **losses, **term.logs, **own}, batch_idx)
        self._loss_to_show = values["loss"]
        self.log_dict({f"train/{name}": value for name, value in values.items()}, batch_size=len(image))
        self.log("lr", rate, batch_size=1)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Show the loss in the progress bar."""
        show_loss(self, self._loss_to_show)

    def validation_step(self, case: Case | None, batch_idx: int) -> None:
        """Detect in one whole volume; nothing is to do where another process has one case more."""
        if case is not None:
            self.raw_detections[case.id] = CachedCase.of(case, self._detect(case))

    def test_step(self, case: Case | None, batch_idx: int) -> None:
        """Detect in one whole volume; nothing is to do where another process has one case more."""
        if case is not None:
            self._detect(case)

    def on_validation_epoch_start(self) -> None:
        """Reset the results."""
        self.results = {}

    def on_test_epoch_start(self) -> None:
        """Reset the results."""
        self.results = {}

    def on_validation_epoch_end(self) -> None:
        """Metrics over all volumes of all processes, the same on each."""
        self.results = gather_by_case(self.results)
        metrics = evaluate_results(self.results, self.data.classes, self.scored_by)
        self.log_dict({f"val/{name}": value for name, value in metrics.items()}, prog_bar=True, rank_zero_only=False)

    def on_test_epoch_end(self) -> None:
        """Collect what the end of the run writes down."""
        self.results = gather_by_case(self.results)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the encoder entry to the checkpoint, so that it can be read like a detector bundle's.

        What all processes left out so far is kept too; after a failure, when they cannot be asked, what the others did
        up to the checkpoint before.
        """
        checkpoint["num_invalid"] = (self._left_out_here() + self._left_out_elsewhere).tolist()
        card = encoder_card(self.detector, self.encoder, self.init_groups, self.unlabeled, self.data)
        checkpoint |= encoder_entry(self.detector.backbone, "detector", card, self.detector)

    def on_before_save(self) -> None:
        """Learn what the other processes left out so far."""
        own = self._left_out_here()
        self._left_out_elsewhere = total(own.to(self.device)).cpu() - own

    def _left_out_here(self) -> Tensor:
        return torch.tensor([self.detector.num_invalid_boxes, self.detector.num_invalid_predictions])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting, on the first process what all had counted."""
        if self.trainer.is_global_zero and "num_invalid" in checkpoint:
            self.detector.num_invalid_boxes, self.detector.num_invalid_predictions = checkpoint["num_invalid"]

    def configure_optimizers(self) -> Any:
        """Return the recipe's optimiser and schedule."""
        return configure(self.detector, self.optim, self.trainer.max_steps, self.transferred)

    def detect_raw(self, case: Case) -> RawDetections:
        """Run the detector on one whole volume and return its detections, not merged.

        Raises:
            UserError: none of its predictions is finite.
        """
        tiles = ScanTiles(case, self.data.preprocessing())
        try:
            return detect_tiles(
                self.detector,
                tiles,
                self.data.patch,
                self.inference,
                precision=network_precision(training_precision_name(self.trainer.precision)),
            )
        except UserError as error:
            raise UserError(f"{case.id}: {error}") from error

    def raw_detections_of(self, case: Case) -> RawDetections:
        """Return the detections in one whole volume, not merged; one that an earlier sitting finished is not run again.

        Raises:
            UserError: see `detect_raw`; the disk is full.
        """
        kept = None if self.finished is None else self.finished.load(case)
        if kept is not None:
            return kept
        num_invalid = self.detector.num_invalid_predictions
        found = self.detect_raw(case)
        if self.finished is not None and self.detector.num_invalid_predictions == num_invalid:  # else it counts again
            self.finished.save(case, found, self.data.classes, self.inference)
        return found

    def _detect(self, case: Case) -> RawDetections:
        raw_detections = self.raw_detections_of(case)
        found = merge_raw_detections(raw_detections, self.inference, case.grid.spacing_mm)
        self.results[case.id] = CaseResult.of(case, found)
        return raw_detections


def _seed(target: Targets) -> Tensor:
    assert target.seed is not None, "the data module draws a seed for every crop"
    return target.seed

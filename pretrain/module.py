"""Trains any Objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from medpretrain3d.backbones import (
    DetectorPart,
    ReadOptions,
    VolumesSeen,
    check_patch,
    encoder_entry,
    load_encoder,
    provenance_of,
    read_encoder,
)
from medpretrain3d.backbones.base import sharded_blocks
from medpretrain3d.backbones.checkpoints.completeness import check_described, check_rebuildable
from medpretrain3d.backbones.checkpoints.topology import Topology
from medpretrain3d.configurable import to_config
from medpretrain3d.engine.distributed import numbers_to_log, rank_zero_print, show_loss
from medpretrain3d.engine.optimizer import OptimConfig, configure, current_lr, freeze, rests_at_random
from medpretrain3d.engine.step_means import StepMeans
from medpretrain3d.errors import UserError
from medpretrain3d.objectives import Batch, DetectorPretraining, Objective
from medpretrain3d.run_metadata import RunMetadata
from medpretrain3d.store.corpus import CaseRef
from medpretrain3d.values import Checked
from pretrain.datamodule import PretrainData
from pretrain.preprocessing import compare_preprocessing


class PretrainModule(Checked, L.LightningModule):
    """Wiring between an objective and the trainer.

    Args:
        objective: the task, with the backbone inside.
        optim: how weights are updated.
        init_from: weights to go on from: an encoder file, or a checkpoint of any format of docs/checkpoints.md.
        init_options: choices that some of these formats leave open.
        init_topology: with `adapt` other kernels and patches are fitted. Each such tensor is named; `same` refuses
            them.

    Raises:
        UserError: objective or backbone are of no loaded plugin or cannot be made again from their arguments, the
            checkpoint is unreadable or of another architecture, or an encoder is to stay as it is and has no weights.
    """

    def __init__(
        self,
        objective: Objective,
        optim: OptimConfig = OptimConfig(),  # noqa: B008  frozen
        init_from: str | None = None,
        init_options: ReadOptions = ReadOptions(),  # noqa: B008  frozen
        init_topology: Topology = "same",
    ) -> None:
        super().__init__()
        check_rebuildable(objective.backbone)
        self.plugins = check_described(objective)
        if isinstance(objective, DetectorPretraining) and objective.frozen_encoder and not init_from:
            raise UserError(
                "DetectorPretraining: got frozen_encoder and no model.init_from, so that the encoder would stay "
                "random; set model.init_from to an encoder, or frozen_encoder to false"
            )
        self.objective = objective
        self.optim = optim
        self._means = StepMeans()
        if doubt := rests_at_random(optim, init_from):
            rank_zero_print(doubt)
        self.init_from = init_from
        self.encoder = read_encoder(init_from, init_options) if init_from else None
        self.transferred: tuple[str, ...] = ()
        if self.encoder is not None:
            if isinstance(objective, DetectorPretraining) and self.encoder.detector is not None:
                report = objective.take(self.encoder.detector, str(init_from))
                rank_zero_print(f"{init_from}: {report}")
                self.transferred = tuple(f"detector.{name}" for name in report.taken)
            loaded = load_encoder(objective.backbone, self.encoder, objective, self.transferred, init_topology)
            rank_zero_print(f"{init_from}: {loaded}")
            objective.after_load()
            for name in VolumesSeen.of_encoder(self.encoder).unknown:
                rank_zero_print(
                    f"{name} does not list the scans that it was trained on, so what comes of it cannot either"
                )

    def metadata(self) -> RunMetadata:
        """Return which network learns in which way."""
        return RunMetadata(
            paradigm=self.objective.paradigm,
            method=type(self.objective).__name__.lower(),
            backbone=self.objective.backbone.name,
            params=self.objective.backbone.num_parameters(),
            init_sha256=self.encoder.sha256 if self.encoder else None,
        )

    def compiled_parts(self) -> dict[str, nn.Module]:
        """Return what `device.compile` compiles."""
        return self.objective.compiled_parts()

    def sharded_parts(self) -> list[nn.Module]:
        """Return what `fsdp2` gathers together: each block of a transformer, and all the rest."""
        return [*sharded_blocks(self.objective), self.objective]

    @property
    def data(self) -> PretrainData:
        """The data module that the trainer was given."""
        result: PretrainData = self.trainer.datamodule  # type: ignore[attr-defined]  # set when fitting starts
        return result

    def setup(self, stage: str) -> None:
        """Check that the patch suits the pyramid and the task before any time is spent."""
        wanted, views = self.objective.views, type(self.data.views)
        if wanted and not {cls.__name__ for cls in views.__mro__} & set(wanted):
            raise UserError(
                f"{type(self.objective).__name__}: got data.views {views.__name__}, wanted {' or '.join(wanted)}; set "
                f"data.views to {wanted[0]}"
            )
        stride, coarsest = self.objective.patch_stride, self.objective.backbone.levels[-1].stride
        whose = "the coarsest stride"
        if stride != coarsest:
            whose = f"the common multiple of the coarsest stride {coarsest} and the mask_block,"
        for size in self.data.views.sizes(self.data.patch):
            check_patch(size, stride, whose)
        if isinstance(self.objective, DetectorPretraining):
            self.objective.detector.check_spacing(self.data.corpus.spacing_mm)
        if self.encoder is not None:
            corpus = self.data.corpus
            compare_preprocessing(
                self.encoder, str(self.init_from), self.data.window, corpus.units, corpus.spacing_mm, rank_zero_warn
            )
        freeze(self.objective, self.optim)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Say where the run stands, to what changes over it."""
        self.objective.at_step(self.global_step, self.trainer.max_steps)

    def on_validation_start(self) -> None:
        """Say it before a validation too, which may be made up before the first step of a run that goes on."""
        self.objective.at_step(self.global_step, self.trainer.max_steps)

    def schedules(self, step: int, num_steps: int) -> dict[str, float]:
        """Return by name what of the objective follows the length of the run."""
        return self.objective.schedules(step, num_steps)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return loss of one batch."""
        out = self.objective(batch)
        values = self._means.add(self.trainer, {"loss": out.loss, **out.logs}, batch_idx)
        self._loss_to_show = values["loss"]
        self.log_dict({f"train/{name}": value for name, value in values.items()})
        self.log_dict(numbers_to_log(self, {"lr": current_lr(self.trainer.optimizers[0])}))
        return out.loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Show the loss in the progress bar."""
        show_loss(self, self._loss_to_show)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step the optimizer, then update what follows the weights, such as an EMA teacher."""
        super().optimizer_step(*args, **kwargs)
        self.objective.after_step()

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return loss on crops that are the same every time, and something to look at."""
        out = self.objective(batch)
        self.log("val/loss", out.loss, prog_bar=True, sync_dist=True, batch_size=len(batch["seed"]))
        return {"preview": out.preview}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the encoder entry to the checkpoint, so that it can be read like an encoder file."""
        detector = self.objective.detector if isinstance(self.objective, DetectorPretraining) else None
        prefix = f"objective.{self.objective.encoder_prefix}"
        checkpoint |= encoder_entry(self.objective.encoder, "objective", self.card(), detector, prefix)

    def volumes_seen(self) -> VolumesSeen:
        """Return scans that the weights were trained on, here and before."""
        seen = VolumesSeen.of_encoder(self.encoder)
        for with_labels in (False, True):
            own = [case.voxels for case in self.data.train_cases if self._shows_labels(case) == with_labels]
            seen |= VolumesSeen.of_training(own, with_labels=with_labels)
        return seen

    def _shows_labels(self, case: CaseRef) -> bool:
        """Whether labels of a case say what is learned or where crops are: objects found by rules are none."""
        paradigm = self.objective.paradigm
        if paradigm == "supervised":
            return True
        is_placed = self.data.crop_sampler.object_share > 0 and any(case.counts)
        return (paradigm == "detector" or is_placed) and not case.store.has_pseudo_objects

    def detector_part(self, state: Mapping[str, Tensor]) -> DetectorPart | None:
        """Return neck and heads of a state dict of the objective, where it trains a whole detector."""
        if not isinstance(self.objective, DetectorPretraining):
            return None
        prefix = "detector."
        own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        return DetectorPart.of_state(to_config(self.objective.detector), own)

    def card(self) -> dict[str, Any]:
        """Return the model card of the encoder: how it sees images, how it was trained, where it began."""
        own = self.metadata()
        pretraining = {
            "objective": to_config(self.objective),
            "paradigm": own.paradigm,
            "method": own.method,
            "seed": self.data.seed,
            **self.data.metadata().known(),
            **({"plugins": self.plugins} if self.plugins else {}),
        }
        return {
            "preprocessing": self.data.preprocessing().to_json(),
            "pretraining": pretraining,
            "citations": [self.objective.backbone.citation],
            "volumes_seen": self.volumes_seen().to_json(),
            **({"continued_from": provenance_of(self.encoder)} if self.encoder else {}),
        }

    def configure_optimizers(self) -> Any:
        """Return the recipe's optimiser and schedule."""
        return configure(self.objective, self.optim, self.trainer.max_steps, self.transferred)

"""Probing of the backbone's features, on the same crops at every validation."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from medpretrain3d.engine.distributed import gather_by_case, rank_zero_print
from medpretrain3d.errors import UserError
from medpretrain3d.loading.crops import CropReader
from medpretrain3d.loading.sampling import uniform_start
from medpretrain3d.loading.spatial_transform import IDENTITY, Patch
from medpretrain3d.probing import effective_rank
from medpretrain3d.store.corpus import LABELED, CaseRef, Corpus
from medpretrain3d.store.store import Case
from medpretrain3d.values import Checked, NonNegative, Rows
from pretrain.datamodule import PretrainData
from pretrain.module import PretrainModule
from pretrain.representation import feature_std, knn_accuracy, linear_accuracy, psnr


class Probes(Checked, L.Callback):
    """Measures features at every validation; named in a recipe under `trainer.callbacks`.

    Logged as `probe/...`: `effective_rank` and `feature_std` of the coarsest level, averaged over space, over crops of
    held-out cases; `psnr` of what was hidden in the validation crops, of objectives that restore; with a labelled
    store, accuracies `knn` and `linear` of telling its classes by the cells at the centre of crops around its objects.
    Every second case teaches, the others are asked.

    Args:
        store: a labelled store to probe with; none for spread and rank alone.
        num_crops: crops of each kind at most.
        min_share: the features have collapsed when their spread or effective rank is below this share of what it was
            before the first step, or zero.
        stop_on_collapse: whether a collapse ends the run, with an error; otherwise it is said and logged.
    """

    # Spread and rank depend on the architecture, so each run is measured by its own start. Shares of it after 100 steps
    # of a ViT on random volumes: DINO 0.78 and 0.90, DINO uncentred 0.21 and 0.30, SimCLR at a temperature of 100 0.82
    # and 0.19, views that only attract each other 0.09 and 0.50.
    def __init__(
        self,
        store: str | None = None,
        num_crops: Rows = 64,
        min_share: NonNegative = 0.33,
        stop_on_collapse: bool = False,
    ) -> None:
        self.corpus = Corpus([store]) if store else None
        self.num_crops = num_crops
        self.min_share = min_share
        self.stop_on_collapse = stop_on_collapse
        self.start: dict[str, float] = {}
        """Spread and rank before the first step; goes on with the run."""
        self._psnr: dict[str, float] = {}

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Say where nothing will be measured.

        Raises:
            UserError: the labelled store has too few cases with objects for some to teach and others to be asked.
        """
        assert isinstance(module, PretrainModule)
        if not module.data.val_cases or not trainer.limit_val_batches:
            rank_zero_print(
                "warning: Probes measure at validations, and there will be none: no case is held out "
                "(data.num_val_cases), or trainer.limit_val_batches is 0"
            )
        elif self.corpus is not None:
            with_objects = [sum(any(case.counts) for case in self._cases(part)) for part in (0, 1)]
            if not all(with_objects):
                raise UserError(
                    f"Probes: {self.corpus.name}: {with_objects[0]} cases with objects to teach and {with_objects[1]} "
                    "to ask, which are every second labelled case; wanted at least one of each, so take another store, "
                    "or leave it out"
                )

    def state_dict(self) -> dict[str, Any]:
        """Return the callback's state."""
        return {"start": self.start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self.start = dict(state_dict["start"])

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Measure the features that the run starts from."""
        assert isinstance(module, PretrainModule)
        if trainer.global_step == 0:
            encoder = module.objective.encoder
            was_training = encoder.training  # a teacher is not
            encoder.eval()
            with torch.no_grad():
                self.start = self._spread(module)
            encoder.train(was_training)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Compute the PSNR of the restored hidden part of this batch's first crop."""
        shown = outputs.get("preview", {}) if isinstance(outputs, dict) else {}
        if not {"input", "restored"} <= shown.keys():
            return
        hidden = shown["masked"] != shown["input"] if "masked" in shown else torch.ones_like(shown["input"]).bool()
        if hidden.any():
            value = float(psnr(shown["restored"], shown["input"], hidden))
            self._psnr[f"{batch_idx} {trainer.global_rank}"] = value

    def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Every process measures the same crops, so that all of them agree on a collapse.

        Raises:
            UserError: the features have collapsed, and the run shall stop then.
        """
        assert isinstance(module, PretrainModule)
        restored, self._psnr = gather_by_case(self._psnr), {}  # of each process that has any
        if restored:
            module.log("probe/psnr", float(np.mean(list(restored.values()))), rank_zero_only=False)
        spread = self._spread(module)
        if not spread:
            return
        found = {**spread, **self._organs(module)}
        module.log_dict({f"probe/{name}": value for name, value in found.items()}, rank_zero_only=False)
        fallen = [name for name, value in spread.items() if value <= self.min_share * self.start.get(name, 0.0)]
        if fallen:
            message = f"step {trainer.global_step}: features have collapsed: " + ", ".join(
                f"{name} {spread[name]:.3f} (at the start {self.start.get(name, 0.0):.3f})" for name in fallen
            )
            if self.stop_on_collapse:
                raise UserError(f"{message}; lower the learning rate, or set stop_on_collapse to false to go on")
            rank_zero_print(message)

    def _spread(self, module: PretrainModule) -> dict[str, float]:
        """Return effective rank and standard deviation over crops of held-out cases; empty where there are too few."""
        crops = self._anywhere(module.data)
        if len(crops) < 2:
            return {}
        features = torch.stack([self._feature(module, crop).mean(dim=(1, 2, 3)) for crop in crops])  # (N, C)
        return {"effective_rank": effective_rank(features), "feature_std": feature_std(features)}

    def _organs(self, module: PretrainModule) -> dict[str, float]:
        """Return accuracies on the labelled store, chance is one over the number of classes; empty without a store."""
        if self.corpus is None:
            return {}
        teaching, asked = (self._objects(module, part) for part in (0, 1))
        return {"knn": knn_accuracy(*teaching, *asked), "linear": linear_accuracy(*teaching, *asked)}

    def _cases(self, part: int) -> list[CaseRef]:
        """Return every second labelled case."""
        assert self.corpus is not None
        return self.corpus.cases(LABELED)[part::2]

    def _objects(self, module: PretrainModule, part: int) -> tuple[Tensor, Tensor]:
        """Return features (N, C) at the centres of objects of every second case, and their classes (N,)."""
        rows: list[Tensor] = []
        labels: list[int] = []
        for ref in self._cases(part):
            case = ref.open()
            for box, label in zip(case.boxes, case.labels, strict=True):
                if len(rows) < self.num_crops:
                    crop = _read(module.data, case, _around(box, module.data.patch))
                    rows.append(_middle(self._feature(module, crop)))
                    labels.append(int(label))
        return torch.stack(rows), torch.tensor(labels, device=rows[0].device)

    def _anywhere(self, data: PretrainData) -> list[Tensor]:
        """Return crops (C, D, H, W) dealt out over the held-out cases, at places that never change."""
        refs: list[CaseRef] = data.val_cases
        random = np.random.Generator(np.random.Philox(0))
        crops = []
        for index in range(self.num_crops if refs else 0):
            case = refs[index % len(refs)].open()
            crops.append(_read(data, case, uniform_start(case.grid.shape, data.patch, random)))
        return crops

    def _feature(self, module: PretrainModule, crop: Tensor) -> Tensor:
        """Return the coarsest map (C, d, h, w) of a crop, computed in the run's precision."""
        with module.trainer.precision_plugin.val_step_context():
            return module.objective.encode(crop[None].to(module.device))[-1][0].float()


def _read(data: PretrainData, case: Case, start: Patch) -> Tensor:
    reader = CropReader(data.patch, data.window)
    return reader.image(case, start, IDENTITY, np.random.Generator(np.random.Philox(0))).apply()


def _around(box: np.ndarray, patch: Patch) -> Patch:
    """Return lowest corner of a crop with the box in its middle; it may lie outside the volume, where there is air."""
    d, h, w = (round(float(edge)) for edge in (box[:3] + box[3:]) / 2 - np.array(patch) / 2)
    return (d, h, w)


def _middle(feature: Tensor) -> Tensor:
    """Return mean (C,) of the one or two cells in the middle of each axis of a map (C, d, h, w)."""
    for axis in (1, 2, 3):
        size = feature.shape[axis]
        feature = feature.narrow(axis, (size - 1) // 2, 2 - size % 2)
    return feature.mean(dim=(1, 2, 3))

"""Raw detections in whole volumes, kept from the last validation and while one runs: none is looked at twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn
from xxhash import xxh3_128

from finetune.dealing import dealt_out
from finetune.finished_volumes import FinishedVolumes
from finetune.module import FinetuneModule
from finetune.scoring import CaseResult
from medpretrain3d.engine.distributed import gather_by_case, share_buffers
from medpretrain3d.errors import UserError
from medpretrain3d.inference import merge_raw_detections
from medpretrain3d.inference.cached_detections import CachedCase, CachedDetections


class KeepRawDetections(L.Callback):
    """Writes the raw detections of each validation, and which weights and settings they are of.

    Those of each volume are written as soon as it has been looked at, in the test as well, and removed once training
    has gone on, or by whoever has written the test: a validation is over when a checkpoint says so.

    Has to come behind a callback that puts averaged weights in the place of the others for a validation.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._made_by = ""
        self._finished = FinishedVolumes(self.path.parent / "volumes")
        self._may_hold_volumes = True  # of an earlier sitting

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        """Let the module find what an earlier sitting has looked at."""
        assert isinstance(module, FinetuneModule)
        module.finished = self._finished

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Training goes on, so that no validation is made up any more."""
        if self._may_hold_volumes and trainer.is_global_zero:
            self._finished.remove()
        self._may_hold_volumes = False

    def on_validation_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Look at the weights while they are those that validate."""
        assert isinstance(module, FinetuneModule)
        module.raw_detections = {}
        self._begin(trainer, module)

    def on_test_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Look at the weights that are tested."""
        assert isinstance(module, FinetuneModule)
        self._begin(trainer, module)

    def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Write what all processes saw."""
        assert isinstance(module, FinetuneModule)
        if not trainer.sanity_checking:
            _save(self.path, trainer, module, self._made_by, module.raw_detections)
        module.raw_detections = {}

    def _begin(self, trainer: L.Trainer, module: FinetuneModule) -> None:
        share_buffers(module.detector)
        self._made_by = made_by(trainer, module)
        self._finished.begin(self._made_by)
        self._may_hold_volumes = True


def complete_raw_detections(path: Path, trainer: L.Trainer, module: FinetuneModule) -> None:
    """Leave in the file what the final weights see in all validation volumes, for `medpretrain3d tune`.

    Volumes that the last validation looked at with these weights and settings, in this sitting or an earlier one, are
    not looked at again. Nothing happens without validation volumes.

    Args:
        path: what `KeepRawDetections` wrote; need not be there.
        trainer: has finished fitting.
        module: with the final weights.
    """
    cases = module.data.val_cases
    if not cases:
        return
    module.to(trainer.strategy.root_device).eval()  # fitting leaves the weights on the CPU
    share_buffers(module.detector)
    identity = made_by(trainer, module)
    kept = _kept(path, identity) if trainer.is_global_zero else {}
    known = set(trainer.strategy.broadcast(sorted(kept)))
    missing = [ref for ref in cases if ref.case_id not in known]
    if not missing and known == {ref.case_id for ref in cases}:
        return
    seen = dict(kept)
    if module.finished is not None:
        module.finished.begin(identity)
    with trainer.precision_plugin.val_step_context():
        for ref in dealt_out(missing, trainer.global_rank, trainer.world_size):
            case = ref.open()
            seen[case.id] = CachedCase.of(case, module.raw_detections_of(case))
    _save(path, trainer, module, identity, seen)


def take_results(path: Path, trainer: L.Trainer, module: FinetuneModule) -> bool:
    """Give a module the results of its test from the kept detections, where it is tested on the validation volumes.

    Args:
        path: what `complete_raw_detections` left.
        trainer: of this process; the first one, which writes the test, is given the results.
        module: with the data.

    Returns:
        Whether the volumes are the same; where they are not, nothing happens.
    """
    tested = [ref.case_id for ref in module.data.test_cases]
    if tested != [ref.case_id for ref in module.data.val_cases]:
        return False
    refs = {ref.case_id: ref for ref in module.data.test_cases}
    for one in CachedDetections.load(path).cases if trainer.is_global_zero else ():
        found = merge_raw_detections(one.raw_detections, module.inference, one.spacing_mm)
        module.results[one.case] = CaseResult.of(refs[one.case].open(), found)
    return True


def made_by(trainer: L.Trainer, module: FinetuneModule) -> str:
    """Return a digest of what decides which raw detections a volume has: weights, settings, precision, kind of device.

    The kind of network and its options are not among it: they cannot change within a run.
    """
    settings = {
        "inference": asdict(module.inference),
        "preprocessing": module.data.preprocessing().to_json(),
        "precision": str(trainer.precision),
        "matmul": torch.get_float32_matmul_precision(),
        "device": trainer.strategy.root_device.type,
    }
    digest = xxh3_128(json.dumps(settings, sort_keys=True, default=str).encode())
    _add_weights(digest, module.detector)
    return digest.hexdigest()


def _add_weights(digest: xxh3_128, detector: nn.Module) -> None:
    for name, tensor in detector.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy())


def _kept(path: Path, identity: str) -> dict[str, CachedCase]:
    try:
        kept = CachedDetections.load(path)
    except UserError:  # there is none, or a damaged one: looked at anew
        return {}
    return {one.case: one for one in kept.cases} if kept.made_by == identity else {}


def _save(
    path: Path, trainer: L.Trainer, module: FinetuneModule, identity: str, seen: Mapping[str, CachedCase]
) -> None:
    of_all = gather_by_case(dict(seen))
    if trainer.is_global_zero:
        CachedDetections(module.data.classes, module.inference, tuple(of_all.values()), identity).save(path)

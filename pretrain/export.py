"""The end of a pretraining run: the encoder file."""

from __future__ import annotations

from typing import Any

import lightning as L

from medpretrain3d import __version__
from medpretrain3d.backbones import save_encoder
from medpretrain3d.description import describe
from medpretrain3d.engine.run import RunConfig, RunFile, git_sha
from pretrain.datamodule import PretrainData
from pretrain.module import PretrainModule


class ExportEncoder(L.Callback):
    """Writes the encoder file once training has ended, and says in `run.json` that the run is finished.

    Args:
        run: where the run belongs.
        run_file: its `run.json`.
        config: the whole configuration as text.
    """

    def __init__(self, run: RunConfig, run_file: RunFile, config: str) -> None:
        self.run = run
        self.run_file = run_file
        self.config = config

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """On the first process, unless training was interrupted."""
        if not trainer.is_global_zero or trainer.interrupted:
            return
        assert isinstance(module, PretrainModule)
        data = module.data
        folder = self.run.folder / "encoder"
        sha256 = save_encoder(folder, module.objective.backbone, self._card(trainer, module, data))
        self.run_file.update(
            finished=True, steps=trainer.global_step, checkpoint_sha256=sha256, **module.facts(), **data.facts()
        )
        print(f"encoder file: {folder}")

    def _card(self, trainer: L.Trainer, module: PretrainModule, data: PretrainData) -> dict[str, Any]:
        return {
            "preprocessing": data.preprocessing(),
            "pretraining": {
                "objective": describe(module.objective),
                "paradigm": module.facts()["paradigm"],
                "run": f"{self.run.group}/{self.run.name}",
                "steps": trainer.global_step,
                "global_batch_size": data.batch_size * trainer.world_size * trainer.accumulate_grad_batches,
                "seed": data.seed,
                "minutes": self.run_file.minutes,
                **data.facts(),
            },
            "git_commit": git_sha(),
            "medpretrain3d": __version__,
            "config": self.config,
        }

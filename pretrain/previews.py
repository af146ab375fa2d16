"""Pictures of what an objective hides and restores, drawn while it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L

from medpretrain3d.engine.tracked_run import tracked_runs
from medpretrain3d.visualization.pictures import save_png, volume_strip


class Previews(L.Callback):
    """Saves a strip of what the objective shows of the first validation crop, always the same one.

    Args:
        folder: where `step_0000500.png` and the like go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw once per validation, on the first process."""
        preview = outputs.get("preview") if isinstance(outputs, dict) else None
        if batch_idx or not preview or not trainer.is_global_zero:
            return
        volumes = {
            name: (volume.float() if volume.is_floating_point() else volume).cpu().numpy()
            for name, volume in preview.items()
        }
        picture = volume_strip(volumes)
        save_png(self.folder / f"step_{trainer.global_step:07d}.png", picture)
        for tracked in tracked_runs(trainer):
            tracked.show_picture("val/preview", picture, trainer.global_step - 1)  # in the validation's row

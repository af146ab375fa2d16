"""Types of those options of Lightning's trainer of which it takes values that train nothing."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from medpretrain3d.values import Count, NonNegative, PositiveShare, Whole

Devices = Annotated[int, Ge(-1)] | list[Whole] | str
Limit = Annotated[float, Ge(0), Le(1)] | Whole | None

OPTIONS: dict[str, Any] = {
    "max_steps": Count,
    "max_epochs": Literal[-1] | Count | None,
    "fast_dev_run": Literal[False, 0],  # has another number of steps, and writes no checkpoint
    "accumulate_grad_batches": Count,
    "val_check_interval": Count | PositiveShare | str | None,
    "check_val_every_n_epoch": Count | None,
    "gradient_clip_val": NonNegative | None,
    "log_every_n_steps": Whole | None,
    "num_nodes": Count,
    "devices": Devices,
    "precision": Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "32", "bf16", "16", 32, 16] | None,
    "num_sanity_val_steps": Annotated[int, Ge(-1)] | None,
    "limit_train_batches": Literal[1.0] | None,  # how long to train is max_steps
    "limit_val_batches": Limit,
    "limit_test_batches": Limit,
    "overfit_batches": Literal[0, 0.0],  # its batches are not those of a position
}

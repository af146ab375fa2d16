"""Which weights a run ends with, by name, so that a bundle and a comparison can say it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging

from finetune.best_weights import BestWeights
from finetune.module import FinetuneModule
from medpretrain3d.engine.distributed import rank_zero_print


@dataclass(frozen=True)
class FinalWeights:
    """The weights that a bundle holds and the test looks with."""

    name: Literal["last", "averaged", "best"]
    """`best` where a validation chose them, averaged or not; else `averaged` where the recipe averages, else `last`."""
    step: int
    """Optimizer steps that led to them."""
    is_averaged: bool
    score: float | None = None
    """Of the validation that chose them, by `metric`."""
    metric: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def choose_weights(trainer: L.Trainer, module: FinetuneModule, best: BestWeights) -> FinalWeights:
    """Leave in the detector the weights that the run ends with; a trainer that has fitted has the last ones there.

    Where `trainer.val_check_interval` is a time, training may have been done before it: then the last ones it is.
    """
    last = last_weights(trainer)
    if module.weights == "last":
        return last
    if not best.put_into(module):
        rank_zero_print(
            f"warning: model.weights best: training was done before a validation was due; the run ends with the "
            f"{last.name} weights"
        )
        return last
    return FinalWeights("best", best.step, last.is_averaged, best.score, f"val/{module.scored_by.primary}")


def last_weights(trainer: L.Trainer) -> FinalWeights:
    """Return the name of the weights that the last step led to."""
    is_averaged = any(isinstance(callback, WeightAveraging) for callback in getattr(trainer, "callbacks", ()))
    return FinalWeights("averaged" if is_averaged else "last", trainer.global_step, is_averaged)

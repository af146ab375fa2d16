"""Schedules of a run that goes on with another length: those of the new one, and what that changes is said."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import lightning as L

from medpretrain3d.engine.distributed import rank_zero_print


@runtime_checkable
class FollowsLength(Protocol):
    """A module of which more than the optimizer follows the length of the run."""

    def schedules(self, step: int, num_steps: int) -> dict[str, float]:
        """Return by name what is in force at a step of a run of so many."""


class ContinuedSchedules(L.Callback):
    """Sets learning rate and weight decay of the step with which a run goes on by the schedule of this sitting.

    A checkpoint holds those that the earlier length of the run gave; where the length is the same, so are they.
    """

    def __init__(self) -> None:
        self._num_steps: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the length of the run."""
        return {"num_steps": self._num_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the length that the run had; checkpoints of earlier versions do not say it."""
        self._num_steps = state_dict["num_steps"]

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Set them, and say what changes with the length, also of the module."""
        step, before, now = trainer.global_step, self._num_steps, trainer.max_steps
        self._num_steps = now
        if not step:
            return
        changes = [change for config in trainer.lr_scheduler_configs for change in _of_optimizer(config.scheduler)]
        if isinstance(module, FollowsLength) and before is not None:
            then = module.schedules(step, now)
            changes += [(name, value, then[name]) for name, value in module.schedules(step, before).items()]
        jumps = [f"the {name} goes from {one:.4g} to {other:.4g}" for name, one, other in changes if one != other]
        if jumps:
            rank_zero_print(
                f"the schedule is that of a run of {now} steps now: at step {step} {', '.join(jumps)}; the steps "
                "before it were made with that of the earlier length"
            )


def _of_optimizer(scheduler: Any) -> list[tuple[str, float, float]]:
    """Set learning rates and weight decays of all groups; return the highest of each by name, before and now."""
    groups, step = scheduler.optimizer.param_groups, scheduler.last_epoch
    words = {"lr": "learning rate", "weight_decay": "weight decay"}
    before = {name: max(group[name] for group in groups) for name in words}
    rates = [base * factor(step) for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates
    scheduler.set_weight_decay()
    return [(word, before[name], max(group[name] for group in groups)) for name, word in words.items()]

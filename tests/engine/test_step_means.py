"""Means of a step's scalars over the batches that it accumulates."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from medpretrain3d.engine.step_means import StepMeans


def means(accumulated: int, *batches: dict[str, float]) -> list[dict[str, float]]:
    trainer = SimpleNamespace(accumulate_grad_batches=accumulated, log_every_n_steps=1, global_step=0)
    kept = StepMeans()
    found = []
    for batch_idx, batch in enumerate(batches):
        values = {name: torch.tensor(value) for name, value in batch.items()}
        found.append({name: mean.item() for name, mean in kept.add(trainer, values, batch_idx).items()})
    return found


def test_batches_of_one_step_are_averaged_and_the_next_begins_anew():
    assert means(1, {"loss": 1.0}, {"loss": 4.0}) == [{"loss": 1.0}, {"loss": 4.0}]
    found = means(2, {"loss": 1.0, "box": 3.0}, {"loss": 2.0, "box": 5.0}, {"loss": 7.0}, {"loss": 9.0})
    assert found[1] == {"loss": 1.5, "box": 4.0}
    assert found[3] == {"loss": 8.0}


def test_what_one_batch_alone_has_is_its_own():
    assert means(2, {"loss": 1.0}, {"loss": 2.0, "num_invalid": 6.0})[1] == {"loss": 1.5, "num_invalid": 6.0}

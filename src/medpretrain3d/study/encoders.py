"""Which seeds of fine-tuning begin from one encoder: how many draws of a pretraining there are.

Seeds that share an encoder share its luck. Six of them from two encoders tell how two pretrainings differ and not how
six do: taken for six, arms that are alike were called different in 15 % of simulated studies, ten of two in 25 %.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from medpretrain3d.lines import counted
from medpretrain3d.study.run import Run


def encoder_of(run: Run) -> str | None:
    """Return what tells apart the encoders that runs of fine-tuning begin from; None from scratch."""
    return run.metadata.checkpoint_sha256 or run.metadata.pretrain_run


def alike_in_encoder(runs: Mapping[int, Iterable[Sequence[Run]]]) -> dict[int, int]:
    """Return for each seed the first one that begins from the same encoder; itself where seeds cannot be told so.

    Arms whose seeds all begin from one encoder say what holds for that one, and their seeds are kept apart.

    Args:
        runs: of each seed those of each arm that is looked at, with all folds. Of arms that share encoders between
            other seeds, the one with the fewest encoders counts.
    """
    found = {seed: seed for seed in runs}
    by_arm = zip(*(sides for sides in runs.values()), strict=True)
    for of_arm in by_arm:
        first: dict[tuple[object, ...], int] = {}
        like = {seed: first.setdefault(_encoders(members), seed) for seed, members in zip(runs, of_arm, strict=True)}
        if 1 < len(first) < len(set(found.values())):
            found = like
    return found


def seeds_of_encoders(num_seeds: int, num_encoders: int) -> str:
    """Return `6` for a table, or `6 of 2 encoders` where several begin from one."""
    return str(num_seeds) if num_encoders >= num_seeds else f"{num_seeds} of {counted(num_encoders, 'encoder')}"


def encoder_notes(finetuning: Sequence[Run], pretraining: Sequence[Run], arms: Mapping[Run, str]) -> list[str]:
    """Return which pretrained arms have one encoder for several seeds: what is said of them holds for it alone.

    Args:
        finetuning: runs whose arms are asked about.
        pretraining: runs of pretraining; a file of others is what its arm is, and nothing is noted.
        arms: what the arm of each is called.
    """
    made_here = {run.name for run in pretraining}
    of_arms: dict[str, list[Run]] = {}
    for run in finetuning:
        if run.is_tested and run.metadata.pretrain_run in made_here:
            of_arms.setdefault(arms[run], []).append(run)
    return [
        f"{arm}: {counted(number, 'seed')} begin from one encoder, so what is said of it holds for that encoder and "
        "not for its pretraining done again; a study has more with pretrain_seeds"
        for arm, members in of_arms.items()
        if (number := max(_seeds_of_one_encoder(members), default=0)) > 1
    ]


def _encoders(runs: Sequence[Run]) -> tuple[object, ...]:
    """Return the encoder of each fold."""
    return tuple(sorted((str(run.metadata.fold), str(encoder_of(run))) for run in runs))


def _seeds_of_one_encoder(runs: Sequence[Run]) -> Iterator[int]:
    """Yield the number of seeds of each data set and fold that all begin from one encoder."""
    ordered = sorted(runs, key=lambda run: (run.data_name, str(run.metadata.fold)))
    for _, group in groupby(ordered, key=lambda run: (run.data_name, str(run.metadata.fold))):
        members = list(group)
        if len({encoder_of(run) for run in members}) == 1:
            yield len({run.metadata.seed for run in members})

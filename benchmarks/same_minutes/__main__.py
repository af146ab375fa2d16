"""Compare both, and print one Markdown table; see `benchmarks.same_minutes`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path

import torch

from benchmarks.page import Setting
from benchmarks.same_minutes.contestants import Outcome, run_monai, run_ours
from benchmarks.same_minutes.kept import kept
from benchmarks.same_minutes.marks import NUM_MARKS
from benchmarks.same_minutes.monai_detector import MonaiOptions
from benchmarks.same_minutes.monai_training import MonaiRun
from benchmarks.same_minutes.table import HEADER, row
from benchmarks.same_minutes.task import Task
from finetune.datamodule import FinetuneData
from medpretrain3d.store.corpus import CaseRef

TUNING_SEED = 100
"""Of no run in the table."""


def main(words: Sequence[str] | None = None) -> None:
    """Run what was asked for; each row is printed when it is there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.same_minutes", description=__doc__)
    parser.add_argument("recipe", nargs="?", default="openkbp_short", help="of fine-tuning (default: %(default)s)")
    parser.add_argument("--store", help="default: the recipe's")
    parser.add_argument("--fold", type=int, help="of the store (default: its named splits)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    parser.add_argument("--steps", type=int, help="of our recipe, in whole quarters (default: the recipe's)")
    parser.add_argument(
        "--widths",
        type=int,
        nargs="+",
        default=[64, 256],
        help="channels of MONAI's pyramid (default: 64 256)",
    )
    parser.add_argument("--crops", type=int, help="of MONAI's step (default: those of the recipe's step)")
    parser.add_argument(
        "--lrs", type=float, nargs="+", default=[3e-3, 1e-2, 3e-2], help="tried for MONAI (default: 0.003 0.01 0.03)"
    )
    parser.add_argument(
        "--strides",
        type=int,
        nargs="+",
        help="of MONAI's finest level in voxels, tried with each of them (default: that of the recipe)",
    )
    parser.add_argument(
        "--tuning-share", type=float, default=0.5, help="of the minutes, for each trial (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/same_minutes"),
        help="what of this commit is there already is not run again (default: %(default)s)",
    )
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    task = Task(options.recipe, options.store, options.fold)
    if not task.is_there():
        print(f"same minutes: left out, there is no store {task.options()['store']}; docs/data.md says how to make it")
        return
    setting = Setting.here()
    print(f"{options.recipe}, commit {setting.commit}, {setting.machine}, fp32\n\n{HEADER}", flush=True)
    compare(task, options)


def compare(task: Task, options: argparse.Namespace) -> None:
    """Run ours with the first seed, tune MONAI's stride and learning rate on its minutes, and run all that is left."""
    tuned: MonaiOptions | None = None
    steps = options.steps or task.steps
    for seed in options.seeds:
        folder = options.out / f"ours_{seed}"
        ours = kept(folder, partial(run_ours, task, seed, steps, folder), task=asdict(task), seed=seed, steps=steps)
        wanted, minutes = ours.scores[-1].map, ours.marks[-1].minutes
        say(ours, wanted)
        crops = options.crops or int(task.options()["batch_size"])
        tuned = tuned or tune(task, crops, minutes, options)
        for width in options.widths:
            name = f"monai, {width} channels, stride {tuned.finest_stride}, lr {tuned.lr:g}, {crops} crops"
            run = MonaiRun(task, replace(tuned, width=width), seed, minutes, options.out / f"monai_{width}_{seed}")
            marks = range(1, NUM_MARKS + 1)
            say(kept(run.folder, partial(run_monai, name, run, test_cases, marks), run=asdict(run)), wanted)


def tune(task: Task, crops: int, minutes: float, options: argparse.Namespace) -> MonaiOptions:
    """Return the stride and learning rate with the highest mAP on the validation cases after a shorter run."""
    found: dict[MonaiOptions, float] = {}
    minutes *= options.tuning_share
    width = options.widths[0]
    for stride, lr in product(options.strides or [task.finest_stride], options.lrs):
        tried = MonaiOptions(stride, lr, width, crops)
        run = MonaiRun(task, tried, TUNING_SEED, minutes, options.out / f"tuning_{stride}_{lr:g}")
        outcome = kept(run.folder, partial(run_monai, "tuning", run, validation_cases, [NUM_MARKS]), run=asdict(run))
        found[tried] = outcome.scores[-1].map if outcome.scores else 0.0
        told = f"mAP {found[tried]:.3f} on the validation cases" if outcome.scores else "diverged"
        print(
            f"tuning of {width} channels for {minutes:.2f} minutes, stride {stride}, lr {lr:g}: {told}, "
            f"{outcome.marks[-1].step if outcome.marks else 0} steps",
            flush=True,
        )
    return max(found, key=lambda tried: found[tried])


def test_cases(data: FinetuneData) -> list[CaseRef]:
    """Return the cases of the table."""
    return data.test_cases


def validation_cases(data: FinetuneData) -> list[CaseRef]:
    """Return the cases that learning rates are chosen by."""
    return data.val_cases


def say(outcome: Outcome, wanted: float) -> None:
    """Print the row of a run."""
    print(row(outcome, wanted), flush=True)


if __name__ == "__main__":
    main()

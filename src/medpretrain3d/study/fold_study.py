"""The folds of one recipe as a study: one arm, one seed, a job for each fold."""

from __future__ import annotations

from pathlib import Path

from medpretrain3d.command_line.composition import composed, flattened, recipe_layers
from medpretrain3d.errors import UserError
from medpretrain3d.study.design import ALL, Study
from medpretrain3d.study.document import study_of
from medpretrain3d.study.progress import Progress


def fold_study(recipe: Path, init_from: str | None = None, seed: int = 0) -> Study:
    """Return the study that trains every fold of a recipe, in `<root>/<name of the recipe>_folds`.

    Args:
        recipe: of fine-tuning.
        init_from: weights for the backbone; None is what the recipe says.
        seed: of all folds.

    Raises:
        UserError: the recipe cannot be read.
    """
    options = flattened(composed(recipe_layers(recipe, "finetune")))
    arm = {"scratch": {}} if init_from is None else {"pretrained": {"init_from": init_from}}
    document = {
        "name": f"{recipe.stem}_folds",
        "root": str(options.get("run.root") or "runs"),
        "data": {recipe.stem: str(recipe)},
        "arms": arm,
        "folds": ALL,
        "seeds": [seed],
    }
    return study_of(document, str(recipe))


def fold_folders(progress: Progress) -> list[Path]:
    """Return the runs of the folds.

    Raises:
        UserError: not all of them are done.
    """
    jobs = progress.jobs.of_kind("finetune")
    if missing := [job.name for job in jobs if progress.states[job] != "done"]:
        raise UserError(f"{len(missing)} of {len(jobs)} folds are not trained, first {missing[0]}; call again")
    return [progress.records.run_folder(job) for job in jobs]

"""Arms of other programs: their predictions, scored on the scans that the study's own arms are tested on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medpretrain3d.atomic import write_text
from medpretrain3d.documents import json_text
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import pair, read_targets
from medpretrain3d.evaluation.files import predictions_document
from medpretrain3d.evaluation.protocols import DETECTION, PROTOCOLS
from medpretrain3d.evaluation.readers import ReadOptions, read_any_predictions
from medpretrain3d.evaluation.size_strata import DIAMETERS_MM
from medpretrain3d.run_metadata import RUN_DOCUMENT, RunMetadata
from medpretrain3d.study.conditions import WHOLE, steps_of
from medpretrain3d.study.design import Arm, Study
from medpretrain3d.study.run import Run

FOLDER = "other_programs"
SHARED = (
    *("dataset", "num_train_cases", "label_fraction", "data_fingerprint", "fold", "num_test_cases", "num_val_cases"),
    *("precision", "detector", "seed"),
)
"""Facts of a run that hold for another program on the same scans, or say beside what it is shown."""


def other_program_runs(study: Study, runs: Sequence[Run]) -> list[Run]:
    """Score the predictions of every arm of another program, and return them as tested runs.

    They stand beside the first seed of the baseline, in every fold, with the labels that the verdicts are about: one
    seed, so there are differences with intervals over scans and no verdicts.

    Args:
        study: whose folder gets `other_programs/`, a folder like that of a run for each.
        runs: of the study that are done.

    Raises:
        UserError: predictions cannot be read, or miss a scan that the baseline is tested on.
    """
    return [
        _scored(study, arm, twin, Path(path))
        for arm in study.arms
        for data, path in arm.predictions.items()
        for twin in _twins(study, runs, data)
    ]


def _twins(study: Study, runs: Sequence[Run], data: str) -> Iterator[Run]:
    """Return the tested runs of the baseline beside which another program is shown."""
    alike = [run for run in runs if run.is_baseline_arm and run.is_tested and run.design is not None]
    alike = [run for run in alike if steps_of(run) == WHOLE]  # another program has no share of a recipe's steps
    alike = [
        run for run in alike if _design(run, "data") == data and _design(run, "labels") == study.declaration.labels
    ]
    seeds = [int(_design(run, "seed")) for run in alike]
    yield from (run for run, seed in zip(alike, seeds, strict=True) if seed == min(seeds))


def _design(run: Run, key: str) -> str:
    return (run.design or {}).get(key, "")


def _scored(study: Study, arm: Arm, twin: Run, path: Path) -> Run:
    targets = read_targets(twin.folder / "test" / "targets.json")
    try:
        predictions = read_any_predictions(path, targets, ReadOptions(is_part=True))
    except UserError as error:
        raise UserError(f"arms.{arm.name}.predictions: {error}") from error
    found = pair(predictions, targets)
    edges_mm = DIAMETERS_MM if targets.frame == "lps_mm" else ()
    protocol = PROTOCOLS[twin.metrics.get("protocol", DETECTION.name)]
    result = protocol.score(found, targets.cases, targets.classes, size_edges_mm=edges_mm)
    result["notes"] = [*predictions.notes, *result.get("notes", [])]
    design = {**(twin.design or {}), "arm": arm.name}
    folder = study.folder / FOLDER / _folder_name(design)
    (folder / "test").mkdir(parents=True, exist_ok=True)
    shared = {name: getattr(twin.metadata, name) for name in SHARED}
    facts = RunMetadata(stage="finetune", name=folder.name, group=study.name, arm=arm.name, method=arm.name)
    facts = facts | RunMetadata(finished=True, **shared)
    RUN_DOCUMENT.write(folder / "run.json", facts.to_json())
    document = predictions_document(replace(predictions, cases=tuple(found)))
    write_text(folder / "test" / "predictions.json", json_text(document))
    write_text(folder / "test" / "targets.json", (twin.folder / "test" / "targets.json").read_text())
    write_text(folder / "test" / "metrics.json", json_text({"protocol": protocol.name, **result}))
    return Run(folder, facts, design=design)


def _folder_name(design: Mapping[str, str]) -> str:
    """Return a name of its own for each place: a dash of a name is two, so that `a-b` on `c` is not `a` on `b-c`."""
    return "-".join(value.replace("-", "--") for key, value in design.items() if key != "seed")

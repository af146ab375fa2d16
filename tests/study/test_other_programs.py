"""Results of other programs stand beside the arms of a study, on the scans that these are tested on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.study.document import read_study
from medpretrain3d.study.expansion import expand
from medpretrain3d.study.other_programs import other_program_runs
from medpretrain3d.study.report import make_report
from medpretrain3d.study.run import find_runs
from tests.study.test_report import scored, write_run

METRIC = "mAP_IoU_0.10_0.50_0.05_MaxDet_100"


def test_predictions_of_another_program_are_an_arm_of_the_report(
    write_study: Callable[..., Path], tmp_path: Path
) -> None:
    nnunet = tmp_path / "nnunet.json"
    path = write_study(arms={"scratch": {}, "nnunet": {"predictions": "nnunet.json"}}, hypotheses=[])
    study = read_study(path)
    assert {job.setting["arm"] for job in expand(study).of_kind("finetune")} == {"scratch"}  # nothing of it is run
    for seed in (0, 1):
        folder = write_run(
            tmp_path / "runs", f"scratch{seed}", stage="finetune", method="scratch", dataset="cubes", seed=seed
        )
        (folder / "test").mkdir()
        for name, content in scored(5.0, "scan", 12).items():
            (folder / "test" / f"{name}.json").write_text(json.dumps(content))
    design = {"arm": "scratch", "data": "cubes", "labels": "all"}
    runs = [
        replace(run, design={**design, "seed": str(run.metadata.seed)}, is_baseline_arm=True)
        for run in find_runs([tmp_path / "runs"])
    ]
    predictions = scored(2.0, "scan", 12)["predictions"]
    extra = {"case": "of another fold", "boxes": [], "scores": [], "labels": []}
    nnunet.write_text(json.dumps({**predictions, "predictions": [*predictions["predictions"], extra]}))
    shorter = replace(runs[0], design={**design, "steps": "0.5", "seed": "0"})
    (found,) = other_program_runs(study, [*runs, shorter])  # beside all of the steps alone
    assert found.metrics[METRIC] == pytest.approx(scored(2.0, "scan", 12)["metrics"][METRIC])
    assert (found.arm, found.metadata.seed, found.is_tested, len(found.tested_cases)) == ("nnunet", 0, True, 12)
    report = make_report([*runs, found], "Title", study.declaration)
    (row,) = [row for row in report.differences.rows if row[0] == "nnunet"]
    assert row[5].value == pytest.approx(found.metrics[METRIC] - runs[0].metrics[METRIC])  # type: ignore[union-attr]
    assert "no verdict" in str(row[-1])  # of one seed
    nnunet.write_text(json.dumps({**predictions, "predictions": predictions["predictions"][1:]}))
    with pytest.raises(UserError, match="no entry for case 'scan0'"):
        other_program_runs(study, runs)


def test_dashes_in_names_give_no_two_the_same_folder(write_study: Callable[..., Path], tmp_path: Path) -> None:
    arms = {"scratch": {}, "a": {"predictions": {"b-c": "two.json"}}, "a-b": {"predictions": {"c": "five.json"}}}
    data = {"b-c": "finetune.yaml", "c": "finetune.yaml"}
    study = read_study(write_study(arms=arms, data=data, hypotheses=[]))
    for name, shift in (("two", 2.0), ("five", 5.0)):
        (tmp_path / f"{name}.json").write_text(json.dumps(scored(shift, "scan", 12)["predictions"]))
    runs = []
    for one in data:
        folder = write_run(tmp_path / "runs", one, stage="finetune", method="scratch", dataset="cubes")
        (folder / "test").mkdir()
        for name, content in scored(5.0, "scan", 12).items():
            (folder / "test" / f"{name}.json").write_text(json.dumps(content))
        (run,) = find_runs([folder])
        design = {"arm": "scratch", "data": one, "labels": "all", "seed": "0"}
        runs.append(replace(run, design=design, is_baseline_arm=True))
    found = {run.arm: run for run in other_program_runs(study, runs)}
    assert len({run.folder for run in found.values()}) == 2
    values = {arm: run.metrics[METRIC] for arm, run in found.items()}
    assert values == {"a": pytest.approx(1), "a-b": pytest.approx(5 / 9)}


def test_points_are_scored_as_those_of_the_baseline_are(write_study: Callable[..., Path], tmp_path: Path) -> None:
    """Boxes around a point have no overlap with it: by `detection` its AP is 0."""
    study = read_study(write_study(arms={"scratch": {}, "nnunet": {"predictions": "nnunet.json"}}, hypotheses=[]))
    files = scored(0.0, "scan", 12)
    point = [15.0] * 6
    targets = {"classes": ["n"], "targets": [{**one, "boxes": [point]} for one in files["targets"]["targets"]]}
    predictions = {**files["predictions"], "classes": ["n"]}
    (tmp_path / "nnunet.json").write_text(json.dumps(predictions))
    folder = write_run(tmp_path / "runs", "scratch", stage="finetune", method="scratch", dataset="cubes")
    (folder / "test").mkdir()
    metrics = {"protocol": "centre", "AP": 0.5, "num_cases": 12, "per_case": []}
    for name, content in (("targets", targets), ("predictions", predictions), ("metrics", metrics)):
        (folder / "test" / f"{name}.json").write_text(json.dumps(content))
    (run,) = find_runs([folder])
    design = {"arm": "scratch", "data": "cubes", "labels": "all", "seed": "0"}
    (found,) = other_program_runs(study, [replace(run, design=design, is_baseline_arm=True)])
    assert (found.metrics["protocol"], found.metrics["AP"]) == ("centre", 1)


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({"nnunet": {"predictions": "x"}, "scratch": {}}, "nnunet is the baseline and of another program"),
        ({"scratch": {}, "nnunet": {"predictions": "x", "steps": 0.5}}, "take all but predictions away"),
        ({"scratch": {}, "nnunet": {"predictions": {"lungs": "x"}}}, "lungs"),
    ],
)
def test_what_cannot_be_an_arm_of_another_program_is_refused(
    write_study: Callable[..., Path], arms: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_study(write_study(arms=arms, hypotheses=[]))

"""What the recipe of a data set says of weights to begin from, folds and labels, beside what the document says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from medpretrain3d.command_line.composition import composed, flattened
from medpretrain3d.errors import UserError
from medpretrain3d.study.detectable import detectable
from medpretrain3d.study.document import read_study
from medpretrain3d.study.expansion import expand
from medpretrain3d.study.fold_study import fold_study
from medpretrain3d.study.run_study import progress_of


def add(path: Path, **changes: object) -> None:
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def finetuning(study):
    return {job.name: job for job in expand(study).of_kind("finetune")}


def test_an_arm_from_scratch_does_not_begin_from_what_the_recipe_of_the_data_names(write_study, tmp_path):
    path = write_study(seeds=1, folds=[0], labels=["all"])
    (tmp_path / "phantom.pt").write_bytes(b"weights")
    add(tmp_path / "finetune.yaml", model={"init_from": "phantom.pt"})
    message = (
        r"arms.scratch: is from scratch, and the recipe of cubes begins from phantom.pt \(model.init_from\); take that "
        r"out of the recipe, or say init_from: phantom.pt of the arm"
    )
    with pytest.raises(UserError, match=message):
        expand(read_study(path))
    arms = {"usual": {"init_from": "phantom.pt"}, "mae": {"pretrain": "pretrain.yaml"}}
    jobs = finetuning(read_study(write_study(arms=arms, seeds=1, folds=[0], labels=["all"], hypotheses=[])))
    assert [bool(job.needs) for job in jobs.values()] == [False, True]
    # The folds of a recipe alone are no comparison: they begin as it says.
    (job, *_) = expand(fold_study(tmp_path / "finetune.yaml")).of_kind("finetune")
    assert flattened(composed(job.layers))["model.init_from"] == "phantom.pt"


@pytest.mark.parametrize("start", [{"pretrain": "pretrain.yaml"}, {"init_from": "phantom.pt"}])
def test_an_arm_does_not_name_two_starts(write_study, start):
    arms = {"scratch": {}, "mae": {**start, "finetune": {"model.init_from": "other.pt"}}}
    with pytest.raises(UserError, match=r"arms.mae: has (pretrain|init_from) and finetune: model.init_from; an"):
        read_study(write_study(arms=arms, hypotheses=[]))


def test_the_fold_of_a_recipe_is_part_of_the_identity(write_study, tmp_path):
    path = write_study(folds="drop", seeds=1, labels=["all"])
    add(tmp_path / "finetune.yaml", data={"store": "cubes", "patch": [16, 16, 16], "num_workers": 0, "fold": 0})
    before = {name: job.identity for name, job in finetuning(read_study(path)).items()}
    splits = json.loads((tmp_path / "cubes" / "splits.json").read_text())
    (tmp_path / "cubes" / "splits.json").write_text(json.dumps({**splits, "folds": splits["folds"][::-1]}))
    now = {name: job.identity for name, job in finetuning(read_study(path)).items()}
    assert all(now[name] != before[name] for name in before)


def test_a_plan_counts_the_scans_that_a_recipe_with_a_fold_is_tested_on(write_study, tmp_path):
    data = {"store": "cubes", "patch": [16, 16, 16], "num_workers": 0, "fold": 0}
    for test_on, number in (("test", 2), ("held_out", 3)):
        path = write_study(folds="drop", labels=["all"])
        add(tmp_path / "finetune.yaml", data={**data, "test_on": test_on})
        assert f"2 seeds and {number} test scans" in detectable(progress_of(read_study(path)), [])


def test_all_labels_are_not_the_budget_of_a_recipe(write_study, tmp_path):
    add(tmp_path / "finetune.yaml", data={"store": "cubes", "patch": [16, 16, 16], "num_train_cases": 1})
    with pytest.raises(UserError, match=r"labels: all, and the recipe of cubes has data.num_train_cases 1; take that"):
        expand(read_study(write_study(labels=["all"])))
    jobs = finetuning(read_study(write_study(labels=[2, 0.5], folds=[0], seeds=1, hypotheses=[])))
    found = [(job.facts.get("data.num_train_cases"), job.facts.get("data.label_fraction")) for job in jobs.values()]
    assert found == [(2, None), (2, None), (None, 0.5), (None, 0.5)]


def test_options_may_be_written_as_a_tree(write_study):
    tree = {"trainer": {"precision": "bf16-mixed"}, "model": {"optim": {"lr": 0.1}}, "trainer.max_steps": 3}
    (_, arm) = read_study(write_study(arms={"scratch": {}, "half": {"finetune": tree}}, hypotheses=[])).arms
    assert arm.finetune == {"trainer.precision": "bf16-mixed", "model.optim.lr": 0.1, "trainer.max_steps": 3}
    for tree in ({"data": {"seed": 1}}, {"run": {"name": "x"}}, {"data": {"label_seed": 1}}):
        with pytest.raises(UserError, match=r"arms.half.finetune: \S+ is set by the study itself; take it away"):
            read_study(write_study(arms={"scratch": {}, "half": {"finetune": tree}}, hypotheses=[]))

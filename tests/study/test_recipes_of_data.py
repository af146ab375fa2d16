"""What the recipe of a data set says of weights to begin from, folds and labels, beside what the document says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from medpretrain3d.errors import UserError
from medpretrain3d.study.document import read_study
from medpretrain3d.study.expansion import expand


def add(path: Path, **changes: object) -> None:
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def finetuning(study):
    return {job.name: job for job in expand(study).of_kind("finetune")}


def test_the_fold_of_a_recipe_is_part_of_the_identity(write_study, tmp_path):
    path = write_study(folds="drop", seeds=1, labels=["all"])
    add(tmp_path / "finetune.yaml", data={"store": "cubes", "patch": [16, 16, 16], "num_workers": 0, "fold": 0})
    before = {name: job.identity for name, job in finetuning(read_study(path)).items()}
    splits = json.loads((tmp_path / "cubes" / "splits.json").read_text())
    (tmp_path / "cubes" / "splits.json").write_text(json.dumps({**splits, "folds": splits["folds"][::-1]}))
    now = {name: job.identity for name, job in finetuning(read_study(path)).items()}
    assert all(now[name] != before[name] for name in before)


def test_options_may_be_written_as_a_tree(write_study):
    tree = {"trainer": {"precision": "bf16-mixed"}, "model": {"optim": {"lr": 0.1}}, "trainer.max_steps": 3}
    (_, arm) = read_study(write_study(arms={"scratch": {}, "half": {"finetune": tree}}, hypotheses=[])).arms
    assert arm.finetune == {"trainer.precision": "bf16-mixed", "model.optim.lr": 0.1, "trainer.max_steps": 3}
    for tree in ({"data": {"seed": 1}}, {"run": {"name": "x"}}, {"data": {"label_seed": 1}}):
        with pytest.raises(UserError, match=r"arms.half.finetune: \S+ is set by the study itself; take it away"):
            read_study(write_study(arms={"scratch": {}, "half": {"finetune": tree}}, hypotheses=[]))

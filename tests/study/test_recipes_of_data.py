"""What the recipe of a data set says of weights to begin from, folds and labels, beside what the document says."""

from __future__ import annotations

import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.study.document import read_study


def test_options_may_be_written_as_a_tree(write_study):
    tree = {"trainer": {"precision": "bf16-mixed"}, "model": {"optim": {"lr": 0.1}}, "trainer.max_steps": 3}
    (_, arm) = read_study(write_study(arms={"scratch": {}, "half": {"finetune": tree}}, hypotheses=[])).arms
    assert arm.finetune == {"trainer.precision": "bf16-mixed", "model.optim.lr": 0.1, "trainer.max_steps": 3}
    for tree in ({"data": {"seed": 1}}, {"run": {"name": "x"}}, {"data": {"label_seed": 1}}):
        with pytest.raises(UserError, match=r"arms.half.finetune: \S+ is set by the study itself; take it away"):
            read_study(write_study(arms={"scratch": {}, "half": {"finetune": tree}}, hypotheses=[]))

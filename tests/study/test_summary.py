"""The outcome of a study in words."""

from __future__ import annotations

import json
from pathlib import Path

from medpretrain3d.evaluation.detection import MAP_KEY
from medpretrain3d.run_metadata import RunMetadata
from medpretrain3d.study.run import Run
from medpretrain3d.study.summary import question


def test_only_what_was_pretrained_is_said_to_be(tmp_path: Path) -> None:
    facts = {"stage": "finetune", "dataset": "organs", "num_train_cases": 4, "seed": 0}
    runs = [Run(tmp_path / method, RunMetadata(method=method, **facts)) for method in ("scratch", "mae")]
    same = Run(tmp_path / "bf16", RunMetadata(method="scratch", **facts))
    asked = question([*runs, same], [], {runs[0]: "scratch", runs[1]: "mae", same: "bf16"})
    assert "started from scratch, after mae pretraining and from scratch (bf16): 3 runs" in asked


def test_several_detectors_are_said_to_be(tmp_path: Path) -> None:
    facts = {"stage": "finetune", "method": "scratch", "dataset": "organs", "num_train_cases": 4, "seed": 0}
    runs = [Run(tmp_path / name, RunMetadata(detector=name, **facts)) for name in ("FCOS", "RetinaNet")]
    assert question(runs, [], dict.fromkeys(runs, "scratch")).startswith("2 detectors fine-tuned on organs")
    assert question(runs[:1], [], dict.fromkeys(runs, "scratch")).startswith("The same detector fine-tuned on organs")


def test_one_case_is_counted_as_one(tmp_path: Path) -> None:
    facts = {"stage": "finetune", "method": "scratch", "dataset": "organs", "seed": 0}
    one, many = (Run(tmp_path / f"{n}", RunMetadata(num_train_cases=n, **facts)) for n in (1, 4))
    arms = dict.fromkeys((one, many), "scratch")
    assert "with 1 labelled case, started" in question([one], [], arms)
    assert "with 1 and 4 labelled cases, started" in question([one, many], [], arms)


def test_cases_are_those_of_each_fold(tmp_path: Path) -> None:
    facts = {"stage": "finetune", "method": "scratch", "dataset": "organs", "num_train_cases": 4, "seed": 0}
    runs = [Run(tmp_path / f"{n}", RunMetadata(fold=n, **facts)) for n in (0, 1)]
    for run in runs:
        (run.folder / "test").mkdir(parents=True)
        (run.folder / "test/metrics.json").write_text(json.dumps({"num_cases": 16, MAP_KEY: 0.5}))
    arms = dict.fromkeys(runs, "scratch")
    assert question(runs, [], arms).endswith("2 runs, 1 seed, 2 folds, each tested on 16 cases.")
    assert question(runs[:1], [], arms).endswith("1 run, 1 seed, tested on 16 cases.")

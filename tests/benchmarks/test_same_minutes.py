"""The comparison with MONAI's detector on a store of cubes: boxes, a step, and the numbers that both are given."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.same_minutes import __main__ as program
from benchmarks.same_minutes.adapter import BOX, IMAGE, LABEL, SCORE, MonaiCases, to_prediction
from benchmarks.same_minutes.contestants import Outcome, monai_detect
from benchmarks.same_minutes.kept import kept
from benchmarks.same_minutes.marks import Mark, add_mark, read_marks
from benchmarks.same_minutes.monai_detector import MonaiOptions
from benchmarks.same_minutes.monai_training import MonaiRun, losses, lr_factor, training_batches
from benchmarks.same_minutes.quarter_marks import QuarterMarks
from benchmarks.same_minutes.scoring import Score, score
from benchmarks.same_minutes.table import COLUMNS, row
from benchmarks.same_minutes.task import Task, zero_to_one
from finetune.scoring import CaseResult, evaluate_results
from medpretrain3d.boxes import Detections
from medpretrain3d.evaluation.protocols import DETECTION
from medpretrain3d.store import Store
from medpretrain3d.store.case import Case
from medpretrain3d.store.targets import targets_json
from tests.recipes.conftest import write_cubes

RECIPE = """\
base: smoke.yaml
data: {store: %s, patch: [16, 16, 16], augment: {class_path: SpatialAugment, init_args: {mirror_axes: [1, 2]}}}
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("same_minutes")
    store = write_cubes(folder / "cubes", {"train": 2, "val": 1, "test": 2})
    recipe = folder / "cubes.yaml"
    recipe.write_text(RECIPE.replace("smoke.yaml", str(Path("configs/finetune/smoke.yaml").resolve())) % store)
    return Task(str(recipe))


def found_by(case: Case, boxes: np.ndarray, scores: list[float]) -> dict[str, Tensor]:
    labels = torch.zeros(len(boxes), dtype=torch.long)
    return {BOX: torch.from_numpy(boxes), SCORE: torch.tensor(scores), LABEL: labels}


def test_boxes_that_monai_gives_back_are_the_stores_in_mm(task: Task) -> None:
    data = task.data()
    for ref in data.test_cases:
        case = ref.open()
        given = MonaiCases(zero_to_one(data.window)).to_monai(case)
        back = to_prediction(case, found_by(case, given[BOX].numpy(), [1.0]))
        (wanted,) = targets_json(data.store, [case.id])["targets"]
        assert back.boxes_lps_mm.tolist() == wanted["boxes"]
        d0, h0, w0, d1, h1, w1 = given[BOX][0].long().tolist()
        image = given[IMAGE][0]
        assert 0 <= float(image.min()) < float(image.max()) <= 1
        inside = image[d0:d1, h0:h1, w0:w1]
        assert inside.shape == (8, 8, 8)
        assert float(inside.min()) > float(image.mean()) + 0.2  # the cube is where its box is, half-open
        assert int((image > float(image.mean()) + 0.2).sum()) == 8**3


def test_a_step_of_monai_has_a_loss_and_moves_every_weight(task: Task, tmp_path: Path) -> None:
    data = task.data()
    run = MonaiRun(
        task, MonaiOptions(task.finest_stride, lr=1e-2, width=16, crops=2), seed=0, minutes=1.0, folder=tmp_path
    )
    assert MonaiRun.from_json(run.to_json()) == run
    torch.manual_seed(0)
    detector = run.detector(data).train()
    batch = next(training_batches(run, data))
    assert [tuple(crop[IMAGE].shape) for crop in batch] == [(1, 16, 16, 16)] * 2
    assert sum(len(crop[BOX]) for crop in batch)
    loss = losses(detector, batch)
    assert torch.isfinite(loss)
    loss.backward()
    assert not [name for name, weight in detector.network.named_parameters() if weight.grad is None]
    case = data.test_cases[0].open()
    assert monai_detect(detector.eval(), data)(case).boxes_lps_mm.shape[1] == 6


def test_monais_stride_and_rate_are_those_of_the_best_trial(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = {(2, 0.1): 0.2, (2, 0.2): 0.1, (4, 0.1): 0.4, (4, 0.2): None}

    def outcome(folder: Path, *_: object, run: dict[str, Any]) -> Outcome:
        found = trials[run["options"]["finest_stride"], run["options"]["lr"]]
        marks, scores = ([], []) if found is None else ([Mark(7, 1.0, 1.0, 1.0)], [Score(found, 0.0, 1.0)])
        return Outcome("tuning", run["seed"], marks, scores, 1)

    monkeypatch.setattr(program, "kept", outcome)
    options = argparse.Namespace(tuning_share=0.5, widths=[64, 256], strides=[2, 4], lrs=[0.1, 0.2], out=tmp_path)
    assert program.tune(task, 2, 3.0, options) == MonaiOptions(4, 0.1, 64, 2)
    said = capsys.readouterr().out.splitlines()
    assert (
        said[2]
        == "tuning of 64 channels for 1.50 minutes, stride 4, lr 0.1: mAP 0.400 on the validation cases, 7 steps"
    )
    assert said[3].endswith("diverged, 0 steps")


def test_both_are_scored_as_a_run_scores_itself(task: Task) -> None:
    store = Store(task.options()["store"])
    random = np.random.default_rng(0)
    predictions, results = [], {}
    for case_id in store.splits["test"]:
        case = store.case(case_id)
        boxes = np.repeat(case.boxes, 6, axis=0) + random.normal(0, 2, (6, 6)).astype(np.float32)
        boxes = np.clip(boxes, 0, 24)
        found = found_by(case, boxes, random.random(6).tolist())
        predictions.append(to_prediction(case, found))
        results[case_id] = CaseResult.of(case, Detections(found[BOX], found[SCORE].float(), found[LABEL]))
    wanted = evaluate_results(results, store.classes, DETECTION)
    assert 0 < wanted["AP50"] < wanted["mAP"] < 1
    assert score(predictions, store) == pytest.approx((wanted["mAP"], wanted["AP50"]), abs=1e-6)


def test_our_runs_note_where_they_are(tmp_path: Path) -> None:
    callback = QuarterMarks(str(tmp_path / "marks.jsonl"), every_n_steps=2)
    module, trainer = L.LightningModule(), L.Trainer(logger=False, enable_checkpointing=False, barebones=True)
    callback.on_train_start(trainer, module)
    for step in range(1, 6):
        trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = step
        callback.on_train_batch_end(trainer, module, None, None, 0)
    assert [mark.step for mark in read_marks(tmp_path / "marks.jsonl")] == [2, 4]


def test_the_learning_rate_rises_and_falls_once() -> None:
    assert [lr_factor(share) for share in (0.0, 1 / 60, 1 / 30, 0.49, 0.5, 1.2)] == [0, 0.5, 1, 1, 0.1, 0.1]


def test_a_row_says_when_ours_was_reached_and_a_diverged_run_that_it_was(tmp_path: Path) -> None:
    marks = [Mark(step, minutes, 2 * minutes, 1000.0) for step, minutes in ((10, 1.5), (20, 3.0))]
    for mark in marks:
        add_mark(tmp_path / "marks.jsonl", mark)
    assert read_marks(tmp_path / "marks.jsonl") == marks
    assert read_marks(tmp_path / "none.jsonl") == []
    outcome = Outcome("monai", 0, marks, [Score(0.4, 0.1, 2.0), Score(0.6, 0.3, 2.0)], 4_100_000)
    cells = dict(zip(COLUMNS, row(outcome, wanted=0.4).strip("| ").split(" | "), strict=True))
    assert (cells["mAP"], cells["AP50"], cells["minutes"], cells["by the clock"]) == ("0.600", "0.300", "3.00", "6.00")
    assert (cells["minutes to our final mAP"], cells["parameters, M"]) == ("1.50", "4.1")
    assert "| not reached |" in row(outcome, wanted=0.7)
    assert "diverged" in row(Outcome("monai", 0, [], [], 1), wanted=0.7)


def test_what_was_run_is_not_run_again_unless_it_is_another(tmp_path: Path) -> None:
    outcomes = [Outcome("monai", seed, [Mark(1, 2.0, 3.0, 4.0)], [Score(0.5, 0.2, 1.0)], 7) for seed in (0, 1)]
    assert kept(tmp_path, lambda: outcomes[0], seed=0, path=tmp_path) == outcomes[0]
    assert kept(tmp_path, lambda: outcomes[1], seed=0, path=tmp_path) == outcomes[0]
    assert kept(tmp_path, lambda: outcomes[1], seed=1, path=tmp_path) == outcomes[1]

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medpretrain3d.run_metadata import RunMetadata
from medpretrain3d.study.identity import arm_labels
from medpretrain3d.study.run import Run, find_runs


def run(name: str = "r", **known: Any) -> Run:
    own = {"stage": "finetune", "name": name, "dataset": "d", "num_train_cases": 4}
    return Run(Path(name), RunMetadata(**{**own, **known}))


def test_arms_of_one_paradigm_are_told_apart_by_what_differs():
    runs = [
        run(paradigm="scratch", backbone="a"),
        run(paradigm="mae", backbone="a", num_pretrain_volumes=10),
        run(paradigm="mae", backbone="a", num_pretrain_volumes=90),
    ]
    assert list(arm_labels(runs).values()) == ["scratch", "mae, 10 volumes", "mae, 90 volumes"]


def test_steps_that_grow_with_the_labels_make_one_arm():
    runs = [run(paradigm="mae", budget_steps=100 * n, num_train_cases=n) for n in (1, 2, 4)]
    assert list(arm_labels(runs).values()) == ["mae"] * 3


def test_runs_are_found_once_and_the_baseline_comes_first(tmp_path: Path):
    for name, known in {
        "b": {"stage": "finetune", "paradigm": "mae"},
        "c": {"stage": "finetune", "paradigm": "scratch"},
        "a": {"stage": "pretrain", "paradigm": "mae"},
        "other": {"tool": "not ours"},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"name": name, "group": "g", **known}))
    found = find_runs([tmp_path, tmp_path / "b"])
    assert [one.name for one in found] == ["g/a", "g/c", "g/b"]


def write_runs(root: Path, *names: str) -> None:
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "run.json").write_text(json.dumps({"name": name, "group": "g", "stage": "finetune"}))


def test_runs_behind_links_are_found_and_once(tmp_path: Path):
    """As in `latest/` of a study, or where runs of several disks are put together; a link may lead in a circle."""
    write_runs(tmp_path / "study", "b", "c")
    write_runs(tmp_path / "other" / "group", "d")
    latest = tmp_path / "study" / "latest"
    latest.mkdir()
    (latest / "b").symlink_to(tmp_path / "study" / "b")
    assert [one.name for one in find_runs([latest])] == ["g/b"]
    (tmp_path / "study" / "a").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(tmp_path)
    (tmp_path / "other" / "gone").symlink_to(tmp_path / "nowhere")
    found = find_runs([tmp_path / "study"])
    assert [one.name for one in found] == ["g/b", "g/c", "g/d"]
    # What is there itself is there under its own name, and not as what a link calls it.
    assert [one.folder for one in found[:2]] == [tmp_path / "study" / name for name in "bc"]


def test_links_of_a_run_are_not_runs_beside_it(tmp_path: Path):
    write_runs(tmp_path, "runs/a", "data/old")
    (tmp_path / "runs" / "a" / "store").symlink_to(tmp_path / "data")
    assert [one.name for one in find_runs([tmp_path])] == ["g/data/old", "g/runs/a"]
    assert [one.name for one in find_runs([tmp_path / "runs"])] == ["g/runs/a"]


def test_stores_of_one_folder_name_are_told_apart_by_their_fingerprints(tmp_path: Path):
    """`a/1mm` beside `b/1mm`; a run that does not say its own keeps the name, and so does a name that is not shared."""
    for name, dataset, fingerprint in (
        ("one", "1mm", "0123456789abcdef"),
        ("two", "1mm", "fedcba9876543210"),
        ("old", "1mm", None),
        ("three", "2mm", "0123456789abcdef"),
        ("four", "2mm", "0123456789abcdef"),
    ):
        known = {"stage": "finetune", "name": name, "dataset": dataset, "data_fingerprint": fingerprint}
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(known))
    names = {one.metadata.name: one.data_name for one in find_runs([tmp_path])}
    assert names == {"one": "1mm 01234567", "two": "1mm fedcba98", "old": "1mm", "three": "2mm", "four": "2mm"}
    assert run(data_fingerprint="0123456789abcdef").setting == ("d", 4)


def test_metrics_that_are_nan_or_missing_are_unknown(tmp_path: Path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "metrics.json").write_text(
        '{"num_cases": 12, "interval_method": "x",'
        ' "a": NaN, "b": null, "c": 0.25, "intervals": {"a": [NaN, NaN], "c": [0.1, 0.4]},'
        ' "x_AP_IoU_0.50_MaxDet_100": 0.5, "per_case": [{"case": 7, "score": 0.5}, {"case": "b", "score": NaN}]}'
    )
    one = Run(tmp_path, RunMetadata())
    assert [str(one.estimate(key)) for key in "abcd"] == ["-", "-", "0.250 [0.100, 0.400]", "-"]
    assert {name: str(value) for name, value in one.class_estimates().items()} == {"x": "0.500"}
    assert one.case_scores == {"7": 0.5}
    assert not one.is_tested


def test_previews_are_in_the_order_of_steps(tmp_path: Path):
    (tmp_path / "previews").mkdir()
    for name in ("step_0000100", "step_0000020", "step_final"):
        (tmp_path / "previews" / f"{name}.png").touch()
    assert [step for step, _ in Run(tmp_path, RunMetadata()).previews] == [20, 100]

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
import shutil
from dataclasses import replace
from functools import cache
from html import escape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from medpretrain3d import cli
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import PredictedCase, TargetCase, evaluate
from medpretrain3d.study.design import NOTHING_DECLARED
from medpretrain3d.study.page import write_report
from medpretrain3d.study.report import make_report
from medpretrain3d.study.run import find_runs

NUM_CASES = 12
OBJECT = [10.0, 10, 10, 20, 20, 20]


def write_run(
    root: Path, name: str, rows: list[dict[str, float]] | None = None, finished: bool = True, **facts: Any
) -> Path:
    folder = root / "demo" / name
    folder.mkdir(parents=True)
    known = {"name": name, "group": "demo", "seed": 0, "backbone": "tiny", "budget_steps": 20, "minutes": 1.5}
    (folder / "run.json").write_text(json.dumps({**known, "finished": finished, "git_sha": f"sha-{name}", **facts}))
    if rows is not None:
        columns = ["epoch", "step", *sorted({key for row in rows for key in row} - {"step"})]
        with (folder / "metrics.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
    return folder


def write_picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(path)


@cache
def scored(shift: float, case_prefix: str, num_cases: int) -> dict[str, dict[str, Any]]:
    """Test documents of a detector whose boxes are all `shift` voxels beside the objects, by file."""
    cases = [f"{case_prefix}{i}" for i in range(num_cases)]
    boxes = np.array([[OBJECT[0] + shift, *OBJECT[1:3], OBJECT[3] + shift, *OBJECT[4:]]])
    label, scores = np.zeros(1, int), [np.array([0.5 + i / 30]) for i in range(num_cases)]
    found = [PredictedCase(case, boxes, score, label) for case, score in zip(cases, scores, strict=True)]
    wanted = [TargetCase(case, np.array([OBJECT]), label) for case in cases]
    predictions = [
        {"case": one.case, "boxes": boxes.tolist(), "scores": one.scores.tolist(), "labels": [0]} for one in found
    ]
    return {
        "targets": {
            "classes": ["node<b>"],
            "targets": [{"case": case, "boxes": [OBJECT], "labels": [0]} for case in cases],
        },
        "predictions": {"classes": ["node<b>"], "predictions": predictions},
        "metrics": evaluate(found, wanted, ["node<b>"]),
    }


def write_test(folder: Path, shift: float, case_prefix: str = "case") -> dict[str, Any]:
    """Test files of `scored`, and a picture of each case."""
    documents = scored(shift, case_prefix, NUM_CASES)
    (folder / "test").mkdir()
    for name, document in documents.items():
        (folder / "test" / f"{name}.json").write_text(json.dumps(document))
    for one in documents["targets"]["targets"]:
        write_picture(folder / "test" / "pictures" / f"{one['case']}.png")
    return documents["metrics"]


def write_finetuning(
    root: Path, name: str, paradigm: str, shift: float, num_cases: int = 8, case_prefix: str = "case", **facts: Any
) -> Path:
    rows = [{"step": step, "train/loss": 1 / (step + 1)} for step in range(20)] + [{"step": 19, "val/mAP": 0.3}]
    known = {"dataset": "d", "fold": 0, "num_train_cases": num_cases, "label_fraction": num_cases / 8}
    folder = write_run(root, name, rows, stage="finetune", paradigm=paradigm, **{**known, **facts})
    write_test(folder, shift, case_prefix)
    return folder


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A pretraining run, and scratch and mae with 4 and 8 labels; scratch is 5 voxels off (IoU 1/3), mae is exact."""
    root = tmp_path / "runs"
    rows = [{"step": step, "train/loss": 1.0, "val/loss": 0.5} for step in (5, 10)]
    pretraining = write_run(root, "pre", rows, stage="pretrain", paradigm="mae", corpus="c", num_pretrain_volumes=3)
    write_picture(pretraining / "previews" / "step_0000005.png")
    write_picture(pretraining / "previews" / "step_0000010.png")
    for labels in (4, 8):
        write_finetuning(root, f"scratch_{labels}", "scratch", 5.0, labels)
        write_finetuning(root, f"mae_{labels}", "mae", 0.0, labels)
    return root


def page_of(root: Path) -> str:
    path = root.parent / "report.html"
    write_report(make_report(find_runs([root]), "Title"), path)
    return path.read_text(encoding="utf-8")


def test_page_is_one_file_that_loads_nothing(study: Path):
    page = page_of(study)
    addresses = re.findall(r"(?:src|href|action|srcset)\s*=\s*[\"']?([^\"'\s>]*)|url\(([^)]*)\)", page)
    addresses = [pair for pair in addresses if not "".join(pair).startswith("#")]  # within the page
    addresses = [pair for pair in addresses if pair[0] != "current.uri;"]  # of the script, from the page's own data
    assert len(addresses) == 2 + 2 * 1  # previews, and one telling case of two arms at the full budget
    assert all(first.startswith("data:image/") for first, _ in addresses)
    assert "http://" not in page
    assert "https://" not in page
    assert "default-src 'none'" in page
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page  # this one and no other
    assert not re.search(r"\b(fetch|XMLHttpRequest|import|eval)\b", script)
    assert page.count("<html") == page.count("</html>") == 1


def test_every_run_appears_with_its_facts(study: Path):
    page = page_of(study)
    for name in ("pre", "scratch_4", "mae_4", "scratch_8", "mae_8"):
        assert f"demo/{name}" in page
        assert f"sha-{name}" in page


def test_numbers_and_intervals_are_those_of_metrics_json(study: Path):
    report = make_report(find_runs([study]), "Title")
    metrics = json.loads((study / "demo" / "scratch_8" / "test" / "metrics.json").read_text(encoding="utf-8"))
    key = "mAP_IoU_0.10_0.50_0.05_MaxDet_100"
    low, high = metrics["intervals"][key]
    row = next(row for row in report.results.rows if row[0] == "demo/scratch_8")
    estimate = row[list(report.results.header).index("mAP")]
    assert str(estimate) == f"{metrics[key]:.3f} [{low:.3f}, {high:.3f}]"
    assert f'{metrics[key]:.3f} <span class="interval">[{low:.3f}, {high:.3f}]</span>' in page_of(study)
    # IoU 1/3 hits at 0.10 .. 0.30, which are 5 of the 9 thresholds of the mAP.
    assert metrics[key] == pytest.approx(5 / 9)


def test_one_run_each_has_an_interval_over_scans_and_no_verdict(study: Path):
    report = make_report(find_runs([study]), "Title")
    assert [row[:5] for row in report.differences.rows] == [["mae", "d", "4", "1", "12"], ["mae", "d", "8", "1", "12"]]
    for row, ending in zip(report.differences.rows, (" (exploratory)", ""), strict=True):
        assert [str(cell) for cell in row[5:]] == [
            *("+0.444 [+0.444, +0.444]", "+1.000 [+1.000, +1.000]", "-"),
            f"no verdict{ending}",
        ]
    assert {verdict.gist for verdict in report.verdicts} == {"no verdict"}
    assert "it says nothing about the method" in page_of(study)
    assert re.search(r"\b(better|worse|higher|lower) than\b", page_of(study)) is None


def seeds_of(root: Path, arm: str, shifts: list[float], **facts: Any) -> None:
    for seed, shift in enumerate(shifts):
        write_finetuning(root, f"{arm}_{seed}", arm, shift, seed=seed, **facts)


def test_seeds_are_replicates_and_the_verdict_is_of_all_of_them(tmp_path: Path):
    root = tmp_path / "runs"
    # mAP at a shift of s voxels of 10: 9 thresholds, IoU (10 - s) / (10 + s).
    seeds_of(root, "scratch", [5.0, 6.0, 5.0])
    seeds_of(root, "mae", [2.0, 3.0, 2.0])  # better in every seed
    seeds_of(root, "simclr", [2.0, 8.0, 5.0])  # better, worse, alike
    report = make_report(find_runs([root]), "Title")
    verdicts = {row[0]: row[-1] for row in report.differences.rows}
    assert verdicts == {"mae": "better", "simclr": "inconclusive"}
    (mae,) = [one for one in report.verdicts if one.gist == "better"]
    assert mae.headline == "d, 8 labelled cases: mae is better than scratch (3 seeds, 12 test cases)."
    assert "after Holm" in mae.numbers


def test_equal_arms_are_equivalent_only_against_a_declared_delta(tmp_path: Path):
    root = tmp_path / "runs"
    seeds_of(root, "scratch", [4.0, 5.0])
    seeds_of(root, "mae", [4.0, 5.0])
    runs = find_runs([root])
    assert [one.gist for one in make_report(runs, "Title").verdicts] == ["inconclusive"]
    report = make_report(runs, "Title", replace(NOTHING_DECLARED, delta=0.02))
    assert [one.gist for one in report.verdicts] == ["equivalent"]
    assert "No pretraining run in these folders" in report.notes[0]


def test_few_test_cases_have_no_verdict_however_many_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.study.test_report.NUM_CASES", 9)
    root = tmp_path / "runs"
    seeds_of(root, "scratch", [5.0] * 3)
    seeds_of(root, "mae", [0.0] * 3)
    report = make_report(find_runs([root]), "Title")
    assert [one.gist for one in report.verdicts] == ["no verdict"]
    assert "9 test scans; an interval needs 10" in report.verdicts[0].numbers
    assert "[" not in "".join(str(cell) for row in report.results.rows for cell in row)


def test_intervals_of_earlier_versions_are_not_shown(tmp_path: Path):
    path = write_finetuning(tmp_path / "runs", "a", "scratch", 5.0) / "test" / "metrics.json"
    metrics = json.loads(path.read_text())
    del metrics["interval_method"]
    path.write_text(json.dumps(metrics))
    report = make_report(find_runs([tmp_path / "runs"]), "Title")
    assert "[" not in "".join(map(str, report.results.rows[0]))
    assert any("cover less than they say" in note for note in report.notes)


def test_trivial_baselines_stand_in_the_table_once_a_setting(tmp_path: Path):
    for name, value in (("a", 0.2), ("b", 0.3)):
        path = write_finetuning(tmp_path / "runs", name, "scratch", 5.0, seed=ord(name)) / "test" / "metrics.json"
        key = "mAP_IoU_0.10_0.50_0.05_MaxDet_100"
        prior = {key: value, "intervals": {key: [0.1, 0.4]}}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"trivial_baselines": {"position prior": prior}}))
    rows = [[str(cell) for cell in row] for row in make_report(find_runs([tmp_path / "runs"]), "Title").results.rows]
    assert rows[2][:2] == ["position prior", "training boxes alone"]
    assert rows[2][5] == "0.300 [0.100, 0.400]"  # the harder one
    assert len(rows) == 3


def test_folds_are_pooled_where_each_has_scans_of_its_own(tmp_path: Path):
    root = tmp_path / "runs"
    for arm, shift in (("scratch", 5.0), ("mae", 2.0)):
        for seed in (0, 1):
            for fold in (0, 1):
                name = f"{arm}_{seed}_{fold}"
                folder = write_finetuning(root, name, arm, shift, seed=seed, fold=fold)
                shutil.rmtree(folder / "test")
                write_test(folder, shift, case_prefix=f"fold{fold}_")
    (row,) = make_report(find_runs([root]), "Title").differences.rows
    assert [*row[:5], row[-1]] == ["mae", "d", "8", "2", "24", "better"]
    shutil.rmtree(root / "demo" / "mae_1_1")
    report = make_report(find_runs([root]), "Title")
    assert report.differences.rows[0][3] == "1"  # a seed that lacks a fold is left out, and that is said
    assert any("does not have all folds" in note for note in report.notes)


@pytest.mark.parametrize("asked", [{"label_fraction": 0.5}, {"label_fraction": 1.0, "num_train_cases": 6}])
def test_folds_of_one_budget_are_pooled_whatever_cases_it_is_of_each(tmp_path: Path, asked: dict[str, float]):
    """Half of 13, 13 and 14 training cases are 6, 6 and 7; of a number of cases the share differs."""
    for arm, shifts in (("scratch", (5.0, 4.0)), ("mae", (2.0, 2.0))):
        for seed, shift in enumerate(shifts):
            for fold, of in enumerate((13, 13, 14)):
                count = asked.get("num_train_cases", of // 2)
                facts = {"fold": fold, "num_train_cases": count, "label_fraction": round(count / of, 4)}
                folder = write_finetuning(tmp_path, f"{arm}_{seed}_{fold}", arm, shift, seed=seed, **facts)
                (folder / "config.yaml").write_text(json.dumps({"data": asked}))  # JSON is YAML
                shutil.rmtree(folder / "test")
                write_test(folder, shift, case_prefix=f"fold{fold}_")
    report = make_report(find_runs([tmp_path]), "Title")
    (row,) = report.differences.rows
    assert row[3:5] == ["2", "36"]
    assert "exploratory" not in str(row[-1])
    (place,) = report.places
    assert place.labels == str(asked.get("num_train_cases", 0.5))


def test_folds_that_share_test_scans_are_not_pooled(tmp_path: Path):
    root = tmp_path / "runs"
    for arm, shift in (("scratch", 5.0), ("mae", 2.0)):
        for fold in (0, 1):
            write_finetuning(root, f"{arm}_{fold}", arm, shift, fold=fold)
    assert [row[3:5] for row in make_report(find_runs([root]), "Title").differences.rows] == [["1", "12"], ["1", "12"]]


def test_texts_are_escaped(tmp_path: Path):
    evil = '<img src="x" onerror=alert(1)> & "more"'
    write_finetuning(tmp_path / "runs", "a", evil, 0.0, dataset=evil)
    write_finetuning(tmp_path / "runs", "b", "scratch", 0.0, dataset=evil)
    path = tmp_path / "report.html"
    write_report(make_report(find_runs([tmp_path / "runs"]), evil), path)
    page = path.read_text(encoding="utf-8")
    assert '<img src="x"' not in page
    assert "node<b>" not in page  # the class's name
    assert escape(evil, quote=False).replace('"', "&#34;") in page


def test_figures_for_labels_froc_and_curves(study: Path):
    report = make_report(find_runs([study]), "Title")
    assert [figure.title for figure in report.label_figures] == ["d: mAP by labels"]
    assert [figure.title for figure in report.froc_figures] == ["d, all labels: FROC"]  # the declared budget
    assert len(report.precision_figures) == 2
    assert [figure.title for figure in report.error_figures] == ["d, all labels: errors"]
    assert len(report.pretrain_figures) == 2
    assert len(report.finetune_figures) == 4
    assert [picture.caption for one in report.reconstruction_previews for picture in one.pictures] == [
        "step 5",
        "step 10",
    ]
    assert [len(one.pictures) for one in report.cases] == [2] * len(report.cases)


def test_missing_parts_are_said_and_do_not_stop_the_report(study: Path):
    write_run(
        study, "just_started", None, finished=False, stage="finetune", paradigm="mae", dataset="d", num_train_cases=8
    )
    write_run(study, "untested", [], stage="finetune", paradigm="mae", dataset="d", num_train_cases=8, seed=1)
    (study / "demo" / "mae_8" / "test" / "pictures" / "case0.png").write_bytes(b"no picture")
    (study / "demo" / "mae_4" / "test" / "targets.json").unlink()
    page = page_of(study)
    assert "demo/just_started: is not finished" in page
    assert "demo/untested: was not tested" in page
    assert "demo/mae_4: no paired difference from demo/scratch_4" in page
    assert "demo/mae_8" in page


def test_runs_tested_on_other_cases_are_not_compared(tmp_path: Path):
    write_finetuning(tmp_path / "runs", "a", "scratch", 1.0)
    other = write_run(
        tmp_path / "runs",
        "b",
        [],
        stage="finetune",
        paradigm="mae",
        dataset="d",
        fold=0,
        num_train_cases=8,
        label_fraction=1.0,
    )
    write_test(other, 0.0, case_prefix="other")
    report = make_report(find_runs([tmp_path / "runs"]), "Title")
    assert report.differences.rows == []
    assert any("different cases" in note for note in report.notes)


def test_runs_tested_on_other_boxes_of_one_hull_are_not_compared(tmp_path: Path):
    """At 45 degrees a box and the one across it have one hull in LPS."""
    c = 0.5**0.5
    grid = {"shape": [40, 40, 40], "affine_lps": [[c, -c, 0, 0], [c, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}
    for name, paradigm, box in (("a", "scratch", [0, 8, 0, 20, 12, 5]), ("b", "mae", [8, 0, 0, 12, 20, 5])):
        targets = write_finetuning(tmp_path / "runs", name, paradigm, 1.0) / "test" / "targets.json"
        content = json.loads(targets.read_text())
        for one in content["targets"]:
            one |= {"boxes_vox": [box], "grid": grid}
        targets.write_text(json.dumps(content))
    report = make_report(find_runs([tmp_path / "runs"]), "Title")
    assert report.differences.rows == []
    assert any("different cases or boxes" in note for note in report.notes)


def test_only_pretraining_or_only_one_arm(tmp_path: Path):
    write_run(tmp_path / "one", "pre", [], stage="pretrain", paradigm="mae")
    assert "no fine-tuning run to compare" in page_of(tmp_path / "one")
    write_finetuning(tmp_path / "two" / "runs", "a", "mae", 0.0)
    assert "no tested run from scratch" in page_of(tmp_path / "two" / "runs")


def test_unequal_budgets_are_not_compared(tmp_path: Path):
    write_finetuning(tmp_path / "runs", "a", "scratch", 1.0, budget_steps=10)
    write_finetuning(tmp_path / "runs", "b", "mae", 1.0, budget_steps=20)
    report = make_report(find_runs([tmp_path / "runs"]), "Title")
    assert report.differences.rows == []
    assert any("demo/a differs in budget_steps 20 and 10" in note for note in report.notes)


def test_fifty_runs(tmp_path: Path):
    for index in range(25):
        for arm in ("scratch", "mae"):
            labels = {"num_train_cases": 2 ** (index % 5), "seed": index // 5}
            rows = [{"step": step, "train/loss": 1.0} for step in range(3)]
            write_run(tmp_path / "runs", f"{arm}{index}", rows, stage="finetune", paradigm=arm, dataset="d", **labels)
    report = make_report(find_runs([tmp_path / "runs"]), "Title")
    assert len(report.results.rows) == 50
    assert len(report.finetune_figures) == 5


def test_command_writes_the_page_and_prints_aligned_tables(study: Path, capsys: pytest.CaptureFixture[str]):
    out = study.parent / "deep" / "page.html"
    assert cli.main(["report", str(study), "-o", str(out), "--title", "A & B"]) == 0
    assert "<h1>A &amp; B</h1>" in out.read_text(encoding="utf-8")
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("run "))
    assert len({len(line) for line in lines[start : start + 6]}) == 1
    assert lines[-1].startswith(f"{out}: 5 runs")


def test_plots_stand_alone_with_the_names_of_their_lines(study: Path, capsys: pytest.CaptureFixture[str]):
    figures = study.parent / "figures"
    assert cli.main(["report", str(study), "-o", str(study.parent / "page.html"), "--figures", str(figures)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{figures}: 12 plots"
    drawings = {file.stem: ElementTree.parse(file).getroot() for file in figures.glob("*.svg")}
    assert len(drawings) == 12
    texts = [element.text for element in drawings["d_4_labels_training_loss"].iter() if element.text]
    assert {"d, 4 labels: training loss", "demo/scratch_4", "demo/mae_4"} <= set(texts)


def test_losses_of_different_objectives_are_not_on_one_axis(tmp_path: Path):
    for name, method in (("a", "mae"), ("b", "mae"), ("c", "simclr")):
        rows = [{"step": step, "train/loss": 1.0} for step in range(3)]
        write_run(tmp_path / "runs", name, rows, stage="pretrain", paradigm="x", method=method)
    figures = make_report(find_runs([tmp_path / "runs"]), "Title").pretrain_figures
    assert [(figure.title, [name for name, _ in figure.legend]) for figure in figures] == [
        ("Pretraining by mae: training loss", ["demo/a", "demo/b"]),
        ("Pretraining by simclr: training loss", ["demo/c"]),
    ]


def test_no_run_is_an_error_that_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(UserError, match=r"no run found.*medpretrain3d finetune"):
        find_runs([tmp_path])
    assert cli.main(["report", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match="not readable JSON"):
        find_runs([tmp_path])

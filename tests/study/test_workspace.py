"""The dashboard of a project at wandb, without the network."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from medpretrain3d import cli
from medpretrain3d.engine.run import RunFile
from medpretrain3d.errors import UserError
from medpretrain3d.run_metadata import RunMetadata
from medpretrain3d.study.workspace import run_id_of

GOLDEN = Path(__file__).parent / "workspace.json"
WORDS = ["workspace", "--entity", "ward", "--project", "lesions", "--group", "openkbp", "--baseline", "abc123"]


def document(tmp_path, *words):
    path = tmp_path / "workspace.json"
    assert cli.main([*WORDS, *words, "--output", str(path)]) == 0
    return path.read_text(encoding="utf-8")


def test_the_document_is_the_golden_one(tmp_path):
    """After a wanted change: write it anew with the words above and look at the difference."""
    written = document(tmp_path)
    assert json.loads(written) == json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert document(tmp_path) == written  # nothing in it is drawn at random


def test_arms_are_compared_over_seeds_with_the_baseline_on_top(tmp_path):
    spec = json.loads(document(tmp_path, "--metric", "AP10"))["spec"]["section"]
    runs = spec["runSets"][0]
    assert runs["grouping"] == [{"section": "config", "name": "arm.value"}]
    assert base64.b64decode(runs["baselineRunId"]).decode() == "Run:v1:abc123:lesions:ward"
    sections = {one["name"]: one["panels"] for one in spec["panelBankConfig"]["sections"]}
    assert list(sections)[:2] == ["Answer", "Label efficiency"]
    assert {"Cost", "Pictures"} <= set(sections)
    first = sections["Answer"][0]
    assert (first["viewType"], first["config"]["metrics"]) == ("Bar Chart", ["summary_metrics.test/AP10"])
    for panel in sections["Curves over optimizer steps"] + sections["Curves over samples seen"]:
        config = panel["config"]
        assert (config["groupBy"], config["groupAgg"], config["groupArea"]) == ("arm.value", "mean", "stddev")
    axes = [
        {panel["config"]["xAxis"] for panel in sections[f"Curves over {name}"]}
        for name in ("optimizer steps", "samples seen")
    ]
    assert axes == [{"trainer/global_step"}, {"samples_seen"}]
    assert sections["Label efficiency"][0]["config"]["xAxis"] == "config:num_train_cases.value"


@pytest.mark.parametrize(
    ("metric", "curves"),
    [
        ("AP50", ["mAP", "AP10", "AP50", "FROC10"]),
        ("class/nodule/AR10", ["mAP", "AP10", "AP50", "FROC10"]),
        ("size/3 to 6 mm/recall10", ["mAP", "AP10", "AP50", "FROC10"]),
        ("AP_center", ["AP_center", "CPM"]),
        ("class/nodule/AP_center", ["AP_center", "CPM"]),
    ],
)
def test_curves_are_those_that_runs_with_the_metric_have(metric, curves, tmp_path):
    sections = json.loads(document(tmp_path, "--metric", metric))["spec"]["section"]["panelBankConfig"]["sections"]
    drawn = {
        one["name"]: [name for panel in one["panels"] for name in panel["config"].get("metrics", [])]
        for one in sections
    }
    assert drawn["Curves over samples seen"] == [f"val/{name}" for name in curves]
    assert drawn["Curves over optimizer steps"] == [*drawn["Curves over samples seen"], "train/loss", "lr"]
    assert drawn["Answer"][0] == f"summary_metrics.test/{metric}"
    charts = next(one["panels"] for one in sections if one["name"] == "FROC, precision and recall")
    assert len(charts) == (2 if "mAP" in curves else 1)  # precision by recall is of overlaps


@pytest.mark.parametrize(("metric", "near"), [("AP30", "'AP50'"), ("FROC", "'FROC10'"), ("map", "'mAP'"), ("x/y", "")])
def test_a_metric_that_no_run_has_is_refused(metric, near, tmp_path, capsys):
    assert cli.main([*WORDS, "--metric", metric, "--output", str(tmp_path / "w.json")]) == 2
    error = capsys.readouterr().err
    assert f"metric '{metric}': wanted one that runs have below test/: mAP, AP10" in error
    assert (f"did you mean {near}" in error) if near else ("did you mean" not in error)
    assert not (tmp_path / "w.json").exists()


def test_a_band_is_called_what_it_is_over(tmp_path):
    """Runs are grouped by their arm alone: data sets, detectors, folds and budgets of a group are in its mean."""
    spec = json.loads(document(tmp_path))["spec"]["section"]
    panels = [one for section in spec["panelBankConfig"]["sections"] for one in section["panels"]]
    bands = [
        one["config"] for one in panels if one["config"].get("groupArea") == "stddev" and one["viewType"] != "Bar Chart"
    ]
    assert bands
    for config in bands:
        assert config["chartTitle"].endswith("mean and standard deviation over all runs of an arm that are shown")


def test_a_baseline_is_a_run_of_this_machine_or_an_id(tmp_path):
    RunFile(tmp_path / "r").update(RunMetadata(run_id="0123abcd", name="r"))
    RunFile(tmp_path / "older").update(RunMetadata(name="older"))
    assert run_id_of(str(tmp_path / "r")) == "0123abcd"
    assert run_id_of("0123abcd") == "0123abcd"
    with pytest.raises(UserError, match="has no run_id"):
        run_id_of(str(tmp_path / "older"))
    with pytest.raises(UserError, match="wanted the folder of a run, or its id"):
        run_id_of(str(tmp_path / "nowhere"))


def test_without_a_key_nothing_is_saved_and_one_line_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    assert cli.main(WORDS) == 2
    assert "ward/lesions: not saved" in (error := capsys.readouterr().err)
    assert "--output FILE" in error.splitlines()[-1]

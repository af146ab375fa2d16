"""What the trackers know of a fine-tuning run that was interrupted once, read back from their files."""

from __future__ import annotations

import csv
import json
import os
import socket
import sqlite3
from types import SimpleNamespace

import pytest

from ..engine.wandb_files import WandbFile
from .conftest import TINY_FINETUNE, TINY_PRETRAIN
from .sittings import sit

USER, HOST = "jane-roe-4711", "ward-pc-0815"
STEPS, BATCH = 6, 2
ENVIRONMENT = {
    **{"USER": USER, "LOGNAME": USER, "USERNAME": USER, "HOSTNAME": HOST},
    **{"WANDB_MODE": "offline", "WANDB_PROJECT": "ward", "WANDB_ENTITY": "team"},
    **{"WANDB_RUN_GROUP": "comparison", "WANDB_TAGS": "first, second"},
}


@pytest.fixture(scope="module")
def tracked(cube_store, tmp_path_factory):
    """A pretraining run, and a fine-tuning run from its encoder that was struck in its fifth step and continued."""
    home = tmp_path_factory.mktemp("tracked") / USER
    root = home / "runs"
    home.mkdir()

    def sitting(stage: str, name: str, *arguments: str, **cut: object) -> dict[str, object]:
        tiny = TINY_PRETRAIN if stage == "pretrain" else TINY_FINETUNE
        place = ["--data.store", str(cube_store), "--run.root", str(root), "--run.name", name, "--run.wandb", "offline"]
        steps = ["--trainer.max_steps", str(STEPS), "--trainer.val_check_interval", "3"]
        log = ["--trainer.log_every_n_steps", "1"]
        words = [*tiny, *place, *steps, *log, "--run.arm", "mae_long", *arguments]
        return {"stage": stage, "arguments": words, "environment": {**ENVIRONMENT, "HOME": str(home)}, **cut}

    others = ("--run.tensorboard", "true", "--run.mlflow", "true", "--model.init_from", str(root / "smoke/mae/encoder"))
    codes = sit(
        [
            sitting("pretrain", "mae"),
            sitting("finetune", "ft", *others, cut={"point": "forward", "step": 4, "signal": 15}),
            sitting("finetune", "ft", *others),
        ],
        home.parent,
    )
    assert codes == [[0], [143], [0]], (home.parent / "sittings.log").read_text()[-3000:]
    folder = root / "smoke/ft"
    sittings = [WandbFile(path) for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]
    metrics = json.loads((folder / "test/metrics.json").read_text())
    pretraining = WandbFile(next((root / "smoke/mae").glob("wandb/offline-run-*/*.wandb")))
    rows = list(csv.DictReader((folder / "metrics.csv").open(newline="")))
    known = json.loads((folder / "run.json").read_text())
    return SimpleNamespace(
        home=home, root=root, folder=folder, sittings=sittings, end=sittings[-1], pretraining=pretraining, known=known,
        metrics=metrics, rows=rows,
    )  # fmt: skip


def test_a_continued_run_is_one_run_at_wandb(tracked):
    assert len(tracked.sittings) == 2
    assert {one.run.run_id for one in tracked.sittings} == {tracked.known["run_id"]}
    assert all(one.run.resume for one in tracked.sittings)
    assert tracked.pretraining.run.run_id != tracked.known["run_id"]


def test_the_environment_wins_over_defaults_and_what_is_typed_wins_over_it(tracked):
    run = tracked.end.run
    assert (run.entity, run.project, run.run_group, run.job_type) == ("team", "ward", "comparison", "finetune")
    assert {"first", "second", "mae", "reconstruction"} <= set(run.tags)
    assert run.display_name == "ft"


def test_charts_run_over_optimizer_steps_and_samples_and_rows_are_those_of_the_curves(tracked):
    metrics = tracked.end.metrics
    assert metrics["*"].step_metric == "trainer/global_step"
    assert metrics["samples_seen"].options.defined
    assert metrics["val/mAP"].summary.max
    rows = {row["_step"]: row for one in tracked.sittings for row in one.history}
    assert sorted(rows) == list(range(STEPS + 1))
    assert [rows[step]["trainer/global_step"] for step in sorted(rows)] == sorted(rows)
    for row in tracked.rows:
        same = rows[int(row["step"])]
        assert same["samples_seen"] == int(row["samples_seen"]) == min(int(row["step"]) + 1, STEPS) * BATCH
        for name in ("train/loss", "val/mAP"):
            assert same.get(name) == (float(row[name]) if row[name] else None)


def test_the_configuration_is_whole_and_the_facts_are_flat(tracked):
    config, known = tracked.end.config, tracked.known
    assert config["model"]["optim"]["lr"] > 0
    assert config["data"]["patch"] == [16, 16, 16]
    assert config["trainer"]["max_steps"] == STEPS
    facts = ("paradigm", "method", "dataset", "data_fingerprint", "detector", "backbone", "budget_steps", "seed")
    for fact in (*facts, "num_train_cases", "label_fraction", "checkpoint_sha256", "git_sha", "steps", "flop"):
        assert config[fact] == known[fact] is not None, fact
    assert config["arm"] == known["arm"] == "mae_long"
    assert config["finished"] is True
    assert tracked.end.summary["finished"] is True
    assert tracked.sittings[0].config["finished"] is False
    assert tracked.end.exit_code == 0


def test_the_summary_has_numbers_per_class_and_per_size(tracked):
    summary, metrics = tracked.end.summary, tracked.metrics
    assert summary["test/AP10"] == metrics["AP_IoU_0.10_MaxDet_100"]
    assert summary["test/class/cube/AP50"] == metrics["cube_AP_IoU_0.50_MaxDet_100"]
    sizes = [one for one in metrics["size_strata"] if one["num_targets"]]
    assert sizes
    for one in sizes:
        name = f"{one['from_mm']:g} to {one['to_mm']:g} mm"
        assert summary[f"test/size/{name}/recall10"] == one["recall_IoU_0.10"]


def test_tables_charts_and_boxes_are_media_of_the_run(tracked):
    files = tracked.end.path.parent / "files"
    last = tracked.end.history[-1]

    def table(name: str) -> dict[str, list[object]]:
        return json.loads((files / last[f"{name}.path"]).read_text())

    cases, per_case = table("test/cases"), tracked.metrics["per_case"]
    assert cases["columns"][0] == "case"
    assert [row[-1] for row in cases["data"]] == [row["score"] for row in per_case]
    keys = list(csv.DictReader((tracked.folder / "test/cases.csv").open(newline="")))
    assert [row[0] for row in cases["data"]] == [row["dashboard"] for row in keys]
    assert [row["case"] for row in keys] == [row["case"] for row in per_case] != [row[0] for row in cases["data"]]
    assert table("test/classes")["data"][0][0] == "cube"
    assert len(table("test/sizes")["data"]) == len(tracked.metrics["size_strata"])
    for chart in ("froc", "precision_recall"):
        assert tracked.end.config[f"_wandb.visualize.test/{chart}"]["panel_config"]["panelDefId"]
        assert len(table(f"test/{chart}_table")["data"]) > 6
    pictures = [one for case in range(2) for one in last[f"test/boxes_{case}.all_boxes"]]
    assert all({"truth", "detections"} >= set(one) for one in pictures)
    boxes = [box for one in pictures for box in json.loads((files / one["truth"]["path"]).read_text())["box_data"]]
    assert {box["box_caption"] for box in boxes} == {"cube"}
    assert {"minX", "maxX", "minY", "maxY"} == set(boxes[0]["position"])


def test_encoder_and_detector_are_artifacts_and_the_encoder_links_both_runs(tracked):
    made = {name: one for (kind, name), one in tracked.pretraining.artifacts.items() if kind == "encoder"}
    used = {name: one for (kind, name), one in tracked.end.artifacts.items() if kind == "encoder"}
    assert list(made) == list(used) == [f"encoder-{tracked.known['checkpoint_sha256'][:16]}"]
    (made_one,), (used_one,) = made.values(), used.values()
    assert used_one.use_after_commit
    assert not made_one.use_after_commit
    assert made_one.digest == used_one.digest  # so they are one version of one artifact
    assert json.loads(made_one.metadata)["sha256"] == tracked.known["checkpoint_sha256"]
    assert [kind for kind, _ in tracked.end.artifacts if kind == "detector"] == ["detector"]


def test_the_folder_of_a_run_holds_all_that_is_to_be_sent(tracked):
    tables = [one for (kind, _), one in tracked.end.artifacts.items() if kind == "run_table"]
    assert len(tables) == 5
    for one in tables:
        for entry in one.manifest.contents:
            assert (tracked.folder / entry.local_path).is_file()
            assert not os.path.isabs(entry.local_path)


def test_use_of_memory_is_known(tracked):
    assert {"proc.memory.rssMB", "memory_percent"} <= set().union(*(one.stats for one in tracked.sittings))


def test_tensorboard_has_the_curves_once(tracked):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tracked.folder / "tensorboard"))
    events.Reload()
    steps = [event.step for event in events.Scalars("train/loss")]
    assert steps == list(range(STEPS))  # what was logged after the checkpoint is hidden
    expected = [float(row["train/loss"]) for row in tracked.rows if row["train/loss"]]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(expected)
    assert events.Scalars("test/AP10")[0].value == pytest.approx(tracked.metrics["AP_IoU_0.10_MaxDet_100"])
    assert "test/boxes_0" in events.Tags()["images"]


def test_mlflow_has_one_run_with_options_facts_and_curves(tracked):
    with sqlite3.connect(tracked.root / "mlflow.db") as store:
        runs = store.execute("select run_uuid, name, status, user_id from runs").fetchall()
        assert [run[1:3] for run in runs] == [("ft", "FINISHED")]
        options = dict(store.execute("select key, value from params").fetchall())
        assert options["data.patch"] == "[16, 16, 16]"
        tags = dict(store.execute("select key, value from tags").fetchall())
        assert (tags["finished"], tags["arm"], tags["medpretrain3d.run_id"]) == (
            "True",
            "mae_long",
            tracked.known["run_id"],
        )
        found = store.execute("select step, value from metrics where key = 'train/loss'").fetchall()
    expected = {int(row["step"]): float(row["train/loss"]) for row in tracked.rows if row["train/loss"]}
    assert dict(found) == pytest.approx(expected)


def test_mlflow_has_tables_curves_and_pictures_as_files(tracked):
    with sqlite3.connect(tracked.root / "mlflow.db") as store:
        ((run, uri),) = store.execute("select run_uuid, artifact_uri from runs").fetchall()
        ((logged,),) = store.execute("select value from tags where key = 'mlflow.loggedArtifacts'").fetchall()
    assert uri == f"mlflow-artifacts:/{run}/artifacts"  # where a server on the database looks for them
    folder = tracked.root / "mlartifacts" / run / "artifacts"
    tables = {one["path"]: json.loads((folder / one["path"]).read_text()) for one in json.loads(logged)}
    names = ("cases", "classes", "sizes", "froc", "precision_recall")
    assert set(tables) == {f"test/{name}.json" for name in names}
    assert [row[-1] for row in tables["test/cases.json"]["data"]] == [
        row["score"] for row in tracked.metrics["per_case"]
    ]
    assert tables["test/classes.json"]["data"][0][0] == "cube"
    assert tables["test/froc.json"]["columns"][:2] == ["line", "false positives per scan"]
    pictures = sorted((tracked.folder / "test/pictures").glob("*.png"))
    assert len(pictures) > 1
    kept = {path.read_bytes() for path in (folder / "test").glob("boxes_*.png")}
    assert kept == {path.read_bytes() for path in pictures}


def test_cases_have_a_key_at_every_tracker(tracked):
    ids = [row["case"].encode() for row in csv.DictReader((tracked.folder / "test/cases.csv").open(newline=""))]
    assert all(len(one) > 3 for one in ids)
    told = [tracked.root / "mlflow.db", *(tracked.root / "mlartifacts").rglob("*.json")]
    told += [path for path in (tracked.folder / "tensorboard").rglob("*") if path.is_file()]
    told += [one.path for one in tracked.sittings] + list(tracked.folder.glob("wandb/offline-run-*/files/**/*.json"))
    assert len(told) > 10
    assert [path.name for path in told for one in ids if one in path.read_bytes()] == []


def test_no_tracker_names_host_user_place_or_command_line(tracked):
    names = [USER, HOST, str(tracked.home), *(one for one in (socket.gethostname(),) if len(one) > 6)]
    looked_at, leaks = set(), []
    trackers = {"wandb", "tensorboard", "mlflow.db", "mlartifacts"}
    for path in tracked.root.rglob("*"):
        inside = path.relative_to(tracked.root).parts
        if not path.is_file() or path.name.startswith("debug") or not trackers & set(inside):
            continue  # wandb's own logs stay here
        looked_at.add(next(name for name in inside if name in trackers))
        content = path.read_bytes() + path.name.encode()
        leaks += [
            f"{path.relative_to(tracked.root)}: {name}" for name in (*names, "--run.wandb") if name.encode() in content
        ]
    assert looked_at == trackers
    assert leaks == []

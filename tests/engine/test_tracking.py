"""Where a run goes at wandb: the environment wins over a recipe, and what is typed over both."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medpretrain3d.engine import tracking
from medpretrain3d.engine.curves import CurveLogger
from medpretrain3d.engine.mlflow_run import MlflowRun
from medpretrain3d.engine.results_board import ResultsBoard
from medpretrain3d.engine.run import RunConfig, new_run_id
from medpretrain3d.engine.tensorboard_run import TensorBoardRun
from medpretrain3d.engine.tracked_run import TrackedRun
from medpretrain3d.engine.trackers import tracker_names, trackers
from medpretrain3d.engine.wandb_run import WandbRun
from medpretrain3d.errors import UserError
from medpretrain3d.run_metadata import RunMetadata
from pretrain.previews import Previews

PLACES = {
    "wandb_project": ("WANDB_PROJECT", "project"),
    "wandb_entity": ("WANDB_ENTITY", "entity"),
    "group": ("WANDB_RUN_GROUP", "group"),
    "name": ("WANDB_NAME", "name"),
}


class Experiment(SimpleNamespace):
    """What is asked of wandb's run here."""

    offline, step = True, 0

    def __init__(self, **known):
        super().__init__(rows=[], defined={}, **known)

    def define_metric(self, name, **how):
        self.defined[name] = how

    def log(self, row, step=None):
        self.rows.append((step, row))

    def finish(self, exit_code=0):
        self.exit_code = exit_code


@pytest.fixture
def opened(monkeypatch):
    """Arguments with which runs were opened."""
    found = []

    def open_run(mode, arguments):
        found.append({"mode": mode, **arguments})
        return Experiment()

    for variable in (*(name for name, _ in PLACES.values()), "WANDB_TAGS", "WANDB_RUN_ID", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(tracking, "_open_run", open_run)
    return found


@pytest.mark.parametrize("field", PLACES)
def test_the_environment_wins_over_a_recipe_and_what_is_typed_over_both(opened, monkeypatch, tmp_path, field):
    variable, argument = PLACES[field]
    run = RunConfig(**{"root": str(tmp_path), field: "recipe"})

    def asked(typed=()):
        tracking.wandb_logger(run, run.folder, "finetune", RunMetadata(), typed)
        return opened[-1][argument]

    assert asked() == "recipe"
    monkeypatch.setenv(variable, " environment ")
    assert asked() == "environment"
    assert asked({field}) == "recipe"
    monkeypatch.setenv(variable, "  ")
    assert asked() == "recipe"


def test_tags_of_the_run_stay_beside_those_of_the_environment(opened, monkeypatch, tmp_path):
    run = RunConfig(root=str(tmp_path), tags="a,b")
    facts = RunMetadata(paradigm="contrastive", method="simclr", dataset="lidc")
    tracking.wandb_logger(run, run.folder, "finetune", facts)
    assert opened[-1]["tags"] == ["contrastive", "simclr", "lidc", "a", "b"]
    monkeypatch.setenv("WANDB_TAGS", "c, lidc ,")
    tracking.wandb_logger(run, run.folder, "finetune", facts)
    assert opened[-1]["tags"] == ["contrastive", "simclr", "lidc", "c"]


def test_a_run_goes_on_under_its_id_and_an_agent_of_a_sweep_chooses_it(opened, monkeypatch, tmp_path):
    run = RunConfig(root=str(tmp_path))
    tracking.wandb_logger(run, run.folder, "finetune", RunMetadata(run_id="abc"))
    assert (opened[-1]["id"], opened[-1]["resume"]) == ("abc", "allow")
    monkeypatch.setenv("WANDB_RUN_ID", "of-a-sweep")  # exported by hand: all jobs of a study would be one run
    tracking.wandb_logger(run, run.folder, "finetune", RunMetadata(run_id="abc"))
    assert opened[-1]["id"] == "abc"
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    tracking.wandb_logger(run, run.folder, "finetune", RunMetadata(run_id="abc"))
    assert opened[-1]["id"] == "of-a-sweep"


def test_no_two_runs_have_one_id():
    assert len({new_run_id(RunMetadata(name="a"), "config") for _ in range(100)}) == 100


def test_paths_of_the_configuration_are_told_on_request_only(opened, tmp_path):
    config = {"data": {"store": "/home/jane/lidc", "patch": [8, 8, 8]}, "run": {"root": "/home/jane", "name": "r"}}
    config["trainer"] = {"callbacks": [{"init_args": {"dirpath": "~/checkpoints/of mine"}}]}
    for shares in (False, True):
        run = RunConfig(root=str(tmp_path), share_machine=shares)
        trackers(run, "finetune", RunMetadata(method="mae"), (), config, 4)
        told = opened[-1]["config"]
        assert ("jane" in str(told)) is shares
        assert told["data"]["patch"] == [8, 8, 8]
        assert told["arm"] == told["method"] == "mae"  # where no arm is named
    assert told["data"] == config["data"]


def test_trackers_are_named_as_they_are_opened(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = RunConfig(root=str(tmp_path), tensorboard=True, mlflow=True)
    assert tracker_names(run, ()) == ["wandb, offline", "TensorBoard", "MLflow"]
    assert tracker_names(RunConfig(wandb="disabled"), ()) == []


def test_rows_of_wandb_are_steps_and_a_step_has_one_row(tmp_path):
    experiment = Experiment()
    logger = WandbRun(experiment, tmp_path, samples_per_step=8)
    assert experiment.defined["*"]["step_metric"] == "trainer/global_step"
    logger.log_metrics({"loss": 1.0}, 3)
    assert experiment.rows == [(3, {"loss": 1.0, "samples_seen": 32, "trainer/global_step": 3})]
    experiment.step = 5  # where the server goes on
    logger.log_metrics({"loss": 1.0}, 4)
    assert len(experiment.rows) == 1


def test_a_run_that_did_not_end_well_is_closed_as_one_and_a_finished_one_once(tmp_path):
    experiment = Experiment()
    WandbRun(experiment, tmp_path).leave()
    assert experiment.exit_code == 1
    told = {}
    experiment = Experiment(config=SimpleNamespace(update=lambda facts, **_: told.update(facts)), summary={})
    logger = WandbRun(experiment, tmp_path)
    logger.conclude(RunMetadata(finished=True, steps=4, name="r"))
    logger.leave()
    assert (experiment.exit_code, told["finished"], experiment.summary) == (0, True, {"finished": True, "steps": 4})


def test_samples_seen_stand_in_the_curves_where_they_are_known(tmp_path):
    CurveLogger(tmp_path, samples_per_step=6).log_metrics({"loss": 1.0}, 1)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["epoch,step,samples_seen,loss", ",1,12,1.0"]
    assert TrackedRun.with_samples(SimpleNamespace(samples_per_step=None), {"loss": 1.0}, 1) == {"loss": 1.0}


PICTURE = np.zeros((4, 6, 3), np.uint8)


class Client(SimpleNamespace):
    """What is asked of MLflow's client where pictures are kept."""

    def get_run(self, run_id):
        return SimpleNamespace(info=SimpleNamespace(artifact_uri=f"{self.scheme}:/{run_id}/artifacts"))

    def log_artifacts(self, run_id, folder, place):
        if self.refuses:
            raise self.refuses
        self.kept[place] = sorted(path.name for path in Path(folder).iterdir())


def mlflow_run(client, tracking_uri, destination):
    run = MlflowRun.__new__(MlflowRun)
    run.__dict__.update(_mlflow_client=client, _run_id="r", _tracking_uri=tracking_uri, _destination=destination)
    return run


def test_pictures_on_the_way_are_files_at_mlflow(tmp_path, capsys):
    from mlflow.exceptions import MlflowException

    client = Client(scheme="mlflow-artifacts", refuses=None, kept={})
    mlflow_run(client, "sqlite:///mlflow.db", tmp_path.as_uri()).show_picture("val/preview", PICTURE, 9)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")] == [
        "r/artifacts/val/preview_0000010.png"
    ]
    at_server = mlflow_run(client, "https://mlflow.example", tmp_path.as_uri())
    at_server.show_picture("val/preview", PICTURE, 9)
    assert client.kept == {"val": ["preview_0000010.png"]}
    for client.refuses in (MlflowException("no artifacts\nhere"), ConnectionError("gone")):
        at_server.show_picture("val/preview", PICTURE, 9)  # no reason for a run to end
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "MLflow: tables and pictures (val) are not kept there: no artifacts here",
        "MLflow: tables and pictures (val) are not kept there: gone",
    ]


def test_a_server_of_mlflow_that_does_not_answer_is_said_before_the_run_begins(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for place in ("http://127.0.0.1:9", "htp://mistyped"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
        with pytest.raises(UserError, match=f"no run can be begun at {place} .*; set MLFLOW_TRACKING_URI to") as said:
            MlflowRun(RunConfig(root=str(tmp_path)), RunMetadata(run_id="r"), {"a": 1}, 2)
        assert len(str(said.value)) < 600


def test_a_server_of_mlflow_that_is_lost_is_said_once_and_ends_no_run(monkeypatch, tmp_path, capsys):
    from mlflow.exceptions import MlflowException

    class Lost:
        calls = 0

        def log_batch(self, **_):
            self.calls += 1
            raise MlflowException("no connection\nat all")

        set_tag = set_terminated = get_run = lambda self, *_: self.log_batch()

    client = Lost()
    run = mlflow_run(client, "https://mlflow.example", tmp_path.as_uri())
    run.__dict__.update(_initialized=True, _prefix="", _log_batch_kwargs={}, _checkpoint_callback=None)
    for step in range(3):
        run.log_metrics({"loss": 1.0}, step)
    run.show(ResultsBoard({"mAP": 0.5}, {}, {}, {}, ("a",)), 3)
    assert client.calls == 1  # for a while it is not asked, which could take as long
    run.silent_until = 0.0
    run.log_metrics({"loss": 1.0}, 3)
    assert client.calls == 2
    run.conclude(RunMetadata(run_id="r"))
    assert client.calls == 3
    assert capsys.readouterr().out.splitlines() == [
        "MLflow: takes no numbers (no connection at all); the run goes on, and its metrics.csv has them all"
    ]


def test_a_disk_that_takes_no_curves_of_tensorboard_ends_no_run(tmp_path, capsys):
    (tmp_path / "tensorboard").write_text("in the way")
    board = TensorBoardRun(tmp_path, {"a": 1}, None, 0, False)
    for step in range(3):
        board.log_metrics({"loss": 1.0}, step)
        board.save()
    board.show_picture("val/preview", PICTURE, 3)
    board.conclude(RunMetadata(run_id="r"))
    (line,) = capsys.readouterr().out.splitlines()
    assert "TensorBoard: takes no numbers (" in line


def test_pictures_on_the_way_are_shown_by_every_tracker(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoardRun(tmp_path, {}, None, 0, False)
    board.show_picture("val/preview", PICTURE, 9)
    board.save()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Images("val/preview")] == [9]
    experiment = Experiment()
    WandbRun(experiment, tmp_path).show_picture("val/preview", PICTURE, 9)
    ((step, row),) = experiment.rows
    assert (step, len(row["val/preview"])) == (9, 1)
    trainer = SimpleNamespace(is_global_zero=True, global_step=10, loggers=[Shown()])
    Previews(tmp_path).on_validation_batch_end(trainer, None, {"preview": {"input": torch.rand(8, 8, 8)}}, None, 0)
    assert trainer.loggers[0].shown == [("val/preview", 9)]
    assert (tmp_path / "step_0000010.png").is_file()


class Shown(TrackedRun):
    """A tracker that keeps what it is shown."""

    name, version = "shown", "0"

    def __init__(self):
        self.shown = []

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params):
        pass

    def show_picture(self, name, picture, step):
        assert picture.shape[-1] == 3
        self.shown.append((name, step))

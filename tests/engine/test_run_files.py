from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from medpretrain3d.atomic import finished_file, finished_folder
from medpretrain3d.engine.distributed import gather_by_case
from medpretrain3d.engine.run import RunConfig, RunFile, git_sha, is_finished
from medpretrain3d.engine.tracking import wandb_logger, wandb_mode
from medpretrain3d.errors import UserError
from medpretrain3d.run_metadata import RunMetadata


def test_run_file_adds_metadata_and_minutes(tmp_path):
    RunFile(tmp_path).update(RunMetadata(name="a", finished=False))
    assert not is_finished(tmp_path)
    again = RunFile(tmp_path)
    again.update(RunMetadata(finished=True))
    known = again.read()
    assert known.name == "a"
    assert known.minutes is not None
    assert known.minutes >= 0
    assert is_finished(tmp_path)


def test_git_sha_is_that_of_the_checkout_with_its_changes_and_of_no_other_repository(tmp_path, monkeypatch):
    from medpretrain3d.engine import run

    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run(["git", *who, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def package_at(*parts):
        file = tmp_path.joinpath(*parts, "medpretrain3d", "engine", "run.py")
        file.parent.mkdir(parents=True)
        file.write_text("")
        (file.parents[1] / "__init__.py").write_text("")
        monkeypatch.setattr(run, "__file__", str(file))
        return file

    installed = package_at("venv", "lib", "site-packages")
    assert git_sha() == "unknown"  # no repository at all
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "a thesis, its virtual environment included")
    assert git_sha() == "unknown"
    own = package_at("src")
    assert git_sha() == "unknown"  # a copy that nobody committed
    git("add", "-A")
    git("commit", "-qm", "a checkout")
    assert git_sha() == git("rev-parse", "--short=12", "HEAD")
    own.write_text("changed")
    assert git_sha() == git("rev-parse", "--short=12", "HEAD") + "+changes"
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert git_sha().endswith("+changes")
    monkeypatch.setattr(run, "__file__", str(installed))
    assert git_sha() == "unknown"


def test_results_of_one_process_come_back_in_the_order_of_their_ids():
    assert list(gather_by_case({"b": 1, "a": 2}).items()) == [("a", 2), ("b", 1)]


@pytest.mark.parametrize(
    ("asked", "key", "environment", "expected"),
    [
        ("auto", "", "", "offline"),
        ("auto", "secret", "", "online"),
        ("offline", "secret", "", "offline"),
        ("online", "", "disabled", "disabled"),
        ("disabled", "secret", "", "disabled"),
    ],
)
def test_wandb_mode(monkeypatch, tmp_path, asked, key, environment, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_MODE", environment)
    monkeypatch.delenv("WANDB_DISABLED", raising=False)
    assert wandb_mode(asked) == expected


@pytest.mark.parametrize("asked", ["auto", "online", "offline"])
@pytest.mark.parametrize(
    ("spelling", "expected"),
    [
        *(("dryrun", "offline"), ("DryRun", "offline"), ("OFFLINE", "offline"), (" offline ", "offline")),
        *(("run", "online"), ("Online", "online"), ("DISABLED", "disabled")),
    ],
)
def test_wandb_modes_of_the_environment_are_read_in_every_spelling(monkeypatch, asked, spelling, expected):
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setenv("WANDB_MODE", spelling)
    assert wandb_mode(asked) == expected


@pytest.mark.parametrize("spelling", ["off", "ofline", "false", "0", "shared", "local", "no"])
def test_a_wandb_mode_that_is_none_is_refused_and_never_online(monkeypatch, spelling):
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setenv("WANDB_MODE", spelling)
    with pytest.raises(UserError, match="wanted one of online, run, offline, dryrun, disabled"):
        wandb_mode("auto")


@pytest.mark.parametrize(("value", "expected"), [("true", "disabled"), ("1", "disabled"), ("YES", "disabled")])
def test_wandb_disabled_of_the_environment_disables(monkeypatch, value, expected):
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setenv("WANDB_DISABLED", value)
    assert wandb_mode("online") == expected
    monkeypatch.setenv("WANDB_DISABLED", "false")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb_mode("online") == "offline"


MODES = ("online", "offline", "disabled")


@pytest.mark.parametrize("environment", ["", *MODES, "OFFLINE", "none of them"])
@pytest.mark.parametrize("asked", MODES)
def test_what_is_typed_wins_over_the_environment(monkeypatch, asked, environment):
    for disabled in ("", "true"):
        monkeypatch.setenv("WANDB_MODE", environment)
        monkeypatch.setenv("WANDB_DISABLED", disabled)
        assert wandb_mode(asked, is_typed=True) == asked


@pytest.mark.parametrize("environment", MODES)
@pytest.mark.parametrize("asked", ["auto", *MODES])
def test_of_a_recipe_and_the_environment_the_latter_wins_but_disabled_stays(monkeypatch, asked, environment):
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setenv("WANDB_MODE", environment)
    monkeypatch.delenv("WANDB_DISABLED", raising=False)
    assert wandb_mode(asked) == ("disabled" if asked == "disabled" else environment)
    if asked == "auto":
        assert wandb_mode(asked, is_typed=True) == environment  # which says nothing of its own


def test_without_tracking_wandb_is_not_imported(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb_logger(RunConfig(wandb="disabled"), tmp_path, "pretrain", RunMetadata(), {"wandb"}) is None
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_logger(RunConfig(), tmp_path, "pretrain", RunMetadata()) is None


def test_what_wandb_offline_noted_for_a_folder_holds(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    for name in ("WANDB_MODE", "WANDB_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    assert wandb_mode("auto") == "online"
    for command, mode in (
        ("offline", "offline"),
        ("online", "online"),
        ("disabled", "disabled"),
        ("enabled", "online"),
    ):
        subprocess.run([sys.executable, "-m", "wandb", command], check=True, capture_output=True)
        assert wandb_mode("auto") == mode


def test_an_offline_wandb_run_holds_the_metadata_and_nothing_of_the_machine(monkeypatch, tmp_path):
    import socket

    monkeypatch.setenv("WANDB_MODE", "OFFLINE")
    run = RunConfig(name="r", group="g")
    logger = wandb_logger(run, tmp_path, "pretrain", RunMetadata(paradigm="mae", corpus="phantom"))
    assert logger is not None
    experiment = logger.experiment
    logger.log_metrics({"train/loss": 1.0}, step=0)
    assert experiment.group == "g"
    assert experiment.job_type == "pretrain"
    assert dict(experiment.config) == {"paradigm": "mae", "corpus": "phantom"}
    assert set(experiment.tags) == {"mae", "phantom"}
    experiment.finish()
    assert b"mae" in written_by_wandb(tmp_path)
    host = socket.gethostname().encode()
    assert len(host) <= 6 or host not in written_by_wandb(tmp_path)  # a short one is anywhere


def written_by_wandb(folder: Path) -> bytes:
    """What a finished run wrote; its service is a process of its own and is up to a second behind."""
    for _ in range(100):
        written = b"".join(path.read_bytes() for path in folder.rglob("*.wandb"))
        if len(written) > 7:  # more than the header
            break
        time.sleep(0.1)
    return written


def test_a_folder_or_file_is_there_whole_or_not_at_all(tmp_path):
    def killed_halfway(folder: bool) -> None:
        with finished_folder(tmp_path / "a") if folder else finished_file(tmp_path / "b") as unfinished:
            (unfinished / "half" if folder else unfinished).write_text("x")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        killed_halfway(folder=True)
    with pytest.raises(RuntimeError):
        killed_halfway(folder=False)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_in_one_line(tmp_path):
    with (
        pytest.raises(UserError, match=r"the disk is full \([\d,]+ bytes free\); nothing was written"),
        finished_folder(tmp_path / "a"),
    ):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_overwritten_unasked(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="exists already"), finished_folder(tmp_path / "a"):
        pass


def test_the_root_of_runs_may_be_named_from_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunConfig(root="~/runs").folder == tmp_path / "runs" / "default" / "run"
    assert RunConfig(root="runs/").root == "runs/"

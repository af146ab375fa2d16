"""A run's folder: one process at a time, and nothing removed or overwritten that this program did not make."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from medpretrain3d.atomic import locked_folder
from medpretrain3d.errors import UserError
from pretrain.__main__ import main
from tests.recipes.conftest import ROOT, TINY_PRETRAIN

SLURM = {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "job", "SLURM_NODELIST": "n[1-2]"}


@pytest.fixture
def words(cube_store, tmp_path):
    """The command line of a run of one step in `tmp_path/runs/g/r`."""
    return [
        "fit",
        *TINY_PRETRAIN,
        *("--data.store", str(cube_store), "--run.root", str(tmp_path / "runs"), "--run.group", "g"),
        *("--trainer.max_steps", "1", "--trainer.val_check_interval", "1", "--run.name", "r"),
        *("--model.optim.warmup_steps", "0"),
    ]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--run.name", name) for name in ("", ".", "..", "a/b", "/tmp", "~/..", ".hidden", "-x", "a ", "a.", "a\\b")),
        *(("--run.name", name) for name in ("a\nb", "a\x00b", "n" * 256, "é" * 120)),
        *(("--run.group", name) for name in ("", "..", "a/b", " ", "\t")),
        *(("--run.root", root) for root in ("", " ")),
    ],
)
def test_a_name_that_is_no_plain_folder_name_is_refused_and_removes_nothing(words, tmp_path, option, value):
    for run in ("g/r", "g/s", "h/t"):
        (tmp_path / "runs" / run).mkdir(parents=True)
        (tmp_path / "runs" / run / "run.json").write_text(json.dumps({"stage": "pretrain"}))
    before = contents(tmp_path)
    with pytest.raises(UserError, match=option[2:]) as caught:
        main([*words, f"{option}={value}", "--run.restart", "true"])
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("restart", ["true", "false"])
@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv", "checkpoints/last.ckpt", "test/notes.txt"])
def test_a_folder_without_run_json_is_neither_removed_nor_written(words, tmp_path, name, restart):
    file = tmp_path / "runs" / "g" / "r" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(UserError, match="so it is not of this program; give another"):
        main([*words, "--run.restart", restart])
    assert contents(tmp_path / "runs") == {f"g/r/{name}": b"mine"}


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"stage": "other"}', "[" * 100_000, "\x00"])
def test_a_run_json_of_another_program_is_no_leave_to_remove(words, tmp_path, text):
    folder = tmp_path / "runs" / "g" / "r"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(text)
    (folder / "holiday.jpg").write_text("mine")
    with pytest.raises(UserError, match="is not that of a run of this program, so nothing is removed"):
        main([*words, "--run.restart", "true"])
    assert contents(folder) == {"run.json": text.encode(), "holiday.jpg": b"mine"}


@pytest.mark.parametrize("config", ["no: configuration", "trainer: {devices: many}\ndata: {batch_size: 1}", "- 1"])
def test_a_run_whose_configuration_is_none_is_not_gone_on_with(words, tmp_path, config):
    folder = tmp_path / "runs" / "g" / "r"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"stage": "pretrain", "finished": true}')
    (folder / "config.yaml").write_text(config)
    with pytest.raises(UserError, match=r"config\.yaml"):
        main(words)
    assert (folder / "config.yaml").read_text() == config


def test_a_run_that_other_runs_lie_below_is_not_thrown_away(words, tmp_path):
    main(words)
    other = tmp_path / "runs" / "g" / "r" / "inner" / "run.json"
    other.parent.mkdir()
    other.write_text("{}")
    with pytest.raises(UserError, match="holds another run, inner"):
        main([*words, "--run.restart", "true"])
    assert other.exists()


def test_a_run_folder_that_is_a_link_is_filled_and_restarted_through_it(words, tmp_path):
    disk, link = tmp_path / "disk" / "r", tmp_path / "runs" / "g" / "r"
    disk.mkdir(parents=True)
    link.parent.mkdir(parents=True)
    link.symlink_to(disk)
    (disk / "slurm.out").write_text("a log that was there before")
    main(words)
    assert (disk / "slurm.out").exists()
    (disk / "stale.txt").write_text("x")
    (disk / ".bundle.01234567.unfinished").mkdir()
    main([*words, "--run.restart", "true"])
    assert link.is_symlink()
    assert (disk / "encoder" / "encoder.json").is_file()
    assert not (disk / "stale.txt").exists()
    assert [path.name for path in disk.iterdir() if path.name.startswith(".")] == []


def test_an_encoder_folder_that_is_a_link_to_a_bigger_disk_is_filled(words, tmp_path):
    encoder, disk = tmp_path / "runs" / "g" / "r" / "encoder", tmp_path / "disk"
    main(words)
    encoder.rename(disk)
    encoder.symlink_to(disk)
    main([*words, "--trainer.max_steps", "2"])  # the run is extended
    assert encoder.is_symlink()
    assert json.loads((disk / "encoder.json").read_text())["pretraining"]["steps"] == 2
    assert [path.name for path in tmp_path.rglob("*") if path.name.endswith((".unfinished", ".outgoing"))] == []


def test_a_second_process_is_refused_before_it_writes_or_restarts(words, tmp_path):
    folder = tmp_path / "runs" / "g" / "r"
    main(words)
    before = contents(folder)
    hold = "import sys; from medpretrain3d.atomic import locked_folder\n"
    hold += "with locked_folder(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    holder = [sys.executable, "-c", hold, str(folder)]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as first:
        assert first.stdout is not None
        first.stdout.readline()
        for restart in ("true", "false"):
            with pytest.raises(UserError, match=f"process {first.pid} is at work here"):
                main([*words, "--run.restart", restart, "--trainer.max_steps", "2"])
        assert {name: content for name, content in contents(folder).items() if name != ".lock"} == before
        first.kill()
    main([*words, "--trainer.max_steps", "2"])
    assert not (folder / ".lock").exists()


@pytest.mark.parametrize(
    ("environment", "is_first"),
    [
        ({"SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_JOB_NAME": "packed"}, True),
        ({"LOCAL_RANK": "1", "NODE_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29511"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29511"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29511"}, True),
        ({**SLURM, "SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_NODEID": "1"}, False),
        ({**SLURM, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}, True),
        (
            {"RANK": "2", "LOCAL_RANK": "0", "GROUP_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
            | {"TORCHELASTIC_RUN_ID": "x", "MASTER_ADDR": "localhost", "MASTER_PORT": "29511"},
            False,
        ),
    ],
    ids=["packed single", "second of node", "first of second node", "first", "slurm node 1", "slurm first", "torchrun"],
)
def test_the_first_process_of_the_first_node_opens_the_folder(monkeypatch, environment, is_first):
    from medpretrain3d.engine.distributed import trainer_as_asked

    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    single = environment.get("SLURM_JOB_NAME") == "packed"
    devices = {"devices": 1} if single else {"devices": 2, "num_nodes": 2, "strategy": "ddp"}
    assert (trainer_as_asked({"accelerator": "cpu", **devices}).global_rank == 0) == is_first


def test_a_packed_single_process_of_slurm_skips_no_check(words, tmp_path, monkeypatch):
    for name in ("SLURM_PROCID", "SLURM_LOCALID"):
        monkeypatch.setenv(name, "1")
    folder = tmp_path / "runs" / "g" / "r"
    with locked_folder(folder), pytest.raises(UserError, match="is at work here"):
        main(words)
    main(words)
    assert (folder / "metrics.csv").is_file()
    assert json.loads((folder / "run.json").read_text())["finished"] is True

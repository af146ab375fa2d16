from __future__ import annotations

import errno
import os

import pytest
import torch

from medpretrain3d.engine.checkpoint_files import (
    CheckpointFiles,
    adopt,
    checkpoint_path,
    has_checkpoints,
    keep_only,
    newest_whole_checkpoint,
)
from medpretrain3d.errors import UserError


def state(step):
    weights = {"weight": torch.arange(1000.0) + step}
    return {"global_step": step, "state_dict": weights, "loops": {}, "optimizer_states": [], "callbacks": {}}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run" / "checkpoints"


def write(path, step):
    CheckpointFiles().save_checkpoint(state(step), path)
    return path


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_last_two_are_kept_and_a_link_names_the_newest(folder):
    kept = []
    for step in (9, 10, 100):
        kept = [*kept, write(checkpoint_path(folder, step), step)][-2:]
        keep_only(folder, kept)
    assert files(folder) == ["last.ckpt", "step_0000010.ckpt", "step_0000100.ckpt"]
    assert os.readlink(folder / "last.ckpt") == "step_0000100.ckpt"  # relative: the run may be moved
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 100
    assert newest_whole_checkpoint(folder) == checkpoint_path(folder, 100)


@pytest.mark.parametrize("damage", ["zeros in the middle", "half", "empty", "one bit", "other file"])
def test_a_damaged_checkpoint_is_named_and_the_older_one_taken(folder, capsys, damage):
    older, newer = (write(checkpoint_path(folder, step), step) for step in (10, 20))
    data = bytearray(newer.read_bytes())
    middle = len(data) // 2
    if damage == "zeros in the middle":
        data[middle : middle + 64] = bytes(64)
    elif damage == "one bit":
        data[middle] ^= 4
    else:
        data = {"half": data[:middle], "empty": b"", "other file": b"PK" + bytes(3000)}[damage]
    newer.write_bytes(data)
    assert newest_whole_checkpoint(folder) == older
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{newer}: this checkpoint is damaged (")


def test_damaged_ones_alone_are_one_clear_error(folder):
    for step in (10, 20):
        write(checkpoint_path(folder, step), step).write_bytes(b"\0" * 1000)
    with pytest.raises(UserError, match=r"no whole checkpoint is left .*20.ckpt, step_0000010.ckpt") as caught:
        newest_whole_checkpoint(folder)
    assert "\n" not in str(caught.value)
    assert has_checkpoints(folder)


def test_without_checkpoints_a_run_begins(folder):
    assert newest_whole_checkpoint(folder) is None
    assert not has_checkpoints(folder)


def test_what_is_not_plain_data_is_damage(folder, capsys):
    class Code:
        def __reduce__(self):
            return (os.getcwd, ())

    older = write(checkpoint_path(folder, 10), 10)
    torch.save({**state(20), "extra": Code()}, checkpoint_path(folder, 20))
    assert newest_whole_checkpoint(folder) == older


def test_files_of_earlier_versions_count_by_the_steps_in_them(folder):
    folder.mkdir(parents=True)
    torch.save(state(25), folder / "last.ckpt")
    assert newest_whole_checkpoint(folder) == folder / "last.ckpt"
    torch.save(state(30), folder.parent / "hpc_ckpt_1.ckpt")
    torch.save(state(36), folder.parent / "hpc_ckpt_2.ckpt")
    newest = newest_whole_checkpoint(folder)
    assert newest == folder.parent / "hpc_ckpt_2.ckpt"
    adopt(newest, folder, 36)
    assert files(folder) == ["last.ckpt", "step_0000036.ckpt"]
    assert files(folder.parent) == ["checkpoints"]
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 36


def test_an_older_last_checkpoint_gets_its_step_s_name(folder):
    folder.mkdir(parents=True)
    torch.save(state(25), folder / "last.ckpt")
    assert adopt(folder / "last.ckpt", folder, 25) == [checkpoint_path(folder, 25)]
    assert files(folder) == ["last.ckpt", "step_0000025.ckpt"]
    assert newest_whole_checkpoint(folder) == checkpoint_path(folder, 25)


def test_what_is_newer_than_the_one_continued_from_goes_and_an_older_one_stays(folder):
    for step in (5, 10, 20):
        write(checkpoint_path(folder, step), step)
    (folder / ".step_0000030.ckpt.0123abcd.unfinished").write_bytes(b"half")
    checkpoint_path(folder, 20).write_bytes(b"damaged")
    kept = [checkpoint_path(folder, step) for step in (5, 10)]
    assert adopt(kept[1], folder, 10) == kept
    assert files(folder) == ["last.ckpt", "step_0000005.ckpt", "step_0000010.ckpt"]


def test_a_full_disk_leaves_the_older_checkpoints_and_nothing_half(folder, monkeypatch):
    write(checkpoint_path(folder, 10), 10)
    save = torch.save

    def on_a_full_disk(value, file):
        class Full:
            def write(self, data):
                raise OSError(errno.ENOSPC, "No space left on device")

            def flush(self):
                pass

        save(value, Full())

    monkeypatch.setattr(torch, "save", on_a_full_disk)
    with pytest.raises(UserError, match="the disk is full"):
        write(checkpoint_path(folder, 20), 20)
    assert files(folder) == ["step_0000010.ckpt"]


def test_a_file_system_without_links_has_the_files_alone(folder, monkeypatch):
    def refused(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr("pathlib.Path.symlink_to", refused)
    keep_only(folder, [write(checkpoint_path(folder, 10), 10)])
    assert files(folder) == ["step_0000010.ckpt"]
    assert newest_whole_checkpoint(folder) == checkpoint_path(folder, 10)


def test_the_temporary_folder_is_not_used(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    write(checkpoint_path(folder, 10), 10)

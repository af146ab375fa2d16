"""A program ends with 2 after bad input, and with 1 where the machine is behind it, whatever part of it says so."""

from __future__ import annotations

import errno
import json
import os

import pytest

from medpretrain3d import cli
from medpretrain3d.atomic.disk_errors import disk_errors
from medpretrain3d.engine.ending import _told
from medpretrain3d.errors import MachineError, UserError, exit_code
from medpretrain3d.failure import explain


@pytest.mark.parametrize(
    ("number", "code"),
    [
        *((number, 1) for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOMEM)),
        *((number, 2) for number in (errno.EACCES, errno.EROFS, errno.ENAMETOOLONG, errno.EISDIR)),
    ],
)
def test_a_command_ends_with_1_where_the_disk_refuses_and_with_2_where_the_place_is_wrong(
    tmp_path, monkeypatch, capsys, number, code
):
    entry = {"case": "x", "boxes": [[0, 0, 0, 2, 2, 2]], "labels": [0]}
    for name, more in (("predictions", {"scores": [0.9]}), ("targets", {})):
        content = {"classes": ["nodule"], name: [{**entry, **more}]}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))

    def refuse(path):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("medpretrain3d.atomic.finished.flush", refuse)
    places = [word for name in ("predictions", "targets") for word in (f"--{name}", str(tmp_path / f"{name}.json"))]
    assert cli.main(["evaluate", *places, "-o", str(tmp_path / "out.json")]) == code
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path / 'out.json'}: ")
    assert said.count("\n") == 1


def full_disk() -> UserError:
    """What a training says of a checkpoint that finds no room: more than that the disk is full."""
    try:
        try:
            with disk_errors("x"):
                raise OSError(errno.ENOSPC, "No space left on device")
        except UserError as error:
            raise UserError(f"{error}; the run continues from step_3.ckpt") from error
    except UserError as error:
        return error


def test_what_is_said_of_a_full_disk_keeps_its_code():
    assert exit_code(full_disk()) == 1
    assert _told(full_disk())[0] == 1
    assert _told(UserError("data.patch: wanted three"))[0] == exit_code(UserError("x")) == 2


def test_a_refusal_of_the_machine_is_one_line_where_a_loader_worker_says_it():
    text = (
        "Caught MachineError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File x\n"
    )
    error = MachineError(f"{text}medpretrain3d.errors.MachineError: /data/x: the disk is full; free some space\n")
    assert explain(error, "lower it") == "/data/x: the disk is full; free some space"
    assert _told(error) == (1, "error: /data/x: the disk is full; free some space")

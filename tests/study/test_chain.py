from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
import yaml

from medpretrain3d.errors import UserError
from medpretrain3d.study.chain import read_chain, run_chain


def write(folder, *steps):
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"folder": str(folder), "steps": list(steps)}))
    return path


def touch(name):
    return {"name": name, "product": name, "run": f"python -c \"open('{{folder}}/{name}', 'w')\""}


def test_finished_steps_are_reused_and_said_so(tmp_path, capfd):
    steps = read_chain(write(tmp_path, touch("a"), touch("b")))
    run_chain(steps)
    (tmp_path / "b").unlink()
    capfd.readouterr()
    run_chain(steps)
    printed = capfd.readouterr().out
    assert "[1/2] a: reused" in printed
    assert "[2/2] b: done" in printed
    assert (tmp_path / "b").exists()


def test_a_failing_step_stops_the_chain_and_is_named(tmp_path):
    fails = {"name": "x", "product": "x", "run": "python -c 'raise SystemExit(3)'"}
    steps = read_chain(write(tmp_path, touch("a"), fails, touch("b")))
    with pytest.raises(UserError, match="step 'x' ended with exit code 3"):
        run_chain(steps)
    assert (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


def test_a_step_without_its_product_is_an_error(tmp_path):
    steps = read_chain(write(tmp_path, {"name": "x", "product": "y", "run": "python -c pass"}))
    with pytest.raises(UserError, match="did not write"):
        run_chain(steps)


def test_bad_documents_are_named(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_chain(tmp_path / "missing.yaml")
    (tmp_path / "bad.yaml").write_text("folder: [")
    with pytest.raises(UserError, match="not valid YAML"):
        read_chain(tmp_path / "bad.yaml")
    with pytest.raises(UserError, match="'product'"):
        read_chain(write(tmp_path, {"name": "x", "run": "python"}))
    with pytest.raises(UserError, match="same name"):
        read_chain(write(tmp_path, touch("a"), touch("a")))


STUDY = """
import sys
from medpretrain3d import cli
raise SystemExit(cli.main(["study", sys.argv[1]]))
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_a_study_is_passed_on_and_its_code_is_the_end(tmp_path, signum):
    step = (
        "import sys, time\n"
        "from medpretrain3d.interruption import signals\n"
        "signals.take()\n"
        "signals.mode = 'note'\n"
        "open(sys.argv[1], 'w')\n"
        "while signals.received is None: time.sleep(0.01)\n"
        "print('state kept', flush=True)\n"
        "signals.check()\n"
    )
    (tmp_path / "step.py").write_text(step)
    run = f"python {tmp_path / 'step.py'} {tmp_path / 'begun'}"
    path = write(tmp_path, {"name": "x", "product": "x", "run": run}, touch("b"))
    study = subprocess.Popen(
        [sys.executable, "-c", STUDY, str(path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while not (tmp_path / "begun").exists():
        assert study.poll() is None
        time.sleep(0.02)
    study.send_signal(signum)
    lines = study.communicate(timeout=30)[0].splitlines()
    assert study.returncode == 128 + signum
    assert lines[-2:] == ["state kept", f"interrupted by {signum.name}; what was finished is kept, call again to go on"]
    assert not (tmp_path / "b").exists()


def test_a_step_that_was_killed_is_said_to_be(tmp_path):
    killed = {"name": "x", "product": "x", "run": "python -c 'import os; os.kill(os.getpid(), 9)'"}
    with pytest.raises(UserError, match=r"step 'x' was killed \(SIGKILL\).*call again"):
        run_chain(read_chain(write(tmp_path, killed)))


def test_a_step_that_was_interrupted_ends_the_study_with_its_code(tmp_path, capfd):
    ended = {"name": "x", "product": "x", "run": "python -c 'raise SystemExit(143)'"}
    with pytest.raises(SystemExit) as caught:
        run_chain(read_chain(write(tmp_path, ended)))
    assert caught.value.code == 143
    assert "step 'x' was interrupted" in capfd.readouterr().err

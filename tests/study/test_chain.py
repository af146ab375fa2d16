from __future__ import annotations

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

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from medpretrain3d.engine.recipe import check_recipe, load_recipe
from medpretrain3d.errors import UserError

LAUGHS = "a: &a0 [x, x]\n" + "".join(f"b{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (LAUGHS.encode(), "aliases"),
        (b"[" * 10**6, "not valid YAML"),
        (b"a: \xff", "not text in UTF-8"),
        (b"- a", "holds a list"),
        (b"", "holds a"),
        (b"a: 1\na: 2", "'a' is there twice"),
        (b"x: " + b"9" * 5000, "cannot be read"),
    ],
)
def test_what_is_no_recipe_is_refused_in_one_line_that_names_it(tmp_path, content, told):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=told) as error:
        check_recipe(path)
    assert str(error.value).startswith(f"{path}: ")


def test_values_are_what_jsonargparse_makes_of_them():
    assert load_recipe("{lr: 1e-4, day: 2020-01-01, f: 1.5}") == {"lr": 1e-4, "day": "2020-01-01", "f": 1.5}


def test_the_program_refuses_a_recipe_that_grows(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(LAUGHS)
    command = [sys.executable, "-m", "pretrain", "fit", "--config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: {path}: ")
    assert "Traceback" not in done.stderr

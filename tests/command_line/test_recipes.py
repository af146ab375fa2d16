from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from medpretrain3d.command_line.recipes import (
    expand_recipes,
    find_recipe,
    load_recipe,
    read_recipe,
    recipe_text,
    with_bases,
)
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
        read_recipe(path)
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


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)


def test_bases_are_loaded_first_relative_to_the_recipe_and_once(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    write(tmp_path, low="{run: {group: g}}", middle="base: low.yaml\nrun: {name: m}")
    write(tmp_path / "sub", high="base: ../middle.yaml", two="base: [../middle.yaml, ../low.yaml]\nseed_everything: 1")
    monkeypatch.chdir("/")
    high = tmp_path / "sub" / "high.yaml"
    assert [path.name for path in with_bases(high, "pretrain")] == ["low.yaml", "middle.yaml", "high.yaml"]
    words = expand_recipes(["fit", "--config", str(high), "--x", "1", f"--config={tmp_path}/sub/two.yaml"], "pretrain")
    names = [Path(word).name for word in words]
    wanted = ["low.yaml", "--config", "middle.yaml", "--config", "high.yaml", "--x", "1", "--config", "two.yaml"]
    assert names == ["fit", "--config", *wanted]


def test_a_circle_of_bases_is_refused_in_a_line(tmp_path):
    write(tmp_path, a="base: b.yaml", b="base: c.yaml", c="base: a.yaml", own="base: own.yaml", no="base: {a: 1}")
    with pytest.raises(UserError, match=r"a\.yaml: its bases form a circle \(a.yaml -> b.yaml -> c.yaml -> a.yaml\)"):
        with_bases(tmp_path / "a.yaml", "pretrain")
    with pytest.raises(UserError, match="circle"):
        with_bases(tmp_path / "own.yaml", "pretrain")
    with pytest.raises(UserError, match="wanted the name or path"):
        with_bases(tmp_path / "no.yaml", "pretrain")
    write(tmp_path, away="base: demoo.yaml")
    with pytest.raises(UserError, match=r"away.yaml: base: .*did you mean 'demo'"):
        with_bases(tmp_path / "away.yaml", "pretrain")


def test_recipes_are_found_by_path_or_by_name_in_the_folder_of_the_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = ROOT / "configs" / "finetune" / "openkbp.yaml"
    assert find_recipe("openkbp", "finetune") == find_recipe("openkbp.yaml", "finetune") == shipped
    assert find_recipe("openkbp", "pretrain") == ROOT / "configs" / "pretrain" / "openkbp.yaml"
    (tmp_path / "openkbp").mkdir()  # a data set, say
    assert find_recipe("openkbp", "finetune") == shipped
    write(tmp_path, openkbp="{}")
    assert find_recipe("openkbp.yaml", "finetune") == Path("openkbp.yaml"), "a path wins"
    write(tmp_path, mine="base: luna16")
    assert [path.name for path in with_bases(Path("mine.yaml"), "finetune")] == ["luna16.yaml", "mine.yaml"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("openkpb", "did you mean 'openkbp'"),
        ("mae_resenc_l", "it is a recipe of pretrain"),
        ("xyzzy", "names: btcv, "),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, told):
    with pytest.raises(UserError, match=told):
        find_recipe(name, "finetune")


def test_yaml_in_place_of_a_file_stays():
    words = ["fit", "--config", "{run: {name: x}}", "-c"]
    assert expand_recipes(words, "pretrain") == words


def test_a_base_is_no_option_and_texts_stay_texts():
    text = recipe_text({"base": "x.yaml", "run": {"name": "1e-4"}, "lr": 1e-05, "far": float("inf")})
    assert load_recipe(text) == {"run": {"name": "1e-4"}, "lr": 1e-05, "far": float("inf")}

from __future__ import annotations

import pytest

from medpretrain3d.documents import read_yaml
from medpretrain3d.errors import UserError


def laughs(levels: int) -> str:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (laughs(40), "100,000 values once its aliases are followed"),
        ("a: &a [*a]", "within itself"),
        ("[" * 10**5, "nest(ed deeper|ing depth)"),
        ("- " * 10**5, "nest(ed deeper|ing depth)"),
        ("a: 1\nb: 2\na: 3", "'a' is there twice"),
        ("a: 1\n---\nb: 2", "single document"),
        ("!!python/object/apply:os.system ['x']", "constructor"),
        ("2001-99-99", "cannot be read"),
        ("!!int x", "cannot be read"),
        ("x: " + "9" * 5000, "cannot be read"),
        ("? [a]\n: b", "unhashable"),
        ("\x1b", "control characters"),
        ("a: [", "not valid YAML"),
        ("#" * 2**21, "wanted at most 1,048,576"),
    ],
)
def test_what_is_no_recipe_is_refused_in_one_line_that_names_it(tmp_path, text, told):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=told) as error:
        read_yaml(path, "mend it")
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_aliases_that_stay_small_are_followed(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(laughs(4) + "\nb: &b {p: 1}\nc: {<<: *b, q: 2}")
    read = read_yaml(path, "mend it")
    assert read["a1"] == [["x", "x"], ["x", "x"]]
    assert read["c"] == {"p": 1, "q": 2}

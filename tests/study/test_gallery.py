from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from medpretrain3d.run_metadata import RunMetadata
from medpretrain3d.study.conditions import Condition, Place
from medpretrain3d.study.gallery import data_uri, telling_cases
from medpretrain3d.study.run import Run
from medpretrain3d.study.table import Estimate


def condition(arm: str, *scores: dict[str, float]) -> Condition:
    """Runs of an arm with these scores of their cases, of seeds 0, 1, ..."""
    runs = []
    for seed, of_seed in enumerate(scores):
        one = Run(Path(f"{arm}{seed}"), RunMetadata(seed=seed))
        one.__dict__["metrics"] = {"per_case": [{"case": case, "score": score} for case, score in of_seed.items()]}
        runs.append(one)
    return Condition(arm, 0, Place("d", "", "8"), 8, True, tuple(runs), Estimate(None), (0,))


def test_best_worst_and_most_different_case_of_the_first_seed():
    a = condition("a", {"x": 0.9, "y": 0.5, "z": 0.1, "w": 0.2, "only_a": 1.0}, {"y": 0.0})
    b = condition("b", {"x": 0.8, "y": 0.5, "z": 0.1, "w": 0.9})
    found = telling_cases([a, b], lambda run, case: True)
    assert {case: why for case, (why, _) in found.items()} == {
        "x": "found best",
        "z": "found worst",
        "w": "where the arms differ most",
    }
    assert found["x"][1] == [a.runs[0], b.runs[0]]
    assert "x" not in telling_cases([a, b], lambda run, case: case != "x")
    assert telling_cases([], lambda run, case: True) == {}


def test_a_case_of_another_fold_is_shown_from_its_run():
    a = condition("a", {"x": 0.9}, {"y": 0.1})
    assert {case: runs for case, (_, runs) in telling_cases([a], lambda run, case: True).items()} == {
        "x": [a.runs[0]],
        "y": [a.runs[1]],
    }


def test_picture_travels_inside_its_address(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    head, _, data = data_uri(tmp_path / "a.png").partition(",")
    assert head in ("data:image/webp;base64", "data:image/png;base64")
    back = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
    assert back.shape == noise.shape
    (tmp_path / "b.png").write_text("no picture")
    assert data_uri(tmp_path / "b.png") == data_uri(tmp_path / "missing.png") == ""

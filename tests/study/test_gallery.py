from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from medpretrain3d.study.gallery import data_uri, example_cases
from medpretrain3d.study.run import Run


def run_with_scores(folder: Path, scores: dict[str, float]) -> Run:
    (folder / "test" / "pictures").mkdir(parents=True)
    for case in scores:
        (folder / "test" / "pictures" / f"{case}.png").touch()
    one = Run(folder, {})
    one.__dict__["metrics"] = {"per_case": [{"case": case, "score": score} for case, score in scores.items()]}
    return one


def test_best_worst_and_most_different_case(tmp_path: Path):
    a = run_with_scores(tmp_path / "a", {"x": 0.9, "y": 0.5, "z": 0.1, "w": 0.2, "only_a": 1.0})
    b = run_with_scores(tmp_path / "b", {"x": 0.8, "y": 0.5, "z": 0.1, "w": 0.9})
    assert example_cases([a, b]) == {"x": "found best", "z": "found worst", "w": "where the arms differ most"}
    assert example_cases([]) == {}


def test_picture_travels_inside_its_address(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    head, _, data = data_uri(tmp_path / "a.png").partition(",")
    assert head in ("data:image/webp;base64", "data:image/png;base64")
    back = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
    assert back.shape == noise.shape
    (tmp_path / "b.png").write_text("no picture")
    assert data_uri(tmp_path / "b.png") == data_uri(tmp_path / "missing.png") == ""

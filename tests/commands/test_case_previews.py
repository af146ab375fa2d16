"""Pages of what was found: pictures, boxes in their places, and nothing that is loaded from elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from medpretrain3d.backbones import ResEnc
from medpretrain3d.cli import main
from medpretrain3d.commands.case_previews import NUM_PICTURED, LookedAt, write_preview
from medpretrain3d.detection import AnchorGrid, RetinaNet
from medpretrain3d.evaluation import PredictedCase
from medpretrain3d.evaluation.shown_cases import shown_cases
from medpretrain3d.inference import InferenceConfig, save_bundle
from medpretrain3d.inference.inputs import ScanPath
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.preprocessing import Preprocessing

SHAPE = (20, 24, 16)
# Axes of the file: i to the right, j to anterior, k to superior; three spacings.
AFFINE_RAS = np.array([[0.8, 0, 0, -30.0], [0, 1.0, 0, 12], [0, 0, 2.5, 7], [0, 0, 0, 1]])
GRID = Grid(SHAPE, np.diag([-1.0, -1, 1, 1]) @ AFFINE_RAS)
BOX = [4.0, 5, 6, 10, 9, 9]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for number in range(3):
        array = np.random.default_rng(number).integers(-900, 100, SHAPE).astype(np.int16)
        array[4:10, 5:9, 6:9] = 400
        nibabel.save(nibabel.Nifti1Image(array, AFFINE_RAS), folder / f"s{number}.nii.gz")
    return folder


def page_of(path: Path) -> list[dict[str, object]]:
    """The cases in a page, which names no other place."""
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"https?:|[\"'(]//|@import|url\(", text)
    assert "default-src 'none'" in text
    (data,) = re.findall(r'<script type="application/json" id="cases">(.*?)</script>', text, re.S)
    return json.loads(data)


def test_predict_writes_pictures_and_a_page(scans, tmp_path, capsys):
    torch.manual_seed(0)
    detector = RetinaNet(ResEnc("XXS"), 1, AnchorGrid([[(4, 4, 4)]]), first_level=3, fpn_channels=16)
    config = InferenceConfig(score_threshold=0.0, max_per_class=5)
    save_bundle(tmp_path / "bundle", detector, ["<b>nodule"], Preprocessing((16, 16, 16)), config)
    out = tmp_path / "out"
    words = ["predict", str(tmp_path / "bundle"), str(scans), "-o", str(out), "--device", "cpu", "--preview"]
    assert main([*words, "--class-threshold", "<b>nodule=0"]) == 0
    assert f"preview: {out / 'preview' / 'index.html'}" in capsys.readouterr().out
    cases = page_of(out / "preview" / "index.html")
    entries = json.loads((out / "predictions.json").read_text())["predictions"]
    assert [one["title"] for one in cases] == [entry["case"] for entry in entries] == ["s0", "s1", "s2"]
    assert all("5 boxes" in one["why"] and "called positive" in one["why"] for one in cases)
    for one, entry in zip(cases, entries, strict=True):
        (arm,) = one["data"]["arms"]
        assert [box[7] for box in arm["found"]] == pytest.approx(entry["scores"], abs=1e-3)
        assert (one["data"]["isTruthKnown"], one["data"]["truth"]) == (False, [])
        with Image.open(out / "preview" / f"{entry['case']}.png") as picture:
            assert min(picture.size) > 100


@pytest.mark.parametrize(
    ("scores", "shown_from"),
    [
        ([[0.9, 0.1], [0.2]], 0.3),  # one scan has a box of 0.3
        ([[0.078, 0.05], [0.0721], []], 0.05),  # each shows its best
        ([[0.2 - 0.01 * n for n in range(NUM_PICTURED + 3)]], 0.09),  # the twelfth, since more hide the scan
        ([[], []], 0.3),
    ],
)
def test_a_page_of_low_scores_shows_the_best_boxes_and_says_so(scans, tmp_path, scores, shown_from):
    """Of a detector that learned for some minutes: the page would be a page of scans without boxes."""
    looked_at = []
    for number, those in enumerate(scores):
        boxes, labels = np.tile(np.array([BOX]), (len(those), 1)), np.zeros(len(those), int)
        found = PredictedCase(f"s{number}", GRID.boxes_to_lps_mm(boxes), np.array(those, float), labels, GRID, boxes)
        looked_at.append(LookedAt("why", ScanPath(scans / f"s{number % 3}.nii.gz").open("any"), found))
    page = write_preview(tmp_path / "out", "Title", "About.", looked_at, ["nodule"], least=0.3)
    text = page.read_text(encoding="utf-8")
    assert f'name="score" min="0" max="1" step="0.01" value="{shown_from}"' in text
    assert (f"No box has a score of 0.30: they are shown from {shown_from:.2f} on." in text) == (shown_from < 0.3)


def test_evaluate_shows_cases_with_boxes_in_their_places(scans, tmp_path, capsys):
    lps, far = GRID.boxes_to_lps_mm(np.array([BOX])).tolist(), GRID.boxes_to_lps_mm(np.array([BOX]) + 6).tolist()
    head, place = {"classes": ["nodule"], "frame": "lps_mm"}, {"grid": GRID.to_json(), "boxes_vox": [BOX]}
    wanted = [{"case": f"s{number}", "boxes": lps, "labels": [0], **place} for number in range(3)]
    found = [{"case": f"s{number}", "boxes": lps, "scores": [0.9 - number / 10], "labels": [0]} for number in range(3)]
    found[2]["boxes"] = far
    (tmp_path / "t.json").write_text(json.dumps({**head, "targets": wanted}))
    (tmp_path / "p.json").write_text(json.dumps({**head, "predictions": found}))
    words = ["evaluate", "--predictions", str(tmp_path / "p.json"), "--targets", str(tmp_path / "t.json")]
    assert main([*words, "--cases", str(tmp_path / "look")]) == 2
    assert "needs the scans" in capsys.readouterr().err
    assert main([*words, "--cases", str(tmp_path / "look"), "--scans", str(scans / "s0.nii.gz")]) == 2
    assert "no scan of case 's2'" in capsys.readouterr().err
    assert main([*words, "--cases", str(tmp_path / "look"), "--scans", str(scans)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("mAP ")
    assert f"cases: {tmp_path / 'look' / 'index.html'}" in said
    cases = page_of(tmp_path / "look" / "index.html")
    assert {one["title"]: one["why"].split(",")[0] for one in cases} == {
        **{"s2": "missed 1 of 1 objects", "s0": "worst", "s1": "worst"}
    }
    data = next(one for one in cases if one["title"] == "s0")["data"]
    # Canonical axes: D along k, H against j (24 of 1 mm), W against i (20 of 0.8 mm); 320 pixels for 24 mm.
    (truth,) = data["truth"]
    assert truth == pytest.approx(
        [6, 9, 10 * 0.8 * 320 / 24, 15 * 320 / 24, 16 * 0.8 * 320 / 24, 19 * 320 / 24, 0], abs=0.3
    )
    assert data["arms"][0]["found"][0][:6] == pytest.approx(truth[:6])
    assert data["slices"] == [13, 12, 10, 8, 7, 5, 3, 2]
    assert data["size"] == [320, 213]


def test_cases_are_chosen_by_what_is_missed_and_by_score():
    rows = [
        {"case": name, "num_targets": targets, "num_hits": hits, "score": score}
        for name, targets, hits, score in (
            *[("a", 3, 3, 1.0), ("b", 3, 1, 0.3), ("c", 2, 1, 0.4), ("d", 0, 0, 0.1), ("e", 1, 1, 0.9)],
            *[("f", 0, 0, 1.0), ("g", 1, 1, 0.5)],
        )
    ]
    assert shown_cases(rows, 2) == {
        "b": "missed 2 of 3 objects, score 0.300",
        "c": "missed 1 of 2 objects, score 0.400",
        "d": "worst, score 0.100",
        "g": "worst, score 0.500",
        "a": "best, score 1.000",
        "f": "best, score 1.000",
    }

"""An option that means nothing beside the others is refused, by name, before anything is done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medpretrain3d.cli import main

CASES = [
    ("predict bundle scan.nii.gz -o out --region-parts liver", "--region-parts is of a region; name it with --region"),
    ("predict bundle scan.nii.gz -o out --region-margin-mm 3", "--region-margin-mm is of a region"),
    ("test bundle store -o out --region-parts liver", "--region-parts is of a region"),
    ("test bundle store -o out --objects labels", "--objects is of a folder of a labelled data set, store is a store"),
    ("test bundle store -o out --dataset nnunet", "--dataset is of a folder"),
    ("tune bundle --split test", "--split is of a store; name it with --store"),
    ("tune bundle --device cuda:7", "--device is of a store"),
    ("tune bundle --precision 32-true", "--precision is of a store"),
    ("cross-validate runs -o out --init-from nosuch", "--init-from is of --config RECIPE"),
    ("cross-validate runs -o out --seed 5", "--seed is of --config RECIPE"),
    ("cross-validate runs -o out --cores 2", "--cores is of --config RECIPE"),
    ("study plan demo --cores 2", "--cores is of study run, got study plan"),
    ("study status demo --pilot runs", "--pilot is of study plan, got study status"),
    ("study sync runs --set seeds=2", "--set is of a document, runs is a folder"),
    ("study sync runs --keep-results-of-other-code", "--keep-results-of-other-code is of study plan or run"),
    ("prepare store --check --min-voxels 3", "--min-voxels is of raw folders"),
    ("prepare store --check --spacing-mm 1 1 1", "--spacing-mm is of raw folders"),
    ("plan store -o plan.json --recipe recipe.yaml", "--recipe is not written beside --output"),
    ("plan --config dino_primus_m --preset S", "another option of a store"),
    ("inspect store --stem CT", "--stem is of checkpoints of other projects, store is a store"),
    ("evaluate --predictions found.json --targets targets.json --scans scans", "--scans is of --cases FOLDER"),
    ("evaluate --predictions found.json --targets targets.json --box-mode xyzxyz", "--box-mode is of monai, the"),
    ("evaluate --predictions found.json --targets targets.json --min-voxels 9", "--min-voxels is of nnunet or"),
    (
        "evaluate --protocol luna16 --predictions found.json --targets targets.json --annotations a.csv --series s.csv",
        "--targets is not of protocol luna16",
    ),
    ("evaluate --protocol masks --predictions runs --targets runs --boxes inclusive", "--boxes is of protocol"),
    ("evaluate --protocol masks --predictions runs --targets runs --converted c.json", "--converted is of protocol"),
    (
        "evaluate --protocol picai --predictions runs --targets runs --converted c.json",
        "--converted is of boxes, these",
    ),
    (
        "evaluate --protocol ribfrac --predictions found.json --targets targets.json --instance-scores s.csv",
        "--instance-scores is of a folder of instance maps",
    ),
    ("compare found.json found.json --targets targets.json --component-score mean", "--component-score is of nnunet"),
]


@pytest.mark.parametrize(("words", "said"), CASES)
def test_an_option_that_means_nothing_is_refused(
    words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("runs", "store", "scans"):
        (tmp_path / folder).mkdir()
    (tmp_path / "store" / "store.json").write_text("{}")
    entry = {"case": "a", "boxes": [[0, 0, 0, 4, 4, 4]], "labels": [0]}
    for name, key, columns in (("found", "predictions", {"scores": [0.5]}), ("targets", "targets", {})):
        document = {"classes": ["nodule"], "frame": "lps_mm", key: [{**entry, **columns}]}
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    assert main(words.split()) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line

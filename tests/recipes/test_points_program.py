"""Points through the real entry point of stage 2: trained, validated, tested and tuned by distance, or refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from finetune import __main__ as program
from medpretrain3d import cli
from medpretrain3d.errors import UserError
from medpretrain3d.inference import load_bundle
from medpretrain3d.store.case import Instance, write_case
from medpretrain3d.store.store import write_index

from .conftest import SPLITS, TINY_FINETUNE, _cube

HEAT_MAP = [
    *("--config", "configs/finetune/phantom_points.yaml", "--data.patch", "[16,16,16]", "--data.num_workers", "0"),
    *("--data.batch_size", "2", "--model.detector.init_args.spacing_mm", "[2,2,2]", "--run.wandb", "disabled"),
    *("--trainer.max_steps", "4", "--trainer.val_check_interval", "2", "--model.optim.warmup_steps", "1"),
    *("--model.inference.score_threshold", "0.0", "--model.inference.max_per_class", "10"),
]


@pytest.fixture(scope="module")
def point_store(tmp_path_factory):
    """The cubes, of each the middle alone."""
    store = tmp_path_factory.mktemp("stores") / "points"
    ids = {split: [f"{split}_{number}" for number in range(count)] for split, count in SPLITS.items()}
    rows = []
    for case_id in (one for of_split in ids.values() for one in of_split):
        cube = _cube(case_id)
        low, high = cube.objects[0].box_vox[:3], cube.objects[0].box_vox[3:]
        middle = tuple((a + b) / 2 for a, b in zip(low, high, strict=True))
        rows.append(write_case(store, replace(cube, objects=[Instance(0, 0, middle * 2)], mask=None)))
    write_index(store, ["cube"], (2.0, 2.0, 2.0), rows, ids)
    return store


def fit(store, root, *arguments):
    place = ["--data.store", str(store), "--run.root", str(root), "--run.group", "g", "--run.name", "run"]
    program.main(["fit", *arguments, *place])
    return root / "g" / "run"


def test_points_are_trained_tested_and_tuned_by_distance(point_store, tmp_path, capsys):
    folder = fit(point_store, tmp_path, *HEAT_MAP, "--model.weights", "best")
    printed = capsys.readouterr().out
    assert "test, 2 volumes: AP_center" in printed
    assert "CPM" in printed
    metrics = json.loads((folder / "test" / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["protocol"], metrics["num_targets"]) == ("centre", {"cube": 2})
    curves = (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert {"val/AP_center", "val/CPM", "test/AP_center"} <= set(curves)
    assert "val/mAP" not in curves
    assert (folder / "test" / "classes.csv").read_text(encoding="utf-8").startswith("class,num_targets,AP_center,")
    assert len(list((folder / "test" / "pictures").glob("*.png"))) == 2
    bundle = load_bundle(folder / "bundle")
    assert bundle.inference.merge == "distance"
    assert bundle.provenance["training"]["weights"]["metric"] == "val/AP_center"
    assert bundle.is_scored_by_distance
    assert bundle.operating_points.document["classes"]["cube"]["num_targets"] == 2
    files = [f"--{name}={folder / 'test' / f'{name}.json'}" for name in ("predictions", "targets")]
    assert cli.main(["evaluate", "--protocol", "centre", *files, "-o", str(tmp_path / "again.json")]) == 0
    again = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))
    assert again["AP"] == pytest.approx(metrics["AP"], abs=1e-6)
    capsys.readouterr()
    assert cli.main(["tune", str(folder / "bundle")]) == 0
    assert "2 scans: AP_center" in capsys.readouterr().out
    assert "AP_center" in load_bundle(folder / "bundle").provenance["tuning"]
    report = tmp_path / "report.html"
    assert cli.main(["report", str(folder), "--metric", "AP_center", "-o", str(report)]) == 0
    page = report.read_text(encoding="utf-8")
    assert "validation AP by distance" in page
    assert "of an earlier version" not in page
    test = ["test", str(folder / "bundle"), str(point_store), "-o", str(tmp_path / "test")]
    assert cli.main(test) == 0
    assert json.loads((tmp_path / "test" / "metrics.json").read_text(encoding="utf-8"))["protocol"] == "centre"


def test_what_cannot_be_right_with_points_is_refused(point_store, tmp_path):
    def refused(*arguments):
        with pytest.raises(UserError) as refusal:
            fit(point_store, tmp_path, *arguments)
        return str(refusal.value)

    assert "8 of 8 objects are points" in (said := refused(*TINY_FINETUNE))
    assert "RetinaNet, which learns boxes, needs one; take HeatMap" in said
    assert "model.protocol detection needs one" in refused(*HEAT_MAP, "--model.protocol", "detection")
    said = refused(*HEAT_MAP, "--model.detector.init_args.spacing_mm", "[1,1,1]")
    assert "HeatMap measures mm by voxels of [1.0, 1.0, 1.0] mm, the data have [2.0, 2.0, 2.0]" in said

"""Supervised pretraining and probes through the real entry point."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from medpretrain3d.backbones import ResEnc, read_encoder
from medpretrain3d.errors import UserError
from medpretrain3d.loading.case_labels import CaseLabelView
from medpretrain3d.loading.crops import CropReader
from medpretrain3d.loading.image_crops import ImageCrops
from medpretrain3d.loading.sampling import CaseOrder
from medpretrain3d.store.intensity import PerUnit
from pretrain import __main__ as program
from pretrain.datamodule import PretrainData

from .conftest import TINY_PRETRAIN, write_cubes

BACKBONE = "{class_path: medpretrain3d.backbones.ResEnc, init_args: {preset: XXS}}"
VIEWS = {
    "MultiTalent": "medpretrain3d.loading.views.LabeledView",
    "CaseClassification": "medpretrain3d.loading.case_labels.CaseLabelView",
}


@pytest.fixture
def fit(tmp_path, cube_store):
    def run(objective: str, *arguments: str, store: str = "", **views: object) -> Path:
        recipe = tmp_path / "recipe.yaml"
        options = json.dumps(views)
        recipe.write_text(
            f"run: {{root: '{tmp_path}', group: g, name: run}}\n"
            "model:\n"
            f"  objective: {{class_path: medpretrain3d.objectives.{objective}, init_args: {{backbone: {BACKBONE}}}}}\n"
            "  optim: {name: adamw, lr: 0.001, warmup_steps: 1}\n"
            f"data: {{store: {store or json.dumps(str(cube_store))}, patch: [16, 16, 16], batch_size: 2,"
            f" num_workers: 0, num_val_cases: 2, views: {{class_path: {VIEWS[objective]}, init_args: {options}}}}}\n"
            "trainer: {max_steps: 2, val_check_interval: 2, log_every_n_steps: 1}\n"
        )
        program.main(["fit", "--config", str(recipe), "--run.wandb", "disabled", *arguments])
        return tmp_path / "g" / "run"

    return run


def table(path: Path, **label_of: str) -> str:
    path.write_text("case,label\n" + "".join(f"{case},{label}\n" for case, label in label_of.items()))
    return str(path)


def every_case(label: str = "") -> dict[str, str]:
    names = [f"{split}_{number}" for split, count in (("train", 4), ("val", 2), ("test", 2)) for number in range(count)]
    return {name: label or ("odd" if index % 2 else "even") for index, name in enumerate(names)}


def test_outputs_come_from_the_stores_each_with_its_own(fit, cube_store):
    store = f"['{cube_store}', '{cube_store}']"
    folder = fit("MultiTalent", "--data.dataset_balance", "0.5", "--data.num_val_cases", "0", store=store)
    encoder = read_encoder(folder / "encoder")
    assert encoder.card["pretraining"]["objective"]["init_args"]["classes"] == [["cube"], ["cube"]]
    assert (encoder.card["pretraining"]["paradigm"], encoder.card["pretraining"]["method"]) == (
        "supervised",
        "multitalent",
    )


def test_a_table_says_what_is_told_apart(fit, tmp_path):
    folder = fit("CaseClassification", table=table(tmp_path / "t.csv", **every_case()))
    card = read_encoder(folder / "encoder").card
    assert card["pretraining"]["objective"]["init_args"]["classes"] == [["even", "odd"]]


def test_cases_without_a_label_are_an_error_or_left_out_and_said(fit, tmp_path, capsys):
    labels = every_case()
    del labels["train_0"], labels["train_1"], labels["test_1"]  # the test case is not looked at
    path = table(tmp_path / "t.csv", **labels)
    with pytest.raises(UserError, match=r"has no row for case \w+_\d of .*; add one, or set .* to skip"):
        fit("CaseClassification", table=path)
    few = ("--run.restart", "true", "--data.num_val_cases", "1")
    folder = fit("CaseClassification", *few, table=path, unlabeled="skip")
    said = [line for line in capsys.readouterr().out.splitlines() if "have no labels and are left out" in line]
    assert sum(int(line.split()[0]) for line in said) == 2
    trained_on = json.loads((folder / "run.json").read_text(encoding="utf-8"))["num_pretrain_volumes"]
    assert trained_on == 3 - sum(int(line.split()[0]) for line in said if "of 3 cases" in line)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("case,class\na,b\n", "lacks the column label"),
        ("case,label\na,b\na,c\n", "case a has two rows, wanted one label per case"),
        ("case,label\na,\n", "case a has no label"),
        ("store,case,label\ns,a,b\n,a,c\n", "case a has no store"),
        ("store,case,label\ns,a,b\ns,a,c\n", "case s/a has two rows"),
        ("case,label\na,b\nc,b\n", r"holds the labels \['b'\], wanted at least two"),
    ],
)
def test_a_wrong_table_is_named(tmp_path, rows, message):
    (tmp_path / "t.csv").write_text(rows)
    with pytest.raises(UserError, match=message):
        CaseLabelView(str(tmp_path / "t.csv"))


def test_several_labels_of_a_case(tmp_path):
    (tmp_path / "t.csv").write_text("case,label\na,x\na,z\nb,\n")
    view = CaseLabelView(str(tmp_path / "t.csv"), is_multi_label=True)
    assert view.names == ("x", "z")
    assert view.labels_of == {"a": ["x", "z"], "b": []}


def test_labels_of_one_store_are_not_those_of_another(tmp_path):
    """Two hospitals number their cases alike, and only one has labels."""
    stores = [write_cubes(tmp_path / "a", {"train": 2}), write_cubes(tmp_path / "b" / "elsewhere", {"train": 2})]
    index = json.loads((stores[1] / "store.json").read_text(encoding="utf-8"))
    for row in index["cases"]:  # other scans under the same names
        row["voxels"] = row["voxels"][::-1]
    (stores[1] / "store.json").write_text(json.dumps(index), encoding="utf-8")

    def data(table_of_labels, *places):
        views = CaseLabelView(table(tmp_path / "t.csv", **table_of_labels), unlabeled="skip")
        return PretrainData([str(place) for place in places], (16, 16, 16), 1, views=views, num_val_cases=0)

    alike = {"train_0": "benign", "train_1": "malignant"}
    with pytest.raises(UserError, match=r"t.csv: has a row for train_\d, which is one scan in .* add a column store"):
        data(alike, *stores)
    assert len(data(alike, stores[0], stores[0]).train_cases) == 4  # the same scans twice
    (tmp_path / "t.csv").write_text("store,case,label\na,train_0,benign\na,train_1,malignant\n")
    views = CaseLabelView(str(tmp_path / "t.csv"), unlabeled="skip")
    found = PretrainData([str(place) for place in stores], (16, 16, 16), 1, views=views, num_val_cases=0)
    assert [(ref.dataset, ref.case_id) for ref in found.train_cases] == [(0, "train_0"), (0, "train_1")]
    crops = ImageCrops(CaseOrder(found.train_cases, 0), CropReader((16, 16, 16), PerUnit()), views)
    labels = {crops.order.at(position).case_id: int(crops[position]["case_label"]) for position in range(2)}
    assert labels == {"train_0": 0, "train_1": 1}


def test_probes_are_logged_and_a_collapse_is_named_and_stops_the_run(fit, tmp_path, cube_store, monkeypatch, capsys):
    probes = {
        "class_path": "pretrain.probes.Probes",
        "init_args": {"store": str(cube_store), "num_crops": 6, "min_share": 0.0},
    }
    folder = fit("MultiTalent", "--trainer.callbacks", json.dumps([probes]))
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["probe/knn"]]
    assert float(rows[-1]["probe/knn"]) == float(rows[-1]["probe/linear"]) == 1  # one class: nothing to mistake
    assert 1 < float(rows[-1]["probe/effective_rank"]) < 6
    assert "collapsed" not in capsys.readouterr().out

    probes["init_args"] = {"num_crops": 6, "min_share": 100.0}  # whatever there is counts as a fall
    fit("MultiTalent", "--run.restart", "true", "--trainer.callbacks", json.dumps([probes]))
    assert re.search(
        r"step 2: features have collapsed: effective_rank [1-9].*\(at the start [1-9].*feature_std 0.*\(at the start 0",
        capsys.readouterr().out,
    )

    whole = ResEnc.forward

    def collapsed(self, image):
        return [0 * level + 1 for level in whole(self, image)]

    monkeypatch.setattr(ResEnc, "forward", collapsed)
    probes["init_args"] = {"num_crops": 6, "stop_on_collapse": True}
    with pytest.raises(UserError, match=r"features have collapsed: effective_rank 0\.000"):
        fit("MultiTalent", "--run.restart", "true", "--trainer.callbacks", json.dumps([probes]))
    assert not json.loads((folder / "run.json").read_text(encoding="utf-8"))["finished"]


def test_the_start_that_a_collapse_is_measured_by_goes_on_with_the_run():
    from pretrain.probes import Probes

    first, second = Probes(num_crops=2), Probes(num_crops=2)
    first.start = {"effective_rank": 3.0, "feature_std": 0.5}
    second.load_state_dict(first.state_dict())
    assert second.start == first.start


def test_restored_psnr_is_logged(tmp_path, cube_store):
    place = ["--data.store", str(cube_store), "--run.root", str(tmp_path), "--run.group", "g", "--run.name", "run"]
    callbacks = json.dumps([{"class_path": "pretrain.probes.Probes", "init_args": {"num_crops": 2}}])
    program.main(["fit", *TINY_PRETRAIN, *place, "--trainer.callbacks", callbacks])
    with (tmp_path / "g" / "run" / "metrics.csv").open(newline="") as file:
        values = [float(row["probe/psnr"]) for row in csv.DictReader(file) if row["probe/psnr"]]
    assert len(values) == 2
    assert all(0 < value < 40 for value in values)

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from medpretrain3d.backbones import Backbone, Level, ResEnc, save_encoder
from medpretrain3d.cli import main
from medpretrain3d.errors import UserError
from medpretrain3d.probing import LinearProbe, frozen_features, rank_auc, sample_points
from medpretrain3d.store.corpus import Corpus
from medpretrain3d.store.intensity import Window
from tests.recipes.conftest import write_cubes

PATCH = (16, 16, 16)


class Seen(Backbone):
    """What it sees, and means of 2 x 2 x 2 of it."""

    levels = (Level(1, (1, 1, 1)), Level(1, (2, 2, 2)))

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [image, torch.nn.functional.avg_pool3d(image, 2)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cubes(tmp_path_factory.mktemp("probe") / "cubes", {"train": 3, "val": 2})


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoders") / "encoder"
    save_encoder(folder, ResEnc("XXS"), {})
    return folder


def test_points_are_where_they_are_whatever_is_seen_and_half_of_them_inside(store):
    cases = Corpus([store]).cases("train")
    narrow, wide = ([*sample_points(cases, PATCH, window, 2, 20)] for window in (Window(0, 100), Window()))
    assert len(narrow) == len(wide) == 2 * len(cases)
    for (image, one), (other_image, other) in zip(narrow, wide, strict=True):
        assert not torch.equal(image, other_image)
        np.testing.assert_array_equal(one.points_vox, other.points_vox)
        bright = other_image[0][tuple(one.points_vox.T)] > -0.3  # cubes are 900 HU above their surroundings
        np.testing.assert_array_equal(bright.numpy(), one.is_object)
        assert one.is_object.sum() in (0, 10)
    assert any(one.is_object.any() for _, one in narrow)


def test_another_class_is_neither_object_nor_background(store):
    cases = Corpus([store]).cases("train")
    assert not any(one.is_object.any() for _, one in sample_points(cases, PATCH, Window(), 2, 20, label=1))


def test_no_point_lies_beyond_a_scan_that_is_smaller_than_the_crop(store):
    cases = Corpus([store]).cases("train")
    for image, one in sample_points(cases, (32, 16, 40), Window(), 2, 20):  # of scans of 24^3
        assert (image == -1).any()  # padding is air, scans are 200 HU above it
        assert (image[0][tuple(one.points_vox.T)] > -0.95).all()
        assert one.is_object.size >= 10


def test_features_of_a_level_are_those_of_the_cell_around_each_point(store):
    probe = LinearProbe(*(Corpus([store]).cases(split) for split in ("train", "val")), PATCH, Window(), 2, 20)
    fine, coarse, both = probe.probed(lambda points: frozen_features(Seen(), points, torch.device("cpu"), "32-true"))
    assert (fine.num_channels, coarse.num_channels, both.num_channels) == (1, 1, 2)
    assert rank_auc(fine.log_odds, probe.is_object) == 1.0
    assert fine.effective_rank == coarse.effective_rank == pytest.approx(1)  # a channel each
    assert 1 < both.effective_rank <= 2


def test_features_that_are_not_finite_are_no_chance_level(store):
    class Diverged(Seen):
        def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
            return [image, torch.nn.functional.avg_pool3d(image, 2) / 0]

    points = sample_points(Corpus([store]).cases("train"), PATCH, Window(), 1, 10)
    with pytest.raises(UserError, match="features of level 1 are not finite in 32-true"):
        frozen_features(Diverged(), points, torch.device("cpu"), "32-true")


def test_a_set_without_points_in_objects_is_refused(store):
    cases = Corpus([store]).cases("train")
    with pytest.raises(UserError, match="points that fit 0 lie in objects; wanted some inside"):
        LinearProbe(cases, cases, PATCH, Window(), 1, 10, label=1)


def test_the_command_prints_a_row_per_level_and_writes_all_numbers(store, encoder, tmp_path, capsys):
    out = tmp_path / "probe.json"
    words = ["probe", str(store), str(encoder), "--patch", "16", "--crops", "1", "--points", "20", "-o", str(out)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "fitted on 3 cases of train and judged on 2 of val" in printed
    assert (
        "2 of the 2 scans that judge have points of the rarer kind, objects or background; an interval needs 10"
        in printed
    )
    rows = json.loads(out.read_text())["rows"]
    names = [f"level {number}, stride {2**number}" for number in range(len(ResEnc("XXS").levels))]
    assert [row["features"] for row in rows] == [*names, "all levels", "intensities alone"]
    for row in rows:
        rank = row.get("effective_rank")
        ranks = f"{rank:>7.1f}{rank:>10.1f}" if rank else " " * 17  # the encoder is its own random weights
        assert f"{row['features']:<20}{row['channels']:>9}{ranks}  {row['auc']['value']:.3f}" in printed
        assert rank is None or 1 <= rank == row["effective_rank_of_random_weights"] <= row["channels"]
        assert row["auc"]["interval"] is None
    # The encoder's weights are those that its seed draws, so that random ones are no worse and no better.
    assert all(row["gain"] == {"value": 0.0, "interval": None} for row in rows if "gain" in row)
    assert rows[-1]["auc"]["value"] == 1.0


def test_an_encoder_of_other_sizes_is_warned_of(store, tmp_path, capsys):
    folders = {}
    spacing_mm = Corpus([store]).spacing_mm
    for factor in (1, 2):
        folders[factor] = tmp_path / f"spacing_{factor}"
        card = {"preprocessing": {"spacing_mm": [factor * one for one in spacing_mm]}}
        save_encoder(folders[factor], ResEnc("XXS"), card)
    words = ["--patch", "16", "--crops", "1", "--points", "20"]
    assert main(["probe", str(store), str(folders[1]), *words]) == 0
    assert "warning" not in capsys.readouterr().out
    assert main(["probe", str(store), str(folders[2]), *words]) == 0
    axes = " ".join(str(2 * one) for one in spacing_mm)
    assert f"prepare them with --spacing-mm {axes} to ask it at the sizes that it knows" in capsys.readouterr().out


@pytest.mark.parametrize("split", ["all", "labeled"])
def test_the_cases_that_fit_the_layer_do_not_judge_it(store, encoder, capsys, split):
    words = ["probe", str(store), str(encoder), "--patch", "16", "--crops", "1", "--points", "20"]
    assert main([*words, "--split", split]) == 0
    printed = capsys.readouterr().out
    first = Corpus([store]).cases("train")[0].case_id
    assert f"note: 3 cases of train left out, first '{first}': they fit the linear layer" in printed
    assert f"fitted on 3 cases of train and judged on 2 of {split}" in printed
    main(words)
    assert capsys.readouterr().out.splitlines()[1:] == printed.splitlines()[2:]  # the numbers of val


def test_patients_of_the_cases_that_fit_the_layer_do_not_judge_it(encoder, tmp_path, capsys):
    words = [str(encoder), "--patch", "16", "--crops", "1", "--points", "20"]
    counts = {"train": 2, "val": 3}
    same = {"train_0": "p", "val_1": "p", "val_0": "q", "val_2": "q"}
    assert main(["probe", str(write_cubes(tmp_path / "some", counts, same)), *words]) == 0
    printed = capsys.readouterr().out
    assert "note: 1 case left out, first 'val_1', whose patients have scans that fit the linear layer" in printed
    assert "fitted on 2 cases of train and judged on 2 of val, which are of 1 patients" in printed
    every = dict.fromkeys(("train_0", "val_0", "val_1", "val_2"), "p")
    assert main(["probe", str(write_cubes(tmp_path / "all", counts, every)), *words]) == 2
    assert "--split val: its cases are of patients of those that fit the linear layer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "train"], "its cases fit the linear layer and cannot judge it too"),
        (["--split", "test"], "test"),
        (["--class", "cat"], "--class cat: .* has cube"),
    ],
)
def test_what_cannot_be_asked_is_refused(store, encoder, capsys, options, message):
    assert main(["probe", str(store), str(encoder), *options]) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(message, said)


def test_points_of_scans_of_one_patient_are_of_one_unit(store):
    train, judged = (Corpus([store]).cases(split) for split in ("train", "val"))
    own = LinearProbe(train, judged, PATCH, Window(), 2, 20)
    assert set(own.patient.tolist()) == {0, 1}
    for case in judged:
        case.store.entries[case.case_id]["patient"] = "p"
    shared = LinearProbe(train, judged, PATCH, Window(), 2, 20)
    np.testing.assert_array_equal(shared.is_object, own.is_object)
    assert set(shared.patient.tolist()) == {0}

"""What a second stage does to scores, and where it looks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from medpretrain3d.backbones import ResEnc
from medpretrain3d.cli import main
from medpretrain3d.errors import UserError
from medpretrain3d.inference import Prediction, Predictor, Rescorer, ScanTiles, load_members, save_ensemble
from medpretrain3d.inference.candidate_cubes import candidate_cubes
from medpretrain3d.inference.prediction import Entry
from medpretrain3d.inference.rescorer import combined
from medpretrain3d.inference.rescorer_file import RESCORER_WEIGHTS, load_rescorer, save_rescorer
from medpretrain3d.store import Grid, Preprocessing, Volume
from tests.rescoring.results import write_result


def test_odds_are_multiplied() -> None:
    scores = torch.tensor([0.5, 0.2, 0.9])
    found = combined(scores, torch.tensor([math.log(3), 0.0, -math.log(9)]))
    assert found[0].item() == pytest.approx(3 / 4)
    assert found[1].item() == scores[1].item()  # to the bit
    assert found[2].item() == pytest.approx(0.5)


@pytest.mark.parametrize("constant", [-3.0, 0.0, 3.0])
def test_one_constant_for_all_keeps_every_rank(constant: float) -> None:
    scores = torch.rand(2000, generator=torch.Generator().manual_seed(0)).sort().values
    scores = torch.cat([torch.zeros(1), scores.unique(), torch.tensor([1 - 2**-24])])
    found = combined(scores, torch.full(scores.shape, constant))
    assert bool((found[1:] > found[:-1]).all())
    assert bool(((found >= 0) & (found <= 1)).all())


def ramp(spacing_mm: tuple[float, float, float]) -> ScanTiles:
    """A scan whose intensity is the position in mm along W plus ten times that along D, less 400."""
    d, _, w = (np.arange(40) + 0.5 for _ in range(3))
    image = -400 + 10 * d[:, None, None] * spacing_mm[0] + w[None, None] * spacing_mm[2] + np.zeros((40, 40, 40))
    grid = Grid((40, 40, 40), np.diag([*spacing_mm, 1]))
    return ScanTiles(Volume(np.rint(image)[None].astype(np.int16), grid, grid), Preprocessing(patch=(8, 8, 8)))


def test_cubes_of_each_edge_lie_about_the_center_and_hold_what_is_there() -> None:
    tiles = ramp((2.0, 1.0, 1.0))
    assert tiles.spacing_mm == (2.0, 1.0, 1.0)
    center = np.array([20.5, 20.0, 20.25])
    cubes = candidate_cubes(tiles, center, edges_mm=(8.0, 24.0), edge_vox=8)
    assert cubes.shape == (2, 1, 8, 8, 8)
    for cube, edge_mm in zip(cubes, (8.0, 24.0), strict=True):
        at_mm = (np.arange(8) + 0.5) / 8 * edge_mm - edge_mm / 2
        wanted = -400 + 10 * (20.5 * 2 + at_mm)[:, None, None] + (20.25 + at_mm)[None, None] + np.zeros((8, 8, 8))
        hu = cube[0].double().numpy() * 1024  # the window's 2048 HU are -1 to 1
        np.testing.assert_allclose(hu, wanted, atol=0.6)  # stored as whole numbers


def test_outside_of_a_scan_there_is_air() -> None:
    grid = Grid((8, 8, 8), np.eye(4))
    tiles = ScanTiles(Volume(np.full((1, 8, 8, 8), 100, np.int16), grid, grid), Preprocessing(patch=(8, 8, 8)))
    cube = candidate_cubes(tiles, np.array([0.0, 4, 4]), edges_mm=(8.0,), edge_vox=8)[0, 0]
    assert cube[:4].tolist() == torch.full((4, 8, 8), -1.0).tolist()
    np.testing.assert_allclose(cube[4:], 100 / 1024, atol=1e-5)
    far = candidate_cubes(tiles, np.array([-50.0, 4, 4]), edges_mm=(8.0,), edge_vox=8)
    assert far.unique().tolist() == [-1.0]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_result(tmp_path_factory.mktemp("results") / "cv")


def predicted(folder: Path) -> Prediction:
    image = np.random.default_rng(0).integers(-100, 100, (1, 24, 24, 24), dtype=np.int16)
    grid = Grid((24, 24, 24), np.eye(4))
    return Predictor(load_members(folder), "cpu").predict(Volume(image, grid, grid), "scan")


def with_second_stage(result: Path, folder: Path, bias: list[float]) -> Path:
    """The ensemble with second stages that say the same of everything."""
    for k, value in enumerate(bias):
        rescorer = Rescorer(ResEnc("XXS"), 1, (16.0, 40.0), 8)
        torch.nn.init.constant_(rescorer.linear.bias, value)
        save_rescorer(folder / f"r{k}", rescorer, {})
    members = {f"fold_{k}": result / "ensemble" / f"fold_{k}" for k in range(2)}
    config = load_members(result / "ensemble")[0].inference
    save_ensemble(folder / "both", members, config, {}, rescorers={f"fold_{k}": folder / f"r{k}" for k in range(2)})
    return folder / "both"


def test_a_bundle_predicts_with_both_stages_and_those_of_its_members_are_averaged(result: Path, tmp_path: Path) -> None:
    before = predicted(result / "ensemble")
    same = predicted(with_second_stage(result, tmp_path / "same", [1.0, -1.0]))
    assert same.scores.tolist() == before.scores.tolist()
    other = predicted(with_second_stage(result, tmp_path / "other", [1.0, 2.0]))
    odds = before.scores.astype(np.float64) / (1 - before.scores.astype(np.float64)) * math.exp(1.5)
    np.testing.assert_allclose(other.scores, odds / (1 + odds), rtol=1e-6)
    assert len(before) > 1
    assert other.boxes_vox.tolist() == before.boxes_vox.tolist()  # in the same order
    read = Prediction.from_json(cast(Entry, other.to_json()))
    assert read.scores.tolist() == other.scores.tolist()


def test_merging_is_not_tuned_behind_a_second_stage(
    result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = with_second_stage(result, tmp_path, [1.0, 2.0])
    assert main(["tune", str(both / "fold_0")]) == 2
    assert "has a second stage, whose scores merging does not see; tune the bundle" in capsys.readouterr().err


def test_a_damaged_or_foreign_second_stage_is_refused(result: Path, tmp_path: Path) -> None:
    both = with_second_stage(result, tmp_path / "both", [1.0, 2.0])
    assert '"version": 2' in (both / "fold_0" / "bundle.json").read_text()  # earlier programs refuse it
    assert '"version": 1' in (result / "ensemble" / "fold_0" / "bundle.json").read_text()
    (both / "fold_0" / "rescorer.json").write_bytes((both / "fold_1" / "rescorer.json").read_bytes())
    with pytest.raises(UserError, match=r"rescorer.json: is another second stage than the one that the bundle was giv"):
        load_members(both)
    (tmp_path / "both" / "r0" / RESCORER_WEIGHTS).write_bytes(b"")
    with pytest.raises(UserError, match="its sha256 differs"):
        load_rescorer(tmp_path / "both" / "r0")


def test_a_cube_that_the_encoder_cannot_take_is_refused() -> None:
    with pytest.raises(UserError, match="multiple"):
        Rescorer(ResEnc("XXS"), 1, (16.0,), edge_vox=12)

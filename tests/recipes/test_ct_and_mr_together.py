"""Stores of CT and MR used together: each keeps its normalisation, and what comes later takes that of its own unit."""

from __future__ import annotations

import json

import numpy as np
import pytest

from finetune import __main__ as finetune
from medpretrain3d.backbones import ResEnc, save_encoder
from medpretrain3d.configurable import to_config
from medpretrain3d.inference import load_bundle
from medpretrain3d.loading.crops import CropReader
from medpretrain3d.loading.spatial_transform import IDENTITY
from medpretrain3d.store.intensity import NamedWindow, PerUnit, Window, ZScore
from pretrain import __main__ as pretrain
from pretrain.datamodule import PretrainData

from .conftest import TINY_FINETUNE, TINY_PRETRAIN


def seen(data, ref):
    """A whole volume as the network sees it."""
    case = ref.open()
    reader = CropReader(case.grid.shape, data.window)
    return reader.image(case, (0, 0, 0), IDENTITY, np.random.default_rng(0)).apply().numpy()


@pytest.mark.parametrize("first", ["ct", "mr"])
def test_each_store_keeps_its_own_normalisation_whichever_comes_first(cube_store, mr_store, first):
    stores = [cube_store, mr_store] if first == "ct" else [mr_store, cube_store]
    data = PretrainData([str(store) for store in stores], (16, 16, 16), 2)
    for ref in data.train_cases:
        case, image = ref.open(), seen(data, ref)
        expected = Window() if case.unit == "hu" else ZScore().fitted(case.statistics)
        np.testing.assert_array_equal(image, expected(case.read_image()))
        assert np.unique(image).size > 100  # in HU every MR voxel would be 1
    assert [store["unit"] for store in data.preprocessing().stores] == ["hu", "any"][:: 1 if first == "ct" else -1]


def test_the_recipe_s_window_is_that_of_all_stores_and_said_where_it_means_nothing(cube_store, mr_store, capsys):
    stores = [str(cube_store), str(mr_store)]
    PretrainData(stores, (16, 16, 16), 2, ZScore("all"))
    PretrainData(stores, (16, 16, 16), 2, PerUnit(hu=NamedWindow("lung")))
    assert "has no unit" not in capsys.readouterr().out
    data = PretrainData(stores, (16, 16, 16), 2, Window(0, 9000))
    assert (
        "mr_cubes: its values have no unit, and the constants of Window(low_hu=0, high_hu=9000) do"
        in capsys.readouterr().out
    )
    assert data.preprocessing().window == Window(0, 9000)
    assert all(seen(data, ref).max() <= 1 for ref in data.train_cases)


@pytest.fixture(scope="module")
def encoder_of_both(cube_store, mr_store, tmp_path_factory):
    root = tmp_path_factory.mktemp("both")
    stores = json.dumps([str(cube_store), str(mr_store)])
    probes = [{"class_path": "pretrain.probes.Probes", "init_args": {"store": str(mr_store), "num_crops": 2}}]
    place = ["--data.store", stores, "--run.root", str(root), "--trainer.callbacks", json.dumps(probes)]
    pretrain.main(["fit", *TINY_PRETRAIN, *place])
    return root / "smoke/mae/encoder"


@pytest.fixture
def fit(tmp_path):
    def run(store, encoder, *arguments):
        place = ["--data.store", str(store), "--run.root", str(tmp_path), "--run.group", "g", "--run.name", store.name]
        finetune.main(["fit", *TINY_FINETUNE, *place, "--model.init_from", str(encoder), *arguments])
        return load_bundle(tmp_path / "g" / store.name / "bundle").preprocessing

    return run


def test_the_card_says_which_and_fine_tuning_takes_that_of_its_unit(encoder_of_both, cube_store, mr_store, fit):
    preprocessing = json.loads((encoder_of_both / "encoder.json").read_text(encoding="utf-8"))["preprocessing"]
    assert preprocessing["stores"] == [
        {"store": "cubes", "unit": "hu", "window": to_config(Window())},
        {"store": "mr_cubes", "unit": "any", "window": to_config(ZScore())},
    ]
    assert preprocessing["window"] == to_config(PerUnit())
    steps = ("--trainer.max_steps", "3")
    assert to_config(fit(cube_store, encoder_of_both, *steps).window) == to_config(Window())
    assert to_config(fit(mr_store, encoder_of_both, *steps).window) == to_config(ZScore())


@pytest.mark.parametrize("stores", [[{"store": "ct", "unit": "hu", "window": to_config(Window(-900, 500))}], None])
def test_a_window_of_ct_is_not_taken_for_mr_and_that_is_said(stores, mr_store, cube_store, fit, tmp_path):
    # Cards written before stores were named hold a window only.
    card = {"preprocessing": {"window": to_config(Window(-900, 500)), **({"stores": stores} if stores else {})}}
    save_encoder(tmp_path / "encoder", ResEnc("XXS"), card)
    steps = ("--trainer.max_steps", "3")
    with pytest.warns(UserWarning, match=r"no scans in the unit of this data \(not HU\): no window"):
        mr = fit(mr_store, tmp_path / "encoder", *steps)
    assert to_config(mr.window) == to_config(ZScore())
    assert fit(cube_store, tmp_path / "encoder", *steps).window == Window(-900, 500)


def test_a_window_by_unit_of_a_recipe_is_resolved_in_the_bundle(mr_store, tmp_path, fit):
    save_encoder(tmp_path / "encoder", ResEnc("XXS"), {})
    window = json.dumps(to_config(PerUnit(other=ZScore("all"))))
    kept = fit(mr_store, tmp_path / "encoder", "--data.window", window, "--trainer.max_steps", "3")
    assert to_config(kept.window) == to_config(ZScore("all"))

from __future__ import annotations

import importlib

import pytest

from medpretrain3d.command_line.recipes import load_recipe
from medpretrain3d.configurable import from_config
from medpretrain3d.moved import MOVED, current_class_path
from medpretrain3d.store.intensity import Window


def test_a_file_that_names_the_earlier_place_of_a_class_is_read():
    window = from_config(
        {"class_path": "medpretrain3d.data.intensity.Window", "init_args": {"low_hu": -1, "high_hu": 1}}
    )
    assert type(window) is Window


def test_a_recipe_of_earlier_is_one_of_today():
    recipe = load_recipe("augment: [{class_path: medpretrain3d.data.augment.SpatialAugment, init_args: {zoom_p: 0}}]")
    assert recipe["augment"][0]["class_path"] == "medpretrain3d.loading.augment.SpatialAugment"


@pytest.mark.parametrize("path", ["medpretrain3d.backbones.ResEnc", "torch.nn.Linear", "Window"])
def test_other_places_stay(path):
    assert current_class_path(path) == path


@pytest.mark.parametrize("place", MOVED.values())
def test_every_new_place_exists(place):
    importlib.import_module(place)

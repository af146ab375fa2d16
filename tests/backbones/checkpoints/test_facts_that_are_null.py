"""A card may say null of a fact, as its schema allows: then it is not stated."""

from __future__ import annotations

import pytest

import medpretrain3d as mp
from medpretrain3d.backbones import ResEnc, read_encoder, save_encoder
from medpretrain3d.backbones.checkpoints.nnssl_export import write_nnssl
from medpretrain3d.configurable import to_config
from medpretrain3d.store.intensity import Window
from medpretrain3d.store.preprocessing import stated_window

FACTS = ("preprocessing", "pretraining", "licence", "citations", "continued_from")


@pytest.fixture
def folder(tmp_path):
    save_encoder(tmp_path / "encoder", ResEnc("XXS"), dict.fromkeys(FACTS))
    return tmp_path / "encoder"


def test_an_encoder_of_which_nothing_is_stated_is_loaded(folder):
    encoder = mp.load_encoder(folder)
    assert "licence: not stated in the file" in encoder.report
    assert encoder.preprocessing is None


def test_it_is_exported_and_read_again(folder, tmp_path):
    write_nnssl(tmp_path / "checkpoint_final.pth", read_encoder(folder))
    card = read_encoder(tmp_path / "checkpoint_final.pth").card
    assert (card["citations"], card["licence"]) == ([], None)


def test_a_window_is_that_of_the_card_where_stores_are_null():
    card = {"window": to_config(Window(-1000, 500)), "stores": None}
    assert stated_window(card, "hu") == Window(-1000, 500)

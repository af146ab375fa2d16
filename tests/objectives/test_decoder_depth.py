"""Blocks of the decoder are of a transformer; a convolutional network has none, and is not asked for some in vain."""

from __future__ import annotations

import pytest

from medpretrain3d.backbones import ResEnc, ViT
from medpretrain3d.errors import UserError
from medpretrain3d.objectives import MAE, ConsistentViews, SliceWise


@pytest.mark.parametrize("cls", [MAE, SliceWise, ConsistentViews])
def test_blocks_of_a_decoder_without_blocks_are_refused(cls):
    with pytest.raises(UserError, match=rf"{cls.__name__}: got decoder_depth 4 with ResEnc, whose decoder is a U-Net"):
        cls(ResEnc("XXS"), decoder_depth=4)
    cls(ResEnc("XXS"))


def test_a_transformer_has_as_many_as_it_is_asked_for():
    for depth in (0, 2, 4):
        decoder = MAE(ViT("XXS", patch_size=(8, 8, 8)), decoder_depth=depth).decoder
        assert len(decoder.blocks) == depth

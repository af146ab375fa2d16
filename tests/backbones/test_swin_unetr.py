from __future__ import annotations

import pytest
import torch
from monai.networks.nets.swin_unetr import PatchMerging, SwinTransformer

from medpretrain3d.backbones import SwinUNETR
from medpretrain3d.backbones.swin_unetr import MERGED_OFFSETS
from medpretrain3d.errors import UserError


@pytest.mark.parametrize("is_v2", [False, True])
def test_features_are_those_of_monais_swin_transformer(is_v2):
    ours = SwinUNETR(12, window_size=(3, 3, 3), is_v2=is_v2).eval()
    theirs = SwinTransformer(1, 12, (3, 3, 3), (2, 2, 2), (2, 2, 2, 2), (3, 6, 12, 24), use_v2=is_v2).eval()
    theirs.load_state_dict(ours.state_dict())
    for layer in (theirs.layers1, theirs.layers2, theirs.layers3, theirs.layers4):
        assert type(layer[0].downsample) is PatchMerging
    x = torch.randn(1, 1, 64, 32, 32)
    with torch.no_grad():
        for a, b in zip(ours(x), theirs(x), strict=True):
            torch.testing.assert_close(a, b)


def test_published_weights_saw_six_of_eight_neighbours():
    assert len(set(MERGED_OFFSETS["all"])) == 8
    assert len(set(MERGED_OFFSETS["published"])) == 6
    with pytest.raises(UserError, match="wanted one of all, published"):
        SwinUNETR(merging="some")  # type: ignore[arg-type]


def test_merging_puts_neighbours_side_by_side():
    merging = SwinUNETR(12, merging="published").layers1[0].downsample
    merging.norm, merging.reduction = torch.nn.Identity(), torch.nn.Identity()
    tokens = torch.arange(8.0).reshape(1, 2, 2, 2, 1)  # 4 d + 2 h + w
    assert merging(tokens).flatten().tolist() == [0, 4, 2, 1, 5, 2, 1, 7]


def test_an_indivisible_feature_size_is_refused():
    with pytest.raises(UserError, match="feature_size 40, wanted a multiple of 12"):
        SwinUNETR(40)

from __future__ import annotations

import pytest
import torch

from medpretrain3d.backbones import Primus
from medpretrain3d.backbones.primus import PRESETS
from medpretrain3d.backbones.rope import axial_rotation, rotate
from medpretrain3d.errors import UserError


def small(**options) -> Primus:
    torch.manual_seed(0)
    return Primus("XXS", position_grid=(2, 3, 2), **options).eval()


# The published counts are those of the segmentation network at 64^3: with a decoder of three transposed convolutions,
# two norms and one class.
@pytest.mark.parametrize(
    ("preset", "decoder", "published_millions"),
    [("S", (64, 8), 23.3), ("B", (104, 16), 92.0), ("M", (112, 16), 145.3), ("L", (128, 16), 323.9)],
)
def test_published_numbers_of_parameters(preset, decoder, published_millions):
    with torch.device("meta"):
        encoder = Primus(preset, position_grid=(8, 8, 8)).num_parameters()
    width, (first, second) = PRESETS[preset].width, decoder
    head = (8 * width + 3) * first + (8 * first + 3) * second + 8 * second + 1
    assert round((encoder + head) / 1e6, 1) == published_millions


def test_the_encoder_of_m_is_counted_by_hand():
    width, hidden, depth, tokens = 864, 2304, 16, 8**3
    attention = 4 * width * width + 3 * width + 2 * width  # no bias of keys; the norm after attention
    mlp = 3 * width * hidden + 2 * hidden + 2 * hidden + width
    block = attention + mlp + 2 * 2 * width + 2 * width  # two norms, two layer scales
    with torch.device("meta"):
        counted = Primus("M", position_grid=(8, 8, 8)).num_parameters()
    assert counted == depth * block + tokens * width + (8**3 + 1) * width + 2 * width


def test_visible_tokens_alone_are_computed_with():
    backbone = small(num_register_tokens=2)
    image = torch.randn(2, 1, 16, 24, 16)
    keep = torch.tensor([[0, 3, 7], [11, 2, 5]])
    with torch.no_grad():
        seen = backbone.encode(backbone.embed(image), (2, 3, 2), keep)
        assert seen.shape == (2, 3, 48)
        hidden = image.clone()
        hidden[0, 0, 8:, 8:16, :8] += 9.0  # token 8 of the first image, which is not kept
        assert torch.equal(backbone.encode(backbone.embed(hidden), (2, 3, 2), keep), seen)
        everything = torch.arange(12).expand(2, 12)
        whole = backbone.encode(backbone.embed(image), (2, 3, 2), everything)
        torch.testing.assert_close(whole, backbone.encode(backbone.embed(image), (2, 3, 2)))


def test_attention_depends_on_distances_only_through_the_rotation():
    # q at place p and k at place p' meet at an angle of p - p': shifting both along an axis changes no product.
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 24, generator=generator)
    sine, cosine = axial_rotation((4, 3, 2), 24, torch.device("cpu"))

    def product(place, other):
        turned_q = rotate(q, sine[place][None, None], cosine[place][None, None])
        return (turned_q * rotate(k, sine[other][None, None], cosine[other][None, None])).sum()

    # Places (d h w) are numbered 6 d + 2 h + w.
    torch.testing.assert_close(product(0, 7), product(6, 13))
    torch.testing.assert_close(product(0, 7), product(2, 9))
    assert (product(0, 7) - product(0, 6)).abs() > 1e-3
    assert product(5, 5) == pytest.approx((q * k).sum().item(), rel=1e-5)


def test_wrong_sizes_are_named():
    with pytest.raises(UserError, match="wanted one of XXS, S, B, M, L"):
        Primus("H")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="multiple of 72"):
        Primus(None, width=100, depth=2, heads=12)
    with pytest.raises(UserError, match="set preset to null"):
        Primus("S", heads=3)
    with pytest.raises(UserError, match="D is 20, must be a multiple of the coarsest stride 8"):
        small()(torch.zeros(1, 1, 20, 24, 16))

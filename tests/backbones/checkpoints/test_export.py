from __future__ import annotations

import pytest
import torch

from medpretrain3d import cli
from medpretrain3d.backbones import PlainConv, Primus, ResEnc, ViT, read_encoder, save_encoder
from medpretrain3d.backbones.checkpoints.release import restrictions
from medpretrain3d.configurable import from_config

CARD = {
    "preprocessing": {
        "spacing_mm": [1.0, 1.0, 1.0],
        "patch": [32, 32, 32],
        "window": {"class_path": "medpretrain3d.store.intensity.Window", "init_args": {"low_hu": -900, "high_hu": 500}},
        "unit": "hu",
        "stores": [{"store": "ct", "unit": "hu", "window": {"class_path": "medpretrain3d.store.intensity.Window"}}],
    },
    "pretraining": {"paradigm": "mae", "corpus": "phantom", "steps": 7, "num_pretrain_volumes": 3},
    "licence": "cc-by-4.0",
    "citations": ["A. Author (2026). A paper."],
}
BACKBONES = {
    "resenc": lambda: ResEnc("XXS", in_channels=2, kernel_sizes=[(1, 3, 3)] + [(3, 3, 3)] * 3),
    "resenc anisotropic": lambda: ResEnc("XXS", strides=[(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2)]),
    "plain": lambda: PlainConv("XXS"),
    "primus": lambda: Primus("XXS", position_grid=(4, 4, 2), num_register_tokens=2),
    "primus bare": lambda: Primus("XXS", position_grid=(2, 2, 2), layer_scale=None, attention_norm=False),
}


@pytest.mark.parametrize("format_", ["nnssl", "safetensors"])
@pytest.mark.parametrize("name", BACKBONES)
def test_an_export_read_back_gives_the_same_features(tmp_path, name, format_, capsys):
    torch.manual_seed(0)
    backbone = BACKBONES[name]().eval()
    save_encoder(tmp_path / "encoder", backbone, CARD)
    out = tmp_path / "exported"
    assert cli.main(["export", str(tmp_path / "encoder"), "--format", format_, "-o", str(out)]) == 0
    again = read_encoder(out)
    twin = from_config(again.architecture).eval()
    twin.load_state_dict(again.weights)
    image = torch.randn(1, backbone.in_channels, 32, 32, 16)
    with torch.no_grad():
        for a, b in zip(twin(image), backbone(image), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert again.card["licence"] == "cc-by-4.0"
    for fact in ("window", "unit", "stores"):
        assert again.card["preprocessing"][fact] == CARD["preprocessing"][fact]
    assert "A. Author" in again.card["citations"][0]
    page = (out / "README.md").read_text(encoding="utf-8")
    for expected in ("license: cc-by-4.0", "corpus: phantom", "steps: 7", "A. Author (2026)", "None were handed over"):
        assert expected in page
    assert "exported" in capsys.readouterr().out


def test_results_go_into_the_model_card_and_an_existing_folder_is_left_alone(tmp_path, capsys):
    save_encoder(tmp_path / "encoder", ResEnc("XXS"), {})
    (tmp_path / "results.md").write_text("mAP 0.5 on nothing")
    args = ["export", str(tmp_path / "encoder"), "-o", str(tmp_path / "out"), "--results", str(tmp_path / "results.md")]
    assert cli.main([*args, "--licence", "cc0-1.0"]) == 0
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "mAP 0.5 on nothing" in page
    assert page.startswith("---\nlicense: cc0-1.0\n")
    assert read_encoder(tmp_path / "out").card["licence"] == "cc0-1.0"
    assert cli.main(args) == 2
    assert "is there already" in capsys.readouterr().err


def test_results_that_are_no_text_are_refused(tmp_path, capsys):
    save_encoder(tmp_path / "encoder", ResEnc("XXS"), {})
    (tmp_path / "results.md").write_bytes(b"\xff\xfe")
    args = ["export", str(tmp_path / "encoder"), "-o", str(tmp_path / "out"), "--results", str(tmp_path / "results.md")]
    assert cli.main(args) == 2
    assert "results.md: is not text in UTF-8" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format_", ["nnssl", "safetensors"])
def test_an_export_keeps_the_licence_that_is_given_and_what_earlier_ones_forbid(tmp_path, format_, capsys):
    origin = {"sha256": "0" * 64, "licence": "cc-by-nc-4.0", "restriction": "nothing is sold", "citations": ["B."]}
    save_encoder(tmp_path / "encoder", ResEnc("XXS"), {**CARD, "restriction": "named", "continued_from": origin})
    args = ["export", str(tmp_path / "encoder"), "--format", format_, "-o", str(tmp_path / "out")]
    assert cli.main([*args, "--licence", "cc0-1.0"]) == 0
    again = read_encoder(tmp_path / "out")
    assert again.card["licence"] == "cc0-1.0"
    assert restrictions(again.card) == ["named", "nothing is sold"]
    assert again.card["continued_from"] == origin
    assert again.card["pretraining"].items() >= CARD["pretraining"].items()
    assert cli.main(["inspect", str(tmp_path / "out")]) == 0
    assert "nothing is sold" in capsys.readouterr().out


def test_what_nnssl_does_not_know_is_refused_and_nothing_is_written(tmp_path, capsys):
    save_encoder(tmp_path / "encoder", ViT("XXS"), {})
    args = ["export", str(tmp_path / "encoder"), "--format", "nnssl", "-o", str(tmp_path / "out")]
    assert cli.main(args) == 2
    assert "nnssl has no such network" in capsys.readouterr().err
    save_encoder(tmp_path / "encoder", Primus("XXS", position_grid=(4, 2, 2)), {})
    assert cli.main(args) == 2
    assert "only where D and H are alike" in capsys.readouterr().err
    save_encoder(tmp_path / "encoder", PlainConv(None, channels=(4, 8), convs=(1, 1), pool="max"), {})
    assert cli.main(args) == 2
    assert "those of max pooling" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


def test_inspect_tells_what_a_foreign_checkpoint_is(tmp_path, capsys):
    save_encoder(tmp_path / "encoder", Primus("XXS", position_grid=(2, 2, 2)), CARD)
    cli.main(["export", str(tmp_path / "encoder"), "--format", "nnssl", "-o", str(tmp_path / "out")])
    capsys.readouterr()
    assert cli.main(["inspect", str(tmp_path / "out" / "checkpoint_final.pth")]) == 0
    printed = capsys.readouterr().out
    for expected in (
        "nnssl checkpoint",
        "backbones.primus.Primus",
        '"spacing_mm": [1.0, 1.0, 1.0]',
        "cc-by-4.0",
        "A. Author",
    ):
        assert expected in printed
    assert "note: tokens flattened (h w d)" in printed


@pytest.mark.parametrize("format_", ["nnssl", "safetensors"])
def test_an_export_without_a_licence_is_read_back_without_one_and_citations_as_they_were(tmp_path, format_):
    save_encoder(tmp_path / "encoder", ResEnc("XXS"), {"citations": ["A. Author (2026). Title."]})
    assert cli.main(["export", str(tmp_path / "encoder"), "--format", format_, "-o", str(tmp_path / "out")]) == 0
    assert "license: unknown" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    again = read_encoder(tmp_path / "out")
    assert not again.card.get("licence")
    assert again.card["citations"] == ["A. Author (2026). Title."]

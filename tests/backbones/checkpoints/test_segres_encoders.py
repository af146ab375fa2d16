"""CT-FM and VISTA3D: files in their layout against MONAI's own `SegResEncoder`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from monai.networks.nets.segresnet_ds import SegResEncoder, SegResNetDS
from safetensors.torch import save_file

from medpretrain3d import cli
from medpretrain3d.backbones import ReadOptions, SegResNet, load_encoder, read_encoder
from medpretrain3d.backbones.checkpoints.frame import turn_from
from medpretrain3d.configurable import from_config
from medpretrain3d.errors import UserError

BLOCKS = (1, 2, 1, 1, 2)


def monai_encoder(norm: str | tuple[str, dict[str, int]], width: int = 4) -> torch.nn.Module:
    torch.manual_seed(0)
    encoder = SegResEncoder(3, width, 1, norm=norm, blocks_down=BLOCKS)
    if norm == "batch":  # statistics as training leaves them
        for buffer in encoder.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)
    return encoder.eval()


def image(*shape):
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(2))


def prefixed(prefix, weights):
    return {f"{prefix}{name}": value.contiguous() for name, value in weights.items()}


def assert_same_features(ours, theirs, x, tolerance=1e-6):
    with torch.no_grad():
        for a, b in zip(ours.eval()(x), theirs(x), strict=True):
            assert (a - b).abs().max() <= tolerance * b.abs().max()


def ct_fm_files():
    weights = monai_encoder("batch").state_dict()
    torch.manual_seed(1)
    segmenter = SegResNetDS(3, 4, norm="batch", blocks_down=BLOCKS, dsdepth=1)
    segmenter.encoder.load_state_dict(weights)
    return {
        "feature extractor": weights,
        "segmenter": segmenter.state_dict(),
        "Lightning checkpoint": {"state_dict": prefixed("backbone.", weights), "global_step": 5},
    }


@pytest.mark.parametrize("layout", ["feature extractor", "segmenter", "Lightning checkpoint"])
def test_each_layout_of_ct_fm_has_monais_features(layout, tmp_path):
    content = ct_fm_files()[layout]
    if layout == "feature extractor":
        save_file({name: value.contiguous() for name, value in content.items()}, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text('{"model_type": "segresencoder"}')
        encoder = read_encoder(tmp_path)
    else:
        torch.save(content, tmp_path / "weights.torch.pt")
        encoder = read_encoder(tmp_path / "weights.torch.pt")
    assert encoder.format == "CT-FM checkpoint"
    backbone = from_config(encoder.architecture)
    report = load_encoder(backbone, encoder)
    assert report.matched == report.total == len(monai_encoder("batch").state_dict())
    assert set(encoder.unused) == ({"up_layers"} if layout == "segmenter" else set())
    assert_same_features(backbone, monai_encoder("batch"), image(32, 16, 48))
    assert encoder.card["preprocessing"]["window"]["init_args"]["output_range"] == [0.0, 1.0]


@pytest.mark.parametrize("sizes", [{"blocks_down": (1, 2, 2, 4)}, {"blocks_down": BLOCKS, "in_channels": 2}])
def test_a_segmenter_with_monais_default_norm_is_no_ct_fm(sizes, tmp_path):
    """Batch norm is that default, and nothing says at which spacing, in which window and on which scans it learned."""
    torch.manual_seed(0)
    theirs = SegResNetDS(3, **{"init_filters": 4, "in_channels": 1, **sizes}).eval()
    torch.save(theirs.state_dict(), tmp_path / "own.pt")
    encoder = read_encoder(tmp_path / "own.pt")
    assert encoder.format == "MONAI SegResEncoder"
    assert encoder.card["preprocessing"] == {"orientation": "SPL"}
    assert (encoder.card["pretraining"], encoder.card["licence"], encoder.card["citations"]) == ({}, None, [])
    assert any("where CT-FM's has 5 and 1: its data are not known" in note for note in encoder.notes)
    backbone = from_config(encoder.architecture)
    load_encoder(backbone, encoder)
    x = torch.cat([image(32, 16, 48)] * sizes.get("in_channels", 1), dim=1)
    assert_same_features(backbone, theirs.encoder, x)


def test_another_size_than_the_released_one_is_said(tmp_path):
    torch.save(monai_encoder("batch").state_dict(), tmp_path / "ct_fm.pt")
    torch.save(prefixed("image_encoder.encoder.", monai_encoder("instance").state_dict()), tmp_path / "vista.pt")
    for name, release, width in (("ct_fm", "CT-FM", 32), ("vista", "VISTA3D", 48)):
        notes = " ".join(read_encoder(tmp_path / f"{name}.pt").notes)
        assert f"width 4, where the released {release} has {width}: read as it by its names" in notes
        assert f"blocks {list(BLOCKS)}, where the released {release} has [1, 2, 2, 4, 4]" in notes


def test_ct_fm_has_its_published_size():
    from medpretrain3d.backbones.checkpoints.ct_fm import CT_FM

    with torch.device("meta"):
        backbone = from_config(CT_FM.architecture)
        monais = SegResEncoder(3, 32, 1, blocks_down=(1, 2, 2, 4, 4))
    assert backbone.num_parameters() == sum(value.numel() for value in monais.parameters()) == 77_760_992
    assert len(backbone.state_dict()) == len(monais.state_dict()) == 161


def test_vista3d_sees_turned_volumes_at_odd_sizes_as_monais_did(tmp_path):
    theirs = monai_encoder("instance")
    weights = prefixed("image_encoder.encoder.", theirs.state_dict())
    weights |= {"image_encoder.up_layers.0.weight": torch.zeros(2), "point_head.mlps.weight": torch.zeros(2)}
    torch.save(weights, tmp_path / "model.pt")
    encoder = read_encoder(tmp_path / "model.pt")
    assert (encoder.format, encoder.card["preprocessing"]["orientation"]) == ("VISTA3D checkpoint", "RAS")
    assert encoder.unused == {"image_encoder": 1, "point_head": 1}
    assert any("(of P, L)" in note for note in encoder.notes)
    backbone = from_config(encoder.architecture).eval()
    load_encoder(backbone, encoder)
    backbone.check_input = lambda image: None  # odd sizes, where strided convolutions have no side
    x, turn = image(17, 33, 49), turn_from("RAS")
    with torch.no_grad():
        for ours, b in zip(backbone(turn.volume(x)), theirs(x), strict=True):
            torch.testing.assert_close(ours, turn.volume(b), rtol=1e-4, atol=1e-5)
    asked = read_encoder(tmp_path / "model.pt", ReadOptions(orientation="SPL"))
    as_it_is = from_config(asked.architecture)
    load_encoder(as_it_is, asked)
    assert_same_features(as_it_is, theirs, image(32, 32, 48), 1e-5)  # norms over a dozen voxels amplify rounding


def test_batch_norm_of_a_file_keeps_its_statistics_in_training(tmp_path):
    torch.save(monai_encoder("batch").state_dict(), tmp_path / "ct_fm.pt")
    encoder = read_encoder(tmp_path / "ct_fm.pt")
    backbone = from_config(encoder.architecture).train()
    report = load_encoder(backbone, encoder)
    assert "batch norm keeps the file's statistics" in str(report)
    assert "hidden voxels" not in str(report)
    x = image(32, 32, 16)
    trained = backbone(x)
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    for name, buffer in backbone.named_buffers():
        assert torch.equal(buffer, encoder.weights[name])
    for a, b in zip(trained, backbone.eval()(x), strict=True):
        assert torch.equal(a, b)
    of_mae = replace(encoder, card={**encoder.card, "pretraining": {"method": "MAE"}})
    assert "warning: these statistics are of crops with hidden voxels" in str(load_encoder(backbone, of_mae))
    thawed = SegResNet(4, blocks=BLOCKS, norm="batch", freeze_statistics=False).train()
    assert "hidden voxels" not in str(load_encoder(thawed, of_mae))
    thawed(x)
    assert not torch.equal(thawed.down_layers[0][1].norm1.running_mean, backbone.down_layers[0][1].norm1.running_mean)
    scratch = SegResNet(4, blocks=BLOCKS, norm="batch").train()
    scratch(x)
    assert scratch.down_layers[0][1].norm1.num_batches_tracked == 1


def test_instance_norm_takes_scale_and_shift_of_a_batch_norm_and_warns(tmp_path):
    torch.save(monai_encoder("batch").state_dict(), tmp_path / "ct_fm.pt")
    encoder = read_encoder(tmp_path / "ct_fm.pt")
    backbone = SegResNet(4, blocks=BLOCKS, norm="instance")
    report = load_encoder(backbone, encoder)
    assert report.matched == report.total
    assert "warning: batch norm replaced" in str(report)
    assert "norm is instance, in the file batch" in str(report)


def test_a_segresnet_with_instance_norm_is_not_taken_for_ct_fm(tmp_path):
    torch.save(prefixed("encoder.", monai_encoder("instance").state_dict()), tmp_path / "auto3dseg.pt")
    encoder = read_encoder(tmp_path / "auto3dseg.pt")
    assert encoder.format == "MONAI SegResEncoder"
    assert "release" not in encoder.card
    backbone = from_config(encoder.architecture)
    assert load_encoder(backbone, encoder).matched == len(encoder.weights)


def test_group_norm_is_read_where_it_is_asked_for_and_instance_norm_is_no_fact(tmp_path, capsys):
    theirs = monai_encoder(("group", {"num_groups": 8}), width=8)
    torch.save(prefixed("encoder.", theirs.state_dict()), tmp_path / "group.pt")
    encoder = read_encoder(tmp_path / "group.pt")
    assert encoder.architecture["init_args"]["norm"] == "instance"
    assumed = "instance or group norm, no tensor tells: instance assumed; --norm group (init_options.norm)"
    assert any(note.startswith(assumed) for note in encoder.notes)
    ours = SegResNet(8, blocks=BLOCKS, norm="group")
    report = load_encoder(ours, encoder)
    assert "norm is group, and no tensor of the file tells its own (instance was assumed)" in str(report)
    assert "features differ" not in str(report)
    assert_same_features(ours, theirs, image(32, 32, 48), 1e-5)  # norms over a dozen voxels amplify rounding
    asked = read_encoder(tmp_path / "group.pt", ReadOptions(norm="group"))
    assert not any("assumed" in note for note in asked.notes)
    backbone = from_config(asked.architecture)
    assert backbone.state_dict().keys() == ours.state_dict().keys()
    assert "features" not in str(load_encoder(backbone, asked))
    assert_same_features(backbone, theirs, image(32, 32, 48), 1e-5)
    assert cli.main(["inspect", str(tmp_path / "group.pt"), "--norm", "group"]) == 0
    assert '"norm": "group"' in capsys.readouterr().out
    other = SegResNet(8, blocks=BLOCKS, norm="instance")
    assert "norm is instance, in the file group: features differ until fine-tuned" in str(load_encoder(other, asked))


def test_a_norm_that_the_file_or_its_release_tells_is_not_asked_for(tmp_path):
    torch.save(monai_encoder("batch").state_dict(), tmp_path / "ct_fm.pt")
    weights = prefixed("image_encoder.encoder.", monai_encoder("instance").state_dict())
    torch.save(weights, tmp_path / "vista3d.pt")
    for name, form in (("ct_fm.pt", "CT-FM"), ("vista3d.pt", "VISTA3D")):
        with pytest.raises(UserError, match=f"got norm group, but a {form} checkpoint leaves no such choice"):
            read_encoder(tmp_path / name, ReadOptions(norm="group"))
    torch.save(prefixed("encoder.", monai_encoder("instance").state_dict()), tmp_path / "narrow.pt")
    with pytest.raises(UserError, match=r"narrow.pt: SegResNet: got width 4, wanted a multiple of 8"):
        read_encoder(tmp_path / "narrow.pt", ReadOptions(norm="group"))


def test_a_file_without_a_stage_or_of_the_sister_class_is_refused(tmp_path):
    weights = monai_encoder("batch").state_dict()
    torch.save({name: value for name, value in weights.items() if "layers.2." not in name}, tmp_path / "gap.pt")
    with pytest.raises(UserError, match="without a gap"):
        read_encoder(tmp_path / "gap.pt")
    torch.save({name: value for name, value in weights.items() if "norm2.bias" not in name}, tmp_path / "less.pt")
    with pytest.raises(UserError, match="7 tensors missing"):
        read_encoder(tmp_path / "less.pt")
    torch.save(weights, tmp_path / "whole.pt")
    with pytest.raises(UserError, match="encoder of another architecture"):
        load_encoder(SegResNet(8), read_encoder(tmp_path / "whole.pt"))
    with pytest.raises(UserError, match="wanted three letters"):
        read_encoder(tmp_path / "whole.pt", ReadOptions(orientation="left"))

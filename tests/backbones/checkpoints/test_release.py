"""What is known of published weights beyond their tensors is said, and goes where they go."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from jsonargparse import Namespace

from finetune import preprocessing
from finetune.preprocessing import compare_spacing
from medpretrain3d import cli
from medpretrain3d.backbones import (
    Backbone,
    EncoderFile,
    ReadOptions,
    ResEnc,
    encoder_entry,
    provenance_of,
    read_encoder,
    save_encoder,
)
from medpretrain3d.backbones.checkpoints import RELEASES
from medpretrain3d.backbones.checkpoints.model_card import model_card
from medpretrain3d.backbones.checkpoints.release import restrictions
from medpretrain3d.configurable import from_config, to_config
from medpretrain3d.detection import FCOS
from medpretrain3d.errors import UserError
from medpretrain3d.inference import InferenceConfig, save_bundle, save_ensemble
from medpretrain3d.inference.rescorer import Rescorer
from medpretrain3d.inference.rescorer_file import save_rescorer
from medpretrain3d.store import Normalization, Preprocessing
from medpretrain3d.store.intensity import PerUnit, Window, ZScore
from pretrain import preprocessing as continued
from tests.backbones.checkpoints.dino_reference import PROJECTS, file_of

FORBIDDEN = "must not be shared"


@pytest.fixture
def three_dino(tmp_path):
    torch.save(file_of(PROJECTS["3DINO"]), tmp_path / "3dino_vit_weights.pth")
    return tmp_path / "3dino_vit_weights.pth"


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_a_release_describes_a_network_and_a_window_that_can_be_built(release):
    with torch.device("meta"):
        backbone = from_config(release.architecture, Backbone)
    assert backbone.levels
    assert release.window is None or isinstance(from_config(release.window), Normalization)
    assert release.spacing_mm is None or len(release.spacing_mm) == 3
    assert release.code_licence
    assert release.weights_licence
    # Nobody knows of all scans of a corpus that they are in no data set of detection.
    assert not release.overlap.lower().startswith("none")
    # A licence that forbids something says what.
    if "NC" in release.weights_licence or "ND" in release.weights_licence.split():
        assert release.restriction


def test_inspect_names_family_frame_window_and_what_the_licences_forbid(three_dino, capsys):
    assert cli.main(["inspect", str(three_dino)]) == 0
    said = capsys.readouterr().out
    assert 'release: "3DINO: ViT-L' in said
    assert '"orientation": "RAS"' in said
    assert "PercentileWindow" in said
    assert 'licence: "CC BY-NC-ND 4.0"' in said
    assert 'licence of the code: "CC BY-NC-ND 4.0"' in said
    assert FORBIDDEN in said


def test_inspect_takes_an_orientation_and_refuses_one_that_is_not_heeded(three_dino, tmp_path, capsys):
    assert cli.main(["inspect", str(three_dino), "--orientation", "LPS"]) == 0
    assert '"orientation": "LPS"' in capsys.readouterr().out
    assert cli.main(["inspect", str(three_dino), "--orientation", "up"]) == 2
    assert "wanted three letters" in capsys.readouterr().err
    from medpretrain3d.backbones import GenesisUNet

    torch.save({"state_dict": GenesisUNet(width=8).state_dict()}, tmp_path / "genesis.pt")
    with pytest.raises(UserError, match="got orientation LPS, but a Models Genesis checkpoint leaves no such"):
        read_encoder(tmp_path / "genesis.pt", ReadOptions(orientation="LPS"))


def test_read_options_that_nothing_heeds_are_refused_whatever_the_file(tmp_path, nnssl_checkpoints):
    save_encoder(tmp_path / "ours", ResEnc("XXS"), {})
    detector = FCOS(ResEnc("XXS"), num_classes=1, fpn_channels=16, head_convs=1)
    save_bundle(tmp_path / "bundle", detector, ["a"], Preprocessing(patch=(16, 16, 16)), InferenceConfig(), {})
    of_run = {"pytorch-lightning_version": "2", "global_step": 1, "state_dict": {}}
    of_run |= encoder_entry(ResEnc("XXS"), "objective", {"pretraining": {}})
    weights = ResEnc("XXS").state_dict()
    of_run["state_dict"] = {f"objective.backbone.{name}": value for name, value in weights.items()}
    torch.save(of_run, tmp_path / "last.ckpt")
    conv, primus = nnssl_checkpoints / "resenc_mae", nnssl_checkpoints / "primus_evamae"
    every = {"stem": "no_such", "token_order": "whd", "orientation": "RAS"}
    for path, known, refused in (
        (tmp_path / "ours", {}, every),
        (tmp_path / "bundle", {}, every),
        (tmp_path / "last.ckpt", {}, every),
        (conv, {}, {"token_order": "whd", "orientation": "RAS"}),
        (nnssl_checkpoints / "resenc_multistem", {"stem": "004"}, {"token_order": "whd", "orientation": "RAS"}),
        (primus, {"token_order": "whd"}, {"stem": "no_such", "orientation": "RAS"}),
    ):
        read_encoder(path, ReadOptions(**known))
        for name, value in refused.items():
            with pytest.raises(UserError, match=f"got {name} {value}, "):
                read_encoder(path, ReadOptions(**{**known, name: value}))
    message = "ours: got stem no_such and orientation RAS, but a medpretrain3d encoder file leaves no such choice "
    with pytest.raises(UserError, match=message):
        read_encoder(tmp_path / "ours", ReadOptions(stem="no_such", orientation="RAS"))


def test_what_a_licence_forbids_goes_into_cards_of_what_is_made_of_the_weights(three_dino, tmp_path, capsys):
    released = read_encoder(three_dino)
    backbone = from_config(released.architecture)
    save_encoder(tmp_path / "encoder", backbone, {"continued_from": provenance_of(released), "licence": "MIT"})
    ours = read_encoder(tmp_path / "encoder")
    assert FORBIDDEN in restrictions(ours.card)[0]
    assert FORBIDDEN in model_card(ours, "ours")
    assert FORBIDDEN in restrictions({"continued_from": provenance_of(ours)})[0]  # and of what is made of that
    assert cli.main(["inspect", str(tmp_path / "encoder")]) == 0
    assert f"the licence forbids: {restrictions(ours.card)[0]}" in capsys.readouterr().out


def test_what_a_licence_forbids_is_said_of_ensembles_second_stages_and_exported_networks(tmp_path, capsys):
    begun_from = {name: {"encoder": {"licence": "cc-by-nc-4.0", "restriction": f"{name} is not sold"}} for name in "ab"}
    save_rescorer(tmp_path / "second", Rescorer(ResEnc("XXS"), 1, (8.0,), 16), begun_from["b"])
    detector = FCOS(ResEnc("XXS"), num_classes=1, fpn_channels=16, head_convs=1)
    how = Preprocessing(patch=(16, 16, 16)), InferenceConfig()
    save_bundle(tmp_path / "fold_0", detector, ["a"], *how, begun_from["a"])
    save_ensemble(tmp_path / "all", {"0": tmp_path / "fold_0"}, how[1], rescorers={"0": tmp_path / "second"})
    for place in ("all", "all/0"):
        assert cli.main(["inspect", str(tmp_path / place)]) == 0
        printed = capsys.readouterr().out
        assert "the licence forbids: a is not sold" in printed
        assert "the licence forbids: b is not sold" in printed
    assert (
        cli.main(["export-detector", str(tmp_path / "fold_0"), "-o", str(tmp_path / "out"), "--format", "torch"]) == 0
    )
    assert "the licence forbids: a is not sold" in capsys.readouterr().out
    about = json.loads((tmp_path / "out" / "export.json").read_text(encoding="utf-8"))
    assert about["encoder"] == begun_from["a"]["encoder"]


@pytest.mark.parametrize(
    ("ours", "is_warned", "said"),
    [((2.0, 2.0, 2.0), False, ""), ((3.0, 2.0, 2.0), False, "note: "), ((2.0, 2.0, 1.0), True, ""), (None, True, "")],
)
def test_a_spacing_that_differs_by_more_than_half_is_warned_about(ours, is_warned, said):
    printed, warned = [], []
    compare_spacing(ours, (2.0, 2.0, 2.0), printed.append, warned.append)
    assert [one.startswith("spacing_mm of the encoder") for one in warned] == [True] * is_warned
    assert [one.startswith(said) for one in printed] == [True] * bool(said)


def test_the_preprocessing_of_a_release_becomes_the_default_of_the_data(monkeypatch):
    release = next(release for release in RELEASES if release.name == "FlexiCT-3D")
    raw = SimpleNamespace(licence=None)
    encoder = EncoderFile(release.architecture, {}, release.card(raw), "0" * 64)
    monkeypatch.setattr(preprocessing, "read_encoder", lambda source, options: encoder)
    monkeypatch.setattr(preprocessing, "Store", lambda path: SimpleNamespace(unit="hu"))
    data = Namespace(store="s", window=None, pretrained_spacing_mm=None)
    config = Namespace(model=Namespace(init_from="x", init_options=ReadOptions()), data=data)
    said, warned = [], []
    preprocessing.follow_pretraining(config, said.append, warned.append)
    assert config.data.window.class_path.endswith("ClippedZScore")
    assert config.data.pretrained_spacing_mm == [2.0, 2.0, 2.0]
    assert said == [
        "spacing of the encoder's pretraining: [2.0, 2.0, 2.0] mm",
        "window of the encoder's pretraining: ClippedZScore(low_hu=-1000, high_hu=1000)",
    ]
    assert warned == []


def told(encoder: EncoderFile, window: Normalization, units=("hu",), spacing_mm=(3.0, 1.0, 1.0)) -> list[str]:
    """What pretraining that goes on from an encoder is warned of."""
    warned: list[str] = []
    continued.compare_preprocessing(encoder, "theirs.pt", window, units, spacing_mm, warned.append)
    return warned


@pytest.mark.parametrize("window", [PerUnit(), Window(-900, 500)])
def test_pretraining_that_goes_on_says_that_it_shows_other_intensities(window):
    release = next(release for release in RELEASES if release.name == "CT-FM")
    encoder = EncoderFile(release.architecture, {}, release.card(SimpleNamespace(licence=None)), "0" * 64)
    (warned,) = told(encoder, window)
    assert "trained on scans in HU mapped by Window(low_hu=-1024, high_hu=2048, output_range=(0.0, 1.0))" in warned
    theirs = from_config(release.window)
    assert told(encoder, theirs) == []
    assert told(encoder, PerUnit(hu=theirs), ("hu", "any")) == []  # what it knows nothing of is not compared
    assert told(encoder, window, ("any",)) == []  # no scan is in HU


@pytest.mark.parametrize("units", [("any",), ("any", "any")])
def test_so_it_does_of_scans_without_unit(units):
    how = {"window": to_config(ZScore("all")), "unit": "any"}
    encoder = EncoderFile(to_config(ResEnc("XXS")), {}, {"preprocessing": how}, "0" * 64)
    (warned,) = told(encoder, PerUnit(), units)
    assert "trained on scans without unit mapped by ZScore(voxels=all), this run maps them by ZScore(" in warned
    assert told(encoder, ZScore("all"), units) == []
    assert told(encoder, PerUnit(), ("hu",)) == []


def test_it_says_that_scans_are_of_another_spacing_or_normalized_in_another_way():
    card = {"preprocessing": {"spacing_mm": [1.0, 1.0, 1.0], "normalisation": ["CTNormalization"]}}
    encoder = EncoderFile(to_config(ResEnc("XXS")), {}, card, "0" * 64)
    normalized, spaced = told(encoder, Window())
    assert "normalised by ['CTNormalization'], and no window can be taken" in normalized
    assert "at a spacing of [1.0, 1.0, 1.0] mm, the stores are at [3.0, 1.0, 1.0]" in spaced
    assert "--spacing-mm 1.0 1.0 1.0" in spaced
    assert len(told(encoder, Window(), spacing_mm=(1.4, 1.0, 1.0))) == 1
    assert "the stores are at None" in told(encoder, Window(), spacing_mm=None)[1]

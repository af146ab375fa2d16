from __future__ import annotations

import json

import pytest

from medpretrain3d.backbones import ResEnc, VolumesSeen, read_encoder, save_encoder
from medpretrain3d.errors import UserError


def test_what_was_seen_is_kept_in_eight_bytes_each_and_found_again():
    plain = VolumesSeen.of_training([f"{number:032x}" for number in range(100)], with_labels=False)
    labeled = VolumesSeen.of_training([f"{number:032x}" for number in range(90, 110)], with_labels=True)
    document = json.loads(json.dumps((plain | labeled).to_json()))
    assert document["num_volumes"] == 110
    assert len(document["without_labels"]) == 4 * -(-8 * 100 // 3)  # base64 of 8 bytes each
    seen = VolumesSeen.from_json(document)
    cases = {"old": f"{5:032x}", "both": f"{95:032x}", "labelled": f"{105:032x}", "new": f"{500:032x}"}
    assert seen.among(cases) == ["old", "both", "labelled"]
    assert seen.among(cases, with_labels=True) == ["both", "labelled"]
    assert (seen | VolumesSeen()) == seen


def test_random_weights_saw_nothing_and_foreign_ones_nobody_knows_what(tmp_path):
    assert VolumesSeen.of_encoder(None) == VolumesSeen()
    save_encoder(tmp_path / "older", ResEnc("XXS"), {})
    older = VolumesSeen.of_encoder(read_encoder(tmp_path / "older"))
    assert len(older) == 0
    assert older.unknown[0].startswith("medpretrain3d encoder file ")
    grown = older | VolumesSeen.of_training(["00"], with_labels=False)
    save_encoder(tmp_path / "grown", ResEnc("XXS"), {"volumes_seen": grown.to_json()})
    assert VolumesSeen.of_encoder(read_encoder(tmp_path / "grown")) == grown


@pytest.mark.parametrize("text", ["AAAA", "not base64!", 5, None])
def test_a_damaged_list_is_an_error(text):
    document = VolumesSeen.of_training(["00"], with_labels=False).to_json()
    with pytest.raises(UserError, match="list of scans seen in training is damaged"):
        VolumesSeen.from_json({**document, "with_labels": text})

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
import yaml

from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.markdown import identifier, plain
from medpretrain3d.backbones.checkpoints.model_card import model_card
from medpretrain3d.backbones.checkpoints.publishing import without_places
from medpretrain3d.backbones.checkpoints.volumes_seen import VolumesSeen

CONFIG = """
seed_everything: 3
run: {root: /home/jane doe/runs, name: a, group: g}
data: {store: [../jane/stores/ct, ~jane/mr], window: {class_path: medpretrain3d.store.intensity.Window}}
model: {init_from: 'C:\\Users\\jane\\encoder', lr: 1.0e-4, cite: 'https://doi.org/10.1/jane'}
"""


def test_of_paths_the_last_name_is_left_and_nothing_else_changes():
    card = {
        "config": CONFIG,
        "corpus": "openkbp+ct",
        "run": "g/a",
        "note": "read from /scratch/jane/x.pth (see https://a.org/b/c), 3 mm/voxel, and/or ~/jane/y",
        "nested": [{"file": "/home/jane doe/x y.nii"}, 1.5, None],
    }
    clean = without_places(card)
    assert yaml.safe_load(clean["config"]) == {
        "seed_everything": 3,
        "run": {"root": "runs", "name": "a", "group": "g"},
        "data": {"store": ["ct", "mr"], "window": {"class_path": "medpretrain3d.store.intensity.Window"}},
        "model": {"init_from": "encoder", "lr": 1e-4, "cite": "https://doi.org/10.1/jane"},
    }
    assert clean["note"] == "read from x.pth (see https://a.org/b/c), 3 mm/voxel, and/or y"
    assert (clean["corpus"], clean["run"]) == ("openkbp+ct", "g/a")
    assert clean["nested"] == [{"file": "x y.nii"}, 1.5, None]


def test_hashes_of_scans_are_kept_whole_whatever_slashes_are_in_them():
    seen = VolumesSeen.of_training(map(str, range(3000)), with_labels=False)
    seen |= VolumesSeen(unknown=("weights of /home/jane/x.pth",))
    assert "+/" in seen.to_json()["without_labels"]  # looks as if a path began there
    clean = without_places({"volumes_seen": seen.to_json()})
    assert VolumesSeen.from_json(clean["volumes_seen"]) == replace(seen, unknown=("weights of x.pth",))


HOSTILE = [
    "<script>alert(1)</script>",
    "x\n\n# Heading\n\ny",
    "x\n---\nlicense: mit",
    "[a](javascript:alert(1))",
    "![a](http://b.c/d.png)",
    "`code` **bold** ~~gone~~ | cell",
    "# heading",
    "1. list",
    "&lt;b&gt;",
    '"quoted": {yaml: [1]}',
    "\x1b[2Jgone",
    "```\n<img src=x>",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_of_strangers_stay_texts_in_the_model_card(text):
    card = {
        "licence": text,
        "citations": [text],
        "pretraining": {"corpus": text, text: text, "classes": [text]},
        "preprocessing": {"window": {text: text}},
        "continued_from": {"licence": text, "citations": [text]},
    }
    encoder = EncoderFile(
        {"class_path": "medpretrain3d.backbones.ResEnc", "init_args": {"preset": text}},
        {"a": torch.zeros(2)},
        card,
        "0" * 64,
        text,
        notes=(text,),
    )
    page = model_card(encoder, text)
    head, body = page.split("\n---\n", 1)
    assert list(yaml.safe_load(head.removeprefix("---\n"))) == ["license", "tags"]
    assert "<" not in body
    assert "\x1b" not in page
    assert not re.search(r"(?<!\\)\[[^\]]*(?<!\\)\]\(", body)
    wanted = ["Architecture", "Data", "Preprocessing", "Recipe", "Origin", "Licence"]
    wanted += ["Results", "Notes", "Citations", "Use"]
    headings = [line for line in body.splitlines() if re.match(r" {0,3}(#|=+$|-+$)", line)]
    assert headings[0].startswith("# ")
    assert headings[1:] == [f"## {name}" for name in wanted]


def test_plain_words_stay_as_they_are():
    for text in ("cc-by-4.0", "openkbp_phantom", "Isensee et al., 2024: nnU-Net (1.5 mm), 3-5%", "10 cases"):
        assert plain(text) == text
    assert identifier("cc-by-4.0") == "cc-by-4.0"
    assert identifier("1.0") == '"1.0"'

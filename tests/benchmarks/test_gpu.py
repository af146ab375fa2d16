from __future__ import annotations

import time

import pytest
import torch

from benchmarks.gpu.__main__ import SHARES, main
from benchmarks.gpu.recipes import BATCHES, PUBLISHED, Recipe, loss_of
from benchmarks.gpu.session import Session, Skipped
from medpretrain3d.backbones import SwinUNETR, TokenBackbone
from medpretrain3d.command_line.recipes import recipe_names
from medpretrain3d.configurable import to_config
from tests.tiny import tiny_backbone

PATCHES = {"ResEnc": [32, 32, 16], "ViT": [16, 16, 16], "SwinUNETR": [64, 64, 32]}


@pytest.mark.slow
def test_at_toy_size_on_a_cpu_every_section_is_in_the_table(tmp_path, capsys):
    path = tmp_path / "deep" / "gpu.md"
    code = main(["--device", "cpu", "--toy", "--out", str(path)])
    text = path.read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert rows[0] == ["section", "work", "setting", "result", "note"]
    assert code == 0, text
    assert {row[0] for row in rows[2:]} == {*SHARES, "kernels"}
    assert all(len(row) == 5 for row in rows)
    by_setting = {(row[0], row[2]): row for row in rows}
    assert by_setting["agreement", "TF32"][3:] == ["skipped", "a CPU has no TF32"]
    assert by_setting["agreement", "bf16 AMP"][3].startswith("agrees")
    assert "samples/s" in by_setting["stages", "DDP, 2 processes by torchrun"][3]
    assert "tiles/s" in by_setting["predict", "2 tiles at a time"][3]
    assert "At toy size" in text
    assert text.splitlines()[-1] in capsys.readouterr().out


def test_there_is_no_gpu_here_and_that_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for words, message in (([], "no GPU that torch can use"), (["speed", "--device", "cpu"], "no section 'speed'")):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--out", str(tmp_path / "gpu.md")])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_row_says_why_it_holds_no_number(tmp_path):
    def row(error, left_s=60.0):
        def measure():
            raise error

        session = Session(torch.device("cpu"), True, time.monotonic() + left_s, tmp_path)
        return session.row("section", "work", "setting", measure)

    assert str(row(Skipped("no such | thing"))) == "| section | work | setting | skipped | no such / thing |"
    assert row(torch.OutOfMemoryError("CUDA out of memory")).note == "out of memory"
    assert "the time is used up" in row(ValueError(), left_s=-1).note
    failed = row(ValueError("a bug"))
    assert (failed.result, failed.note, failed.is_failure) == ("failed", "ValueError: a bug", True)
    session = Session(torch.device("cpu"), True, time.monotonic() + 60, tmp_path)
    assert session.row("section", "work", "setting", lambda: ("DIFFERS: by 3", "")).is_failure


def test_every_recipe_of_large_networks_is_measured():
    known = {f"pretrain/{name}" for name in recipe_names("pretrain")}
    small = ("openkbp", "phantom", "demo", "smoke", "evidence", "sts_")
    for_cpus = {name for name in known if any(word in name for word in small)}
    assert known - for_cpus == {name for name in PUBLISHED if name.startswith("pretrain/")}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_trains_on_its_synthetic_batch(name):
    """With a small network in place of its own, and small crops."""
    recipe = Recipe.read(name)
    part = recipe.document["model"].get("detector") or recipe.document["model"]["objective"]
    part = part["init_args"].get("detector", part)  # that an objective pretrains
    with torch.device("meta"):
        backbone = recipe.model().backbone
    kind = (
        "SwinUNETR" if isinstance(backbone, SwinUNETR) else "ViT" if isinstance(backbone, TokenBackbone) else "ResEnc"
    )
    part["init_args"]["backbone"] = to_config(tiny_backbone(kind))
    if "anchors" in part["init_args"]:
        part["init_args"]["anchors"]["init_args"]["sizes"] = [[[4, 4, 4]], [[8, 8, 8]]]
        part["init_args"]["fpn_channels"] = 8
    recipe.document["data"]["patch"] = PATCHES[kind]
    model = recipe.model().train()
    batch = recipe.batch(torch.device("cpu"), torch.contiguous_format)
    loss = loss_of(model, batch)
    assert torch.isfinite(loss)
    loss.backward()
    optimizer = recipe.optimizer(model)
    optimizer.step()


def test_every_kind_of_batch_has_the_size_that_is_asked_for():
    for make in BATCHES.values():
        batch = make((4, 6, 8), 3)
        assert len(batch["seed"]) == 3
        assert next(value for value in batch.values() if value.dim() > 4).shape[-3:] == (4, 6, 8)

from __future__ import annotations

import pickle

import pytest
import torch

from medpretrain3d.backbones import ResEnc, read_encoder, save_encoder
from medpretrain3d.backbones.checkpoints import hub
from medpretrain3d.backbones.checkpoints.source import locate
from medpretrain3d.errors import UserError


class Evil:
    def __reduce__(self):
        return (print, ("code of the file ran",))


def test_a_file_that_needs_code_is_refused_with_the_reason(tmp_path, capsys):
    path = tmp_path / "evil.pth"
    torch.save({"network_weights": {"a": torch.ones(1)}, "extra": Evil()}, path)
    with pytest.raises(UserError, match=r"refused, because it holds more.*\((builtins\.)?print\)"):
        read_encoder(path)
    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(UserError, match=r"refused|not readable"):
        read_encoder(path)
    assert "code of the file ran" not in capsys.readouterr().out


def test_damaged_and_unknown_files_are_named(tmp_path):
    path = tmp_path / "broken.pth"
    path.write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="not readable as a PyTorch checkpoint"):
        read_encoder(path)
    torch.save({"state_dict": {"layer.weight": torch.ones(2)}}, path)
    with pytest.raises(UserError, match=r"of no known format: holds 1 tensors \(layer\.weight"):
        read_encoder(path)
    torch.save([torch.ones(2)], path)
    with pytest.raises(UserError, match="holds a list, wanted a dictionary"):
        read_encoder(path)
    (tmp_path / "x.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(UserError, match="not a safetensors file"):
        read_encoder(tmp_path / "x.safetensors")


def test_the_file_that_is_meant_is_found(tmp_path):
    final, best = tmp_path / "checkpoint_final.pth", tmp_path / "checkpoint_best.pth"
    for path in (final, best):
        path.touch()
    assert locate(tmp_path) == final
    final.rename(tmp_path / "a.pth")
    assert locate(tmp_path) == best
    best.rename(tmp_path / "b.pth")
    with pytest.raises(UserError, match=r"2 checkpoints \(a\.pth, b\.pth\); name one"):
        locate(tmp_path)
    nested = tmp_path / "outer" / "fold_0"
    nested.mkdir(parents=True)
    (nested / "only.pt").touch()
    assert locate(tmp_path / "outer") == nested / "only.pt"
    save_encoder(tmp_path / "encoder", ResEnc("XXS"), {})
    for name in ("", "encoder.json", "encoder.safetensors"):
        assert locate(tmp_path / "encoder" / name) == tmp_path / "encoder"
    assert locate(tmp_path) == tmp_path / "encoder"  # the folder of a run


def test_offline_a_hub_id_says_what_to_download_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub

    def unreachable(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "list_repo_files", unreachable)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(UserError, match=r"download 'checkpoint_final\.pth'.*repository someone/resenc") as caught:
        read_encoder("someone/resenc")
    assert str(tmp_path / "pretrained" / "someone" / "resenc") in str(caught.value)
    save_encoder(tmp_path / "pretrained" / "someone" / "resenc", ResEnc("XXS"), {})
    assert read_encoder("someone/resenc").architecture["init_args"]["preset"] == "XXS"


def test_a_misspelt_path_is_not_taken_for_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for source in ("runs/mae", "nowhere/mae/encoder", "mae", "/nowhere/mae"):
        with pytest.raises(UserError, match="no such file or folder, and not of the form owner/name"):
            read_encoder(source)


def test_online_the_checkpoint_and_the_texts_beside_it_are_fetched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    import huggingface_hub

    asked = {}

    def download(repo, allow_patterns):
        asked.update(repo=repo, patterns=allow_patterns)
        return str(tmp_path)

    files = ["README.md", "fold_all/adaptation_plan.json", "fold_all/checkpoint_final.pth"]
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repo: files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub.fetch("someone/resenc") == tmp_path / "fold_all" / "checkpoint_final.pth"
    assert asked == {
        "repo": "someone/resenc",
        "patterns": ["fold_all/checkpoint_final.pth", "fold_all/*.json", "fold_all/*.md"],
    }
    files.append("fold_all/other.pth")
    with pytest.raises(UserError, match="holds 2 checkpoints"):
        hub.fetch("someone/resenc")

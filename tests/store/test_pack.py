"""Stores converted to containers and back."""

from __future__ import annotations

import json

import pytest

from medpretrain3d.cli import main
from medpretrain3d.ingest.prepare import prepare
from medpretrain3d.store.layout import ContainerLayout
from medpretrain3d.store.pack import pack
from medpretrain3d.store.store import Store


def content_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def store(make_dataset, tmp_path):
    raw = make_dataset(["a", "b", "c"])
    (raw / "imagesTr" / "void.nii.gz").write_bytes(b"")
    prepare(raw, tmp_path / "store")
    return tmp_path / "store"


def test_packed_and_unpacked_a_store_is_what_it_was(store, tmp_path, capsys):
    packed, back = tmp_path / "packed", tmp_path / "back"
    assert main(["pack", str(store), str(packed)]) == 0
    assert "3 cases in 1 files" in capsys.readouterr().out
    assert sorted(path.name for path in packed.iterdir() if path.is_dir()) == ["containers", "skipped"]
    one, other = Store(store), Store(packed)
    assert (one.fingerprint, one.splits, one.case_ids) == (other.fingerprint, other.splits, other.case_ids)
    assert main(["pack", str(packed), str(back), "--folders"]) == 0
    assert content_of(back) == content_of(store)


def test_a_killed_call_goes_on(store, tmp_path, capsys):
    assert main(["pack", str(store), str(tmp_path / "whole")]) == 0
    killed = tmp_path / "killed"
    layout = ContainerLayout(killed)
    case = Store(store).case("a")
    layout.write("a", {name: case.files.named(name).read() for name in ("image.b2nd", "mask.b2nd", "case.json")})
    layout.close()
    with (killed / "containers/1-of-1-00000.tar").open("ab") as file:
        file.write(b"half of what comes next")
    capsys.readouterr()
    assert main(["pack", str(store), str(killed)]) == 0
    assert "3 cases in 1 files, 1 of them were there" in capsys.readouterr().out
    assert content_of(killed) == content_of(tmp_path / "whole")


def test_packed_again_what_was_replaced_is_left_out(store, tmp_path):
    packed, again = tmp_path / "packed", tmp_path / "again"
    assert main(["pack", str(store), str(packed)]) == 0
    first = content_of(packed)
    case = Store(store).case("a")
    layout = ContainerLayout(packed)
    layout.write("a", {name: case.files.named(name).read() for name in ("image.b2nd", "mask.b2nd", "case.json")})
    layout.close()
    assert content_of(packed) != first
    assert main(["pack", str(packed), str(again)]) == 0
    assert content_of(again) == first


def test_packed_again_notes_on_cases_are_those_of_the_store(make_dataset, tmp_path):
    raw = make_dataset(["a", "b"])
    whole = (raw / "imagesTr/b_0000.nii.gz").read_bytes()
    (raw / "imagesTr/b_0000.nii.gz").write_bytes(b"")
    prepare(raw, tmp_path / "store")
    pack(tmp_path / "store", tmp_path / "packed")
    assert (tmp_path / "packed/skipped/b.json").is_file()
    (raw / "imagesTr/b_0000.nii.gz").write_bytes(whole)
    prepare(raw, tmp_path / "store")
    pack(tmp_path / "store", tmp_path / "packed")
    assert not (tmp_path / "packed/skipped/b.json").exists()
    assert prepare(raw, tmp_path / "packed").reused == 2


def test_damage_is_found_and_other_folders_are_left_alone(store, tmp_path, capsys):
    image = store / "cases/b/image.b2nd"
    valid = image.read_bytes()
    damaged = bytearray(valid)
    damaged[len(valid) // 2] ^= 1
    image.write_bytes(damaged)
    assert main(["pack", str(store), str(tmp_path / "packed")]) == 2
    assert "b: " in (error := capsys.readouterr().err)
    assert "is damaged (checksum of chunk" in error
    image.write_bytes(valid)
    assert main(["pack", str(store), str(tmp_path / "packed")]) == 0
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("x")
    for place in (other, store, tmp_path / "packed" / "containers"):
        before = content_of(place)
        assert main(["pack", str(store), str(place)]) == 2
        assert content_of(place) == before
    index = json.loads((tmp_path / "packed/store.json").read_text())
    assert index["containers"] == ["1-of-1-00000.tar"]

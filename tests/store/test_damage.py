"""A store whose files are not what was written heals when it is prepared again."""

from __future__ import annotations

import json
import os
import shutil
import time

import numpy as np
import pytest

from medpretrain3d.cli import main
from medpretrain3d.errors import UserError
from medpretrain3d.ingest.prepare import prepare
from medpretrain3d.store.case import Case
from medpretrain3d.store.damage import check_store
from medpretrain3d.store.store import Store


def content_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def empty(path):
    path.write_bytes(b"")


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def missing(path):
    path.unlink()


def edited(path):
    document = json.loads(path.read_text())
    document["instances"][0]["label"] = 1
    path.write_text(json.dumps(document))


DAMAGES = [(name, change) for name in ("image.b2nd", "mask.b2nd") for change in (empty, half, flipped, missing)]
DAMAGES += [("case.json", change) for change in (empty, half, edited, missing)]


@pytest.fixture
def prepared(make_dataset, tmp_path):
    raw, store = make_dataset(["a", "b"]), tmp_path / "store"
    prepare(raw, store)
    return raw, store


@pytest.mark.parametrize(("name", "change"), DAMAGES, ids=[f"{name}-{change.__name__}" for name, change in DAMAGES])
def test_a_damaged_case_is_made_again_and_that_is_said(prepared, name, change, capsys):
    raw, store = prepared
    before = content_of(store)
    change(store / "cases/a" / name)
    assert main(["prepare", str(store), "--check"]) == 1
    assert "damaged a: " in capsys.readouterr().err
    assert main(["prepare", str(raw), str(store)]) == 0
    told = capsys.readouterr().out
    assert "made again: a (1): was damaged: " in told
    assert "1 prepared, 1 reused, 0 skipped" in told
    assert content_of(store) == before
    assert main(["prepare", str(store), "--check"]) == 0
    assert "2 cases, all as they were written" in capsys.readouterr().out


def test_a_bit_that_changed_is_found_though_the_time_of_the_file_was_set_back(prepared):
    raw, store = prepared
    path = store / "cases/a/image.b2nd"
    status = path.stat()
    flipped(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert list(prepare(raw, store).again) == ["a"]


def test_files_that_were_found_whole_are_not_read_again(prepared, monkeypatch):
    raw, store = prepared
    time.sleep(0.05)  # longer than the steps in which file systems count
    for path in store.glob("cases/*/image.b2nd"):
        os.utime(path)  # as a copy may leave them
    verified = []
    monkeypatch.setattr("medpretrain3d.store.damage.Case.verify", lambda case: verified.append(case.id))
    for _ in range(2):
        assert prepare(raw, store).reused == 2
    assert verified == ["a", "b"]


def test_a_store_without_its_splits_trains_on_nothing(prepared, capsys):
    raw, store = prepared
    (store / "splits.json").unlink()
    assert main(["prepare", str(store), "--check"]) == 1
    assert "splits.json: is missing, so test cases would be trained on" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"splits\.json: is missing"):
        Store(store)
    assert main(["prepare", str(raw), str(store)]) == 0
    assert "splits.json was missing; folds and label order that it may have held are gone" in capsys.readouterr().out
    assert Store(store).splits


def test_a_bit_that_changed_behind_the_back_of_the_file_system_is_found_by_checksums(prepared):
    raw, store = prepared
    flipped(store / "cases/a/image.b2nd")
    (store / "cases/a/case.json").touch()
    assert prepare(raw, store).reused == 2  # sizes and times say nothing
    assert [one.case for one in check_store(store)] == ["a"]
    summary = prepare(raw, store, check=True)
    assert (summary.prepared, summary.reused, list(summary.again)) == (1, 1, ["a"])
    assert not check_store(store)


def test_a_copied_store_is_read_once_more_and_kept(prepared, tmp_path):
    raw, store = prepared
    copy = shutil.copytree(store, tmp_path / "copy", copy_function=shutil.copyfile)
    for path in copy.rglob("image.b2nd"):
        os.utime(path)  # now, after the sidecar
    assert prepare(raw, copy).reused == 2


def test_a_store_of_an_earlier_version_without_these_numbers_is_read(prepared):
    raw, store = prepared
    path = store / "cases/a/case.json"
    sidecar = json.loads(path.read_text())
    del sidecar["checksum"], sidecar["file_bytes"]
    path.write_text(json.dumps(sidecar))
    assert prepare(raw, store).reused == 2
    half(store / "cases/a/image.b2nd")
    assert list(prepare(raw, store).again) == ["a"]


@pytest.mark.parametrize("change", [empty, half, missing])
def test_a_damaged_index_is_named_and_made_again(prepared, change, capsys):
    raw, store = prepared
    before = content_of(store)
    change(store / "store.json")
    assert main(["prepare", str(store), "--check"]) == 1
    assert "store" in capsys.readouterr().err
    assert main(["prepare", str(raw), str(store)]) == 0
    assert "0 prepared, 2 reused" in capsys.readouterr().out
    assert content_of(store) == before


def test_a_case_that_went_missing_or_is_not_the_one_of_the_index_is_named(prepared, make_dataset, tmp_path):
    _, store = prepared
    shutil.rmtree(store / "cases/b")
    assert [(one.case, "case.json is missing" in one.reason) for one in check_store(store)] == [("b", True)]
    other = make_dataset(["b"], root=tmp_path / "other")
    prepare(other, tmp_path / "others")
    sidecar = tmp_path / "others/cases/b"
    shutil.copytree(sidecar, store / "cases/b")
    assert [one.reason for one in check_store(store)] == ["is not the case that the index knows"]


def test_raw_files_that_changed_are_read_again_and_that_is_said(prepared, capsys, write_nifti):
    raw, store = prepared
    old = Case.open(store / "cases/a").sidecar["sha256"]
    write_nifti(
        np.full((12, 10, 8), 50, np.int16) + 9 * np.arange(8, dtype=np.int16), "imagesTr/a_0000.nii.gz", folder=raw
    )
    assert main(["prepare", str(raw), str(store)]) == 0
    assert "made again: a (1): its raw files changed" in capsys.readouterr().out
    assert Store(store).case("a").sidecar["sha256"] != old
    assert main(["prepare", str(raw), str(store), "--min-voxels", "9"]) == 0
    assert "made again: a, b (2): annotations or options changed" in capsys.readouterr().out


def test_check_needs_a_store_and_prepare_needs_raw_data(prepared, tmp_path, capsys):
    _, store = prepared
    assert main(["prepare", str(store)]) == 2
    assert "give the raw folders before the store, or --check" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="has no folder 'cases'"):
        check_store(tmp_path / "other")


def test_folds_that_a_damaged_file_of_splits_loses_are_named(prepared, capsys):
    raw, store = prepared
    half(store / "splits.json")
    assert main(["prepare", str(store), "--check"]) == 1
    assert "splits.json" in capsys.readouterr().err
    assert main(["prepare", str(raw), str(store)]) == 0
    assert "folds and label order of that file were not kept" in capsys.readouterr().out
    assert main(["prepare", str(store), "--check"]) == 0
    assert main(["prepare", str(raw), str(store)]) == 0
    assert "warning" not in capsys.readouterr().out

"""What fails for want of memory, rights or a decoder is tried again by the next call; a damaged file is not."""

from __future__ import annotations

import errno
import json

import pytest

from medpretrain3d.ingest import prepare_case
from medpretrain3d.ingest.prepare import prepare
from medpretrain3d.store import arrays, readers
from medpretrain3d.store.skipped_cases import UndecodablePixelsError
from medpretrain3d.store.store import Store


def no_memory(*_, **__):
    raise MemoryError


def not_permitted(path):
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


def undecodable(*_, **__):
    raise UndecodablePixelsError("x.dcm: its pixels cannot be decoded; export it again")


def out_of_memory_in_blosc2(_):
    raise RuntimeError("Error while getting the cframe")


@pytest.mark.parametrize(
    ("place", "name", "failing", "reason"),
    [
        (prepare_case, "read_channels", no_memory, "does not fit into memory"),
        (prepare_case, "read_channels", undecodable, "its pixels cannot be decoded"),
        (arrays, "_array_bytes", out_of_memory_in_blosc2, "does not fit into memory"),
        (readers._READERS, ".nii.gz", not_permitted, "cannot be read (Permission denied)"),
    ],
)
def test_a_case_that_the_machine_failed_is_tried_again(make_dataset, tmp_path, place, name, failing, reason):
    raw, store = make_dataset(["a", "b"]), tmp_path / "store"
    whole = (raw / "imagesTr/b_0000.nii.gz").read_bytes()
    (raw / "imagesTr/b_0000.nii.gz").write_bytes(b"")
    prepare(raw, store)
    (raw / "imagesTr/b_0000.nii.gz").write_bytes(whole)
    with pytest.MonkeyPatch.context() as patch:
        (patch.setitem if place is readers._READERS else patch.setattr)(place, name, failing)
        assert reason in prepare(raw, store).skipped[0]["reason"]
        assert Store(store).case_ids == ("a",)
        assert len(prepare(raw, store).skipped) == 1
    summary = prepare(raw, store)
    assert (summary.prepared, summary.reused, summary.skipped) == (1, 1, ())
    assert summary.again == {"b": "memory, rights or a decoder were wanting"}


def test_a_case_whose_files_may_not_be_read_is_tried_again(make_dataset, tmp_path, monkeypatch):
    raw = make_dataset(["a", "b"])
    (raw / "imagesTr/b_0000.nii.gz").write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.access", lambda path, _: "b_0000" not in str(path))
        prepare(raw, tmp_path / "store")
    assert json.loads((tmp_path / "store/skipped/b.json").read_text(encoding="utf-8"))["retried"]
    summary = prepare(raw, tmp_path / "store")
    assert list(summary.again) == ["b"]
    assert prepare(raw, tmp_path / "store").again == {}  # it is empty, and stays so


def test_other_shards_do_not_wait_for_a_case_that_is_tried_again(make_dataset, tmp_path):
    raw, store = make_dataset(["a", "b", "c"]), tmp_path / "store"
    (raw / "imagesTr/a_0000.nii.gz").unlink()
    (raw / "imagesTr/a_0000.nii.gz").symlink_to("nowhere")
    assert prepare(raw, store, shard=(1, 2)).awaited == 1
    assert prepare(raw, store, shard=(2, 2)).awaited == 0
    assert Store(store).case_ids == ("b", "c")

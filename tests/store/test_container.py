"""Containers: what is complete is read, whatever was killed, damaged or written twice."""

from __future__ import annotations

import subprocess
import tarfile

import numpy as np
import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.store.case_data import CaseData, case_contents
from medpretrain3d.store.container import ContainerWriter, scan_container
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.layout import CONTAINERS, ContainerLayout, write_case
from medpretrain3d.store.store import Instance, Store, write_index

GRID = Grid((6, 7, 8), np.diag([1.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]])
LONG = "ü" * 80
"""A case id whose members need a header of their own for their name."""


def content(case_id="a", seed=0, mask=True):
    image = np.random.default_rng(seed).integers(-1000, 1000, (1, *GRID.shape)).astype(np.int16)
    instances = np.zeros(GRID.shape, np.uint16)
    instances[1:4, 1:4, 1:4] = 1
    objects = [Instance(1, 0, (1.0, 1, 1, 4, 4, 4))]
    return CaseData(case_id, image, GRID, GRID, f"{case_id}.nii", objects, instances if mask else None)


def files_of(case_id="a", seed=0, mask=True):
    return case_contents(content(case_id, seed, mask))[1]


@pytest.fixture
def container(tmp_path):
    """Three cases, one without a mask and one of a long name, and where each of their records ends."""
    writer = ContainerWriter(tmp_path / CONTAINERS, "1-of-1")
    path, ends = tmp_path / CONTAINERS / "1-of-1-00000.tar", {}
    for case_id, mask in (("a", True), (LONG, True), ("c", False)):
        writer.append(case_id, files_of(case_id, mask=mask), 1)
        ends[case_id] = path.stat().st_size
    writer.close()
    return path, ends


def test_any_tar_reads_a_container(container, tmp_path):
    path, _ = container
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path, filter="data")
    for case_id, mask in (("a", True), (LONG, True), ("c", False)):
        for name, wanted in files_of(case_id, mask=mask).items():
            assert (tmp_path / "cases" / case_id / name).read_bytes() == wanted
    listed = subprocess.run(["tar", "tf", path], capture_output=True, text=True, check=True)
    assert len(listed.stdout.splitlines()) == 3 + 3 + 2
    assert listed.stderr == ""


def test_killed_after_any_byte_no_half_case_is_read_and_the_next_writer_goes_on(container, tmp_path):
    path, ends = container
    whole = path.read_bytes()
    headers = [at + shift for at in range(0, len(whole), 512) for shift in (0, 1, 511)]
    for size in sorted({*headers, *range(0, len(whole), 997), len(whole)}):
        path.write_bytes(whole[:size])
        scan = scan_container(path)
        assert [one.case_id for one in scan.records] == [case_id for case_id, end in ends.items() if end <= size]
        assert (scan.end, scan.can_grow) == (max([0, *(end for end in ends.values() if end <= size)]), True)
    for size in (0, 1, 600, ends["a"] + 512, ends["a"] + 1500, ends[LONG] - 1):
        path.write_bytes(whole[:size])
        there = {one.case_id for one in scan_container(path).records}
        layout = ContainerLayout(tmp_path)
        for case_id, mask in (("a", True), (LONG, True), ("c", False)):
            if case_id not in there:
                layout.write(case_id, files_of(case_id, mask=mask))
        layout.close()
        assert path.read_bytes() == whole
        assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_damage_costs_no_case_behind_it_and_is_not_appended_to(container, tmp_path):
    path, ends = container
    whole = path.read_bytes()
    for at in (0, 100, ends["a"], ends["a"] + 600, ends[LONG] - 4096):
        damaged = bytearray(whole)
        damaged[at : at + 300] = bytes(300)
        path.write_bytes(damaged)
        if [one.case_id for one in scan_container(path).records] == list(ends):
            continue  # within the content of a member, where its chunks have checksums
        layout = ContainerLayout(tmp_path)
        assert len(layout.damages()) == 1
        assert f"damaged behind byte {scan_container(path).end:,}" in layout.damages()[0]
        layout.write("d", files_of("d"))
        layout.close()
        assert path.read_bytes() == damaged
        assert [one.case_id for one in scan_container(path.with_name("1-of-1-00001.tar")).records] == ["d"]
        path.with_name("1-of-1-00001.tar").unlink()


def test_two_writers_at_once_have_a_container_each_and_the_next_takes_the_first(tmp_path):
    one, other = (ContainerWriter(tmp_path, "1-of-1") for _ in range(2))
    assert one.append("a", files_of("a"), 1).container == "1-of-1-00000.tar"
    assert other.append("b", files_of("b"), 1).container == "1-of-1-00001.tar"
    assert one.append("c", files_of("c"), 1).container == "1-of-1-00000.tar"
    one.close()
    assert ContainerWriter(tmp_path, "1-of-1").append("d", files_of("d"), 1).container == "1-of-1-00000.tar"
    assert ContainerWriter(tmp_path, "2-of-3").append("e", files_of("e"), 1).container == "2-of-3-00000.tar"


def test_without_locks_of_the_file_system_every_writer_takes_a_new_container(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("medpretrain3d.store.container.fcntl.flock", unknown)
    names = [ContainerWriter(tmp_path, "1-of-1").append(name, files_of(name), 1).container for name in "abc"]
    assert names == [f"1-of-1-0000{number}.tar" for number in range(3)]


def test_a_full_container_is_followed_by_the_next(tmp_path):
    layout = ContainerLayout(tmp_path, max_bytes=1)
    assert [layout.write(name, files_of(name)).container for name in "ab"] == ["1-of-1-00000.tar", "1-of-1-00001.tar"]


def test_the_newest_record_holds_in_whatever_container_and_what_is_gone_is_gone(tmp_path):
    first, second = ContainerLayout(tmp_path, "2-of-2"), ContainerLayout(tmp_path, "1-of-2")
    write_case(first, content(seed=0))
    first.close()
    write_case(second, content(seed=1))  # in a container of a lower name
    newest = ContainerLayout(tmp_path)
    assert newest.find("a").container == "1-of-2-00000.tar"
    assert newest.find("a").image.read() == files_of(seed=1)["image.b2nd"]
    second.remove("a")
    second.remove("a")
    assert (ContainerLayout(tmp_path).find("a"), ContainerLayout(tmp_path).cases()) == (None, {})
    write_case(second, content(seed=2))
    assert ContainerLayout(tmp_path).find("a").image.read() == files_of(seed=2)["image.b2nd"]


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    layout = ContainerLayout(tmp_path)
    files = layout.write("a", files_of("a"))
    before = files.image.path.read_bytes()
    real, calls = __import__("os").pwrite, []

    def full(number, data, at):
        calls.append(at)
        if len(calls) > 3:
            raise OSError(28, "No space left on device")
        return real(number, data, at)

    monkeypatch.setattr("medpretrain3d.store.container.os.pwrite", full)
    with pytest.raises(UserError, match="the disk is full"):
        layout.write("b", files_of("b"))
    monkeypatch.undo()
    assert files.image.path.read_bytes() == before
    layout.write("b", files_of("b"))
    assert list(ContainerLayout(tmp_path).cases()) == ["a", "b"]


def test_a_store_reads_the_same_from_either(tmp_path):
    stores = []
    for name in ("folders", "containers"):
        path = tmp_path / name
        place = ContainerLayout(path) if name == "containers" else path
        rows = [write_case(place, content(case_id, seed, seed != 1)) for seed, case_id in enumerate("cab")]
        write_index(path, ["x", "y"], (1.0, 1.0, 1.0), rows, {"val": ["b"]})
        stores.append(Store(path))
    folders, containers = stores
    assert folders.fingerprint == containers.fingerprint
    assert folders.splits == containers.splits
    assert not (containers.path / "cases").exists()
    for case_id in "abc":
        row = {name: value for name, value in containers.entries[case_id].items() if name in folders.entries[case_id]}
        assert row == folders.entries[case_id]
        one, other = folders.case(case_id), containers.case(case_id)
        assert one.sidecar == other.sidecar
        np.testing.assert_array_equal(one.read_image((-1, 2, 3), (9, 3, 4)), other.read_image((-1, 2, 3), (9, 3, 4)))
        if one.has_mask:
            np.testing.assert_array_equal(one.read_label_map(), other.read_label_map())
        other.verify()
    with pytest.raises(KeyError):
        containers.entries["d"]


def test_a_flipped_bit_and_a_short_container_name_the_case(tmp_path):
    layout = ContainerLayout(tmp_path)
    write_index(tmp_path, ["x"], (1.0, 1.0, 1.0), [write_case(layout, content(name)) for name in "ab"], {})
    path = tmp_path / CONTAINERS / "1-of-1-00000.tar"
    image = Store(tmp_path).case("a").files.image
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[image.offset + image.num_bytes // 3] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"^a: .*1-of-1-00000.tar:cases/a/image.b2nd is damaged"):
        Store(tmp_path).case("a").read_image()
    Store(tmp_path).case("b").verify()
    path.write_bytes(whole[: len(whole) // 2])
    Store(tmp_path).case("a").verify()
    with pytest.raises(UserError, match=r"case b: .*case.json is missing: the container ends before it"):
        Store(tmp_path).case("b")
    path.unlink()
    with pytest.raises(UserError, match=r"case a: .* is missing"):
        Store(tmp_path).case("a")

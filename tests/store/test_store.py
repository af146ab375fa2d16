from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.store.case import AIR_HU, CaseData, Instance, case_folder, write_case
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.store import Store, write_index
from medpretrain3d.store.targets import targets_json

GRID = Grid((20, 30, 40), np.eye(4)[[2, 1, 0, 3]])


def content(case_id="a", seed=0, mask=True):
    image = np.random.default_rng(seed).integers(-1024, 3000, (1, *GRID.shape)).astype(np.int16)
    instances = np.zeros(GRID.shape, np.uint16)
    instances[2:5, 6:9, 1:4] = 1
    instances[10:12, 6:9, 1:4] = 3
    objects = [
        Instance(1, 1, (2.0, 6.0, 1.0, 5.0, 9.0, 4.0)),
        Instance(3, 0, (10.0, 6.0, 1.0, 12.0, 9.0, 4.0)),
        Instance(0, 1, (15.2, 6.0, 1.0, 15.4, 6.5, 1.5)),  # too small for a voxel
    ]
    return CaseData(case_id, image, GRID, GRID, f"{case_id}.nii.gz", objects, instances if mask else None)


@pytest.fixture
def store(tmp_path):
    rows = [write_case(tmp_path, content(case_id, seed)) for seed, case_id in enumerate("cab")]
    write_index(tmp_path, ["nodule", "mass", "cyst"], None, rows, {"test": ["b"]})
    return Store(tmp_path)


def test_a_case_comes_back_as_it_was_written(store):
    case, written = store.case("c"), content("c", 0)
    np.testing.assert_array_equal(case.read_image(), written.image)
    np.testing.assert_array_equal(case.read_instances(), written.mask)
    assert case.boxes.dtype == np.float32
    assert case.boxes.tolist()[:2] == [[2, 6, 1, 5, 9, 4], [10, 6, 1, 12, 9, 4]]
    assert case.labels.tolist() == [1, 0, 1]
    assert case.instance_ids.tolist() == [1, 3, 0]
    assert (case.grid, case.source_grid, case.num_channels, case.has_mask) == (GRID, GRID, 1, True)
    case.verify()


def test_a_mask_of_another_shape_than_its_image_is_not_written_and_found_by_a_check(store, tmp_path):
    wide = np.zeros((*GRID.shape[:2], GRID.shape[2] + 1), np.uint16)
    with pytest.raises(UserError, match=r"case a: its mask has .* voxels, its image .*; wanted the same"):
        replace(content(), mask=wide)
    one = content()
    object.__setattr__(one, "mask", wide)
    write_case(tmp_path, one)
    with pytest.raises(UserError, match="has a mask of another shape than its image"):
        store.case("a").verify()


def test_the_label_map_has_zero_for_background_and_label_plus_one_in_objects(store):
    label_map = store.case("a").read_label_map()
    assert label_map.dtype == np.uint8
    assert label_map[3, 7, 2] == 2  # instance 1 is of label 1
    assert label_map[10, 7, 2] == 1  # instance 3 is of label 0
    assert np.count_nonzero(label_map) == 27 + 18
    assert store.case("a").label_of_instance.tolist() == [0, 2, 0, 1]


@pytest.mark.parametrize(
    ("start", "size"),
    [((3, 4, 5), (6, 7, 8)), ((-2, -3, -4), (5, 6, 7)), ((15, 25, 35), (9, 9, 9)), ((-5, 0, 60), (3, 3, 3))],
)
def test_a_crop_is_the_part_of_the_padded_whole(store, start, size):
    case = store.case("a")
    whole = np.pad(case.read_image(), [(0, 0)] + [(80, 80)] * 3, constant_values=AIR_HU)
    expected = whole[(slice(None), *(slice(s + 80, s + 80 + n) for s, n in zip(start, size, strict=True)))]
    np.testing.assert_array_equal(case.read_image(start, size), expected)
    assert case.read_instances(start, size).shape == size


def test_the_index_tells_cases_counts_and_splits(store):
    assert store.case_ids == ("a", "b", "c")
    assert len(store) == 3
    assert "a" in store
    assert "z" not in store
    assert store.splits == {"test": ("b",), "train": ("a", "c")}
    assert store.classes == ("nodule", "mass", "cyst")
    assert store.spacing_mm is None
    entry = store.entries["a"]
    assert (entry["shape"], entry["num_objects"], entry["counts"], entry["has_mask"]) == (
        [20, 30, 40],
        3,
        [1, 2, 0],
        True,
    )


def test_the_fingerprint_follows_content_and_not_order_or_place(store, tmp_path):
    def fingerprint(folder, **changes):
        rows = [
            write_case(tmp_path / folder, content(case_id, changes.get(case_id, seed)))
            for seed, case_id in enumerate("cab")
        ]
        write_index(tmp_path / folder, changes.get("classes", ["nodule", "mass", "cyst"]), None, rows[::-1], {})
        return Store(tmp_path / folder).fingerprint

    assert fingerprint("same") == store.fingerprint
    assert fingerprint("other_voxels", a=9) != store.fingerprint
    assert fingerprint("other_names", classes=["x", "y", "z"]) != store.fingerprint


def test_a_case_without_mask_says_so(tmp_path):
    write_index(tmp_path, ["x", "y"], (1, 1, 1), [write_case(tmp_path, content(mask=False))], {})
    store = Store(tmp_path)
    assert store.spacing_mm == (1.0, 1.0, 1.0)
    assert not store.case("a").has_mask
    with pytest.raises(UserError, match="has no mask"):
        store.case("a").read_label_map()


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    def no_space(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "write_bytes", no_space)
    with pytest.raises(UserError, match="disk is full"):
        write_case(tmp_path, content())
    assert not any((tmp_path / "cases").iterdir())


def test_writing_again_replaces_the_case(tmp_path):
    write_case(tmp_path, content(seed=0))
    row = write_case(tmp_path, content(seed=1, mask=False))
    write_index(tmp_path, ["x", "y"], None, [row], {})
    case = Store(tmp_path).case("a")
    case.verify()
    assert sorted(os.listdir(case.folder)) == ["case.json", "image.b2nd"]


@pytest.mark.parametrize("keep", [0, 100, -10])
def test_a_cut_file_is_an_error_that_names_the_case(store, keep):
    file = store.path / "cases" / "a" / "image.b2nd"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"^a: .*image.b2nd is damaged"):
        store.case("a").read_image()


def test_a_flipped_bit_in_a_chunk_is_an_error_that_names_the_case(store):
    """Of 300 flips all over the file none may come back as other voxels."""
    file = store.path / "cases" / "a" / "image.b2nd"
    data, expected = file.read_bytes(), store.case("a").read_image()
    noticed = 0
    for position in np.linspace(0, len(data) - 1, 300).astype(int).tolist():
        broken = bytearray(data)
        broken[position] ^= 1 << position % 8
        file.write_bytes(broken)
        try:
            np.testing.assert_array_equal(store.case("a").read_image(), expected)
        except UserError as error:
            assert "a: " in str(error)  # noqa: PT017
            noticed += 1
    assert noticed > 250


def test_verify_notices_a_flipped_bit(store):
    file = store.path / "cases" / "a" / "image.b2nd"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"case a: .*not what was written|a: .*damaged"):
        store.case("a").verify()


def change_index(store, **changes):
    path = store.path / "store.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}))


def test_what_is_no_store_is_refused(store, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        Store(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="it is no store"):
        Store(tmp_path / "empty")
    with pytest.raises(UserError, match=r"has no case 'z'; it has 3: a, b, c"):
        store.case("z")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 5}, "version 5, this medpretrain3d reads version 4"),
        ({"format": "other"}, "not the index of a store"),
        ({"cases": [{"id": "../../secret"}]}, "plain folder name"),
    ],
)
def test_an_index_of_another_kind_is_refused(store, changes, message):
    change_index(store, **changes)
    with pytest.raises(UserError, match=message):
        Store(store.path)


def test_unfinished_and_damaged_stores_are_told_apart(store):
    (store.path / "cases" / "b" / "case.json").write_text("{")
    with pytest.raises(UserError, match=r"case b: .* is damaged"):
        store.case("b")
    (store.path / "cases" / "b" / "case.json").unlink()
    with pytest.raises(UserError, match=r"case b: .* is missing"):
        store.case("b")
    (store.path / "store.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        Store(store.path)
    (store.path / "store.json").unlink()
    with pytest.raises(UserError, match="did not finish"):
        Store(store.path)


@pytest.mark.parametrize(
    ("splits", "message"),
    [({"val": ["z"]}, "first 'z'"), ({"val": ["a"], "test": ["a"]}, "'a' is in 'val' and in 'test'")],
)
def test_splits_that_contradict_the_index_are_refused(store, splits, message):
    (store.path / "splits.json").write_text(json.dumps(splits))
    with pytest.raises(UserError, match=message):
        Store(store.path)


@pytest.mark.parametrize("case_id", ["", ".", "../up", "a/b", "a\\b", "a\nb"])
def test_an_id_that_is_no_folder_name_is_refused(tmp_path, case_id):
    with pytest.raises(UserError, match="plain folder name"):
        case_folder(tmp_path, case_id)


READ = """
import sys, numpy as np
from medpretrain3d.store.store import Store
case = Store(sys.argv[1]).case("a")
whole = case.read_image()
random = np.random.default_rng(int(sys.argv[2]))
for _ in range(50):
    low = random.integers(0, 12, 3)
    assert (case.read_image(low, (9, 9, 9)) == whole[:, low[0]:low[0]+9, low[1]:low[1]+9, low[2]:low[2]+9]).all()
"""


def test_many_processes_read_at_once(store):
    readers = [
        subprocess.Popen([sys.executable, "-c", READ, str(store.path), str(seed)], stderr=subprocess.PIPE)
        for seed in range(4)
    ]
    assert [reader.communicate()[1] for reader in readers] == [b""] * 4
    assert [reader.returncode for reader in readers] == [0] * 4


OPEN = """
import sys
from medpretrain3d.memory import peak_bytes
from medpretrain3d.store.store import Store
store = Store(sys.argv[1])
assert len(store) == 50_000 and len(store.splits["val"]) == 5_000
print(peak_bytes() // 2**20)
"""


def test_a_store_of_50000_cases_opens_in_less_than_200_mib(tmp_path):
    rows = [
        {
            "id": f"case_of_a_large_corpus_{number:06d}_a_1",
            "shape": [300 + number % 200, 512, 512],
            "num_objects": number % 7,
            "counts": [number % 3, number % 5],
            "has_mask": True,
            "patient": f"patient_{number // 2}",
            "bytes": 10**8 + number,
            "voxels": hashlib.sha256(str(number).encode()).hexdigest()[:32],
            "sha256": hashlib.sha256(str(number).encode()).hexdigest(),
        }
        for number in range(50_000)
    ]
    (tmp_path / "cases").mkdir()
    write_index(tmp_path, ["x", "y"], None, rows, {"val": [row["id"] for row in rows[::10]]})
    done = subprocess.run([sys.executable, "-c", OPEN, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200


def test_targets_name_objects_and_ignore_regions_in_millimetres(tmp_path):
    grid = Grid(
        (8, 8, 8), np.array([[0.0, 0, 2, 10], [0, 2, 0, 20], [2, 0, 0, 30], [0, 0, 0, 1]])
    )  # D, H, W to x, y, z
    image = np.zeros((1, 8, 8, 8), np.int16)
    one = CaseData(
        "x", image, grid, grid, "x.nii", [Instance(0, 0, (1, 1, 1, 3, 3, 3))], ignore_boxes=[(4, 5, 6, 5, 6, 7)]
    )
    write_index(tmp_path, ["nodule"], (2.0, 2.0, 2.0), [write_case(tmp_path, one)], {})
    (entry,) = targets_json(Store(tmp_path), ["x"])["targets"]
    # Voxel i fills 2 i - 1 .. 2 i + 1 mm from the centre of the first one.
    assert entry["boxes"] == [[11, 21, 31, 15, 25, 35]]
    assert entry["ignore"] == [[21, 29, 37, 23, 31, 39]]


def test_targets_name_the_patients_that_the_store_knows(tmp_path):
    known = {"a": "p1", "b": "p1", "c": None}
    rows = [write_case(tmp_path, replace(content(case_id), patient=patient)) for case_id, patient in known.items()]
    write_index(tmp_path, ["nodule", "mass", "cyst"], None, rows, {})
    entries = targets_json(Store(tmp_path), list(known))["targets"]
    assert {one["case"]: one["patient"] for one in entries if "patient" in one} == {"a": "p1", "b": "p1"}

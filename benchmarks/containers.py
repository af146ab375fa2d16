"""Stores of many cases: files, time to open, and random crops, as a folder per case, as containers, and as a peer's.

`make bench ARGS=containers` makes 50,000 small cases (half a gigabyte per kind; `CASES=2000` for fewer) and three CTs
of 512 x 512 x 300; it is measured only when asked for, since writing takes minutes. The peer, blosc2-containerization,
stacks images of one height and width along their depth; here all cases have one shape, which suits it.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.crops import CROP, SHAPE, chest
from benchmarks.peers import peer
from benchmarks.timing import Row
from medpretrain3d.documents import json_text, parse_json
from medpretrain3d.store.case_data import CaseData, case_contents
from medpretrain3d.store.case_files import CASES, IMAGE, SIDECAR
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.layout import CONTAINERS, ContainerLayout, write_case
from medpretrain3d.store.sidecar import index_row, sidecar_checksum
from medpretrain3d.store.store import Store, write_index

EDGE = 32
"""Voxels of a small case along each axis."""
SMALL_CROP = (16, 16, 16)
CROPS = 400
ROUNDS = 7
FOLDERS, OURS, PEER = "a folder per case", "containers", "blosc2-containerization"
KINDS = {"folders": FOLDERS, "containers": OURS}
CROP_BARS = {FOLDERS: 0.91, PEER: 0.0}
"""A crop may take 1.1 times what it takes of single files; of the peer, which checks nothing, no ratio is wanted."""


def rows() -> Iterator[Row]:
    """Containers beside a folder per case, and beside the peer; crops per second are printed."""
    count = int(os.environ.get("CASES", "50000"))
    with tempfile.TemporaryDirectory() as folder, _without_flushing():
        root = Path(folder)
        print(f"{count:,} cases of {EDGE}^3, CPU ms of one thread, medians of {ROUNDS} rounds in turn")
        image = np.random.default_rng(0).integers(-1000, 0, (1, EDGE, EDGE, EDGE)).astype(np.int16)
        image[:, : EDGE - 6] = -1024
        stores = _small_stores(root, image, count)
        _peer_small(root / "peer", image, count)
        reader = peer("blosc2_containerization").ContainerReader
        inodes = {FOLDERS: _num_inodes(root / "folders" / CASES), OURS: _num_inodes(root / "containers" / CONTAINERS)}
        inodes[PEER] = _num_inodes(root / "peer")
        opening = {name: _opening_ms(partial(Store, store.path)) for name, store in stores.items()}
        opening[PEER] = _opening_ms(lambda: reader(root / "peer"))
        yield from _rows(f"files and folders of {count:,} cases", inodes, {FOLDERS: 100.0, PEER: 0.0}, "inodes")
        yield from _rows(f"opening {count:,} cases", opening, {FOLDERS: 1.0, PEER: 0.0})
        ids = list(stores[FOLDERS].case_ids)
        theirs = reader(root / "peer")
        readers = {name: _small_crop(store) for name, store in stores.items()}
        readers[PEER] = _peer_crop(theirs, SMALL_CROP)
        work = f"{SMALL_CROP[0]}^3 crop of any of {count:,} cases, opened anew"
        yield from _rows(work, _race(work, readers, ids, (EDGE,) * 3, SMALL_CROP), CROP_BARS)
    with tempfile.TemporaryDirectory() as folder, _without_flushing():
        root = Path(folder)
        array = chest()
        ids = ["a", "b", "c"]
        readers = {name: _large_crop(store) for name, store in _large_stores(root, array, ids).items()}
        _write_peer(root / "peer", dict.fromkeys(ids, array[None]))
        readers[PEER] = _peer_crop(reader(root / "peer"), CROP)
        work = f"{CROP[0]}^3 crop of a CT of 512 x 512 x 300"
        yield from _rows(work, _race(work, readers, ids, SHAPE, CROP, crops=10), CROP_BARS)


def _rows(work: str, found: dict[str, float], bars: dict[str, float], unit: str = "ms") -> Iterator[Row]:
    for name, bar in bars.items():
        yield Row(work, name, found[name], found[OURS], unit, bar, precision="int16")


def _small_stores(root: Path, image: np.ndarray, count: int) -> dict[str, Store]:
    """The same case under many names, of other hashes."""
    grid = Grid((EDGE,) * 3, np.eye(4)[[2, 1, 0, 3]])
    sidecar, contents = case_contents(CaseData("x", image, grid, grid, "x.nii.gz"))
    layout = ContainerLayout(root / "containers")
    rows: dict[str, list[dict[str, Any]]] = {"folders": [], "containers": []}
    for number in range(count):
        case_id = f"case_{number:06d}"
        own = parse_json(json_text(sidecar), "x", dict[str, Any], "")
        own |= {"id": case_id, "voxels": f"{number:032x}", "sha256": f"{number:064x}"}
        own["checksum"] = sidecar_checksum(own)
        files = {IMAGE: contents[IMAGE], SIDECAR: json_text(own, indent=1).encode()}
        place = root / "folders" / CASES / case_id
        place.mkdir(parents=True)
        for name, content in files.items():
            (place / name).write_bytes(content)
        rows["folders"].append(index_row(own))
        rows["containers"].append(index_row(own, layout.write(case_id, files)))
    layout.close()
    for name, of_store in rows.items():
        write_index(root / name, (), None, of_store, {})
    return {KINDS[name]: Store(root / name) for name in rows}


def _large_stores(root: Path, array: np.ndarray, ids: list[str]) -> dict[str, Store]:
    grid = Grid(SHAPE, np.eye(4)[[2, 1, 0, 3]])
    for name in ("folders", "containers"):
        place = ContainerLayout(root / name) if name == "containers" else root / name
        rows = [write_case(place, CaseData(one, array[None], grid, grid, "x", voxels=one)) for one in ids]
        write_index(root / name, (), None, rows, {})
    return {KINDS[name]: Store(root / name) for name in ("folders", "containers")}


def _peer_small(folder: Path, image: np.ndarray, count: int) -> None:
    _write_peer(folder, {f"case_{number:06d}": image for number in range(count)})


def _write_peer(folder: Path, images: dict[str, np.ndarray]) -> None:
    writer = peer("blosc2_containerization").ContainerWriter(folder, (1, *CROP), dtype=np.int16, num_threads=1)
    for name, image in images.items():
        writer.register_image(name, image.shape)
    writer.create_containers()
    for name, image in images.items():
        writer.store_image(name, np.ascontiguousarray(image))
    writer.save_storage()


Crop = Callable[[str, tuple[int, ...]], np.ndarray]


def _small_crop(store: Store) -> Crop:
    return lambda case_id, start: store.case(case_id).read_image(start, SMALL_CROP)


def _large_crop(store: Store) -> Crop:
    cases = {case_id: store.case(case_id) for case_id in store.case_ids}
    return lambda case_id, start: cases[case_id].read_image(start, CROP)


def _peer_crop(reader: Any, size: tuple[int, ...]) -> Crop:
    def read(case_id: str, start: tuple[int, ...]) -> np.ndarray:
        spans = [(low, low + edge) for low, edge in zip(start, size, strict=True)]
        return np.asarray(reader.load_patch(case_id, ((0, 1), *spans)))

    return read


def _race(
    work: str,
    readers: dict[str, Crop],
    ids: list[str],
    shape: tuple[int, ...],
    size: tuple[int, ...],
    crops: int = CROPS,
) -> dict[str, float]:
    """Read the same crops of each kind in turn; print crops per second, and return CPU milliseconds of each kind."""
    random = np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in readers}
    for number in range(1 + ROUNDS):
        edges = list(zip(shape, size, strict=True))
        places = [
            (ids[int(random.integers(len(ids)))], tuple(int(random.integers(0, a - b + 1)) for a, b in edges))
            for _ in range(crops)
        ]
        found = []
        for name, read in readers.items():
            began = time.process_time()
            for place in places:
                crop = read(*place)
            times[name].append((time.process_time() - began) * 1000 / crops)
            found.append(crop)
        if number == 0:
            assert all(np.array_equal(one, found[0]) for one in found)
    medians = {name: statistics.median(of_reader[1:]) for name, of_reader in times.items()}
    for name, ms in medians.items():
        print(f"{work}: {name}: {ms:.2f} ms, {1000 / ms:,.0f} crops/s, {ms / medians[FOLDERS]:.2f} x {FOLDERS}")
    return medians


def _opening_ms(open_it: Callable[[], Any]) -> float:
    times = []
    for _ in range(5):
        began = time.process_time()
        open_it()
        times.append((time.process_time() - began) * 1000)
    return statistics.median(times)


def _num_inodes(folder: Path) -> int:
    return sum(1 for _ in folder.rglob("*"))


@contextmanager
def _without_flushing() -> Iterator[None]:
    """Writing is not measured, and twice 50,000 flushes take minutes."""
    flush, os.fsync = os.fsync, lambda _: None
    try:
        yield
    finally:
        os.fsync = flush

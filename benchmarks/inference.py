"""Whole-volume prediction of a chest CT: tiles against the fewest possible and MONAI's, voxels per second, memory.

Each volume is predicted by a process of its own, whose peak is that of the whole program: Python, torch, the scan and
its tiles. The network is small, so that the time is what surrounds a network; a real one adds its own.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from benchmarks.timing import Row
from medpretrain3d.backbones import Backbone, Level
from medpretrain3d.boxes import Detections
from medpretrain3d.detection import AnchorGrid, Detector, RetinaNet
from medpretrain3d.inference import Bundle, InferenceConfig, Predictor, ScanTiles, detect_tiles, tile_starts
from medpretrain3d.inference.launcher import Launcher
from medpretrain3d.inference.sliding_window import SlidingWindow
from medpretrain3d.memory import keep_freed_memory, peak_bytes
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.intensity import Window
from medpretrain3d.store.preprocessing import Preprocessing
from medpretrain3d.store.volume import Volume

PATCH = (128, 128, 128)
OVERLAPS = (0.25, 0.5, 0.6)
LIMIT_BYTES = 8 * 2**30
VOLUMES = {
    "512 x 512 x 300": ((300, 512, 512), None),
    "512 x 512 x 1000": ((1000, 512, 512), None),
    "512 x 512 x 1000 at 0.7 mm, resampled to 1 mm": ((1000, 512, 512), (1.0, 1.0, 1.0)),
}


@dataclass(frozen=True)
class Measured:
    """One whole volume through a predictor."""

    voxels: int
    seconds: float
    tiles: int
    peak_bytes: int


def rows() -> Iterator[Row]:
    shape = VOLUMES["512 x 512 x 300"][0]
    for overlap in OVERLAPS:
        ours, least = len(tile_starts(shape, PATCH, overlap)), fewest_tiles(shape, overlap)
        assert ours == least, f"{ours} tiles, {least} would do"
        monai = monai_tiles(shape, overlap)
        work = f"tiles of 128^3 over 512 x 512 x 300 at overlap {overlap}"
        yield Row(work, "monai dense_patch_slices", monai, ours, unit="tiles", precision="-")
    for name in VOLUMES:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            measured = pool.apply(measure, [name])
        speed = measured.voxels / measured.seconds / 1e6
        work = f"{name}: {measured.tiles} tiles, {measured.seconds:.1f} s, {speed:.1f} M voxels/s; memory"
        yield Row(work, "limit", LIMIT_BYTES / 2**20, measured.peak_bytes / 2**20, unit="MiB")
    yield from beside_a_network(shape)


def beside_a_network(shape: tuple[int, int, int]) -> Iterator[Row]:
    """What reading and decoding cost beside a device that computes meanwhile, as a GPU does: it sleeps a tile long."""
    volume = chest(shape)
    ours, in_turn, monai = Asleep(), Asleep(), Asleep()
    window = SlidingWindow(in_turn, _tiles(volume), PATCH, InferenceConfig())
    ours_s = _seconds(lambda: detect_tiles(ours, _tiles(volume), PATCH, InferenceConfig()))
    others = {
        "one after the other": (in_turn, _seconds(lambda: one_after_the_other(in_turn, window))),
        "MONAI SlidingWindowInferer": (monai, _seconds(lambda: monai_windows(monai, volume))),
    }
    work = f"CT of {shape[0]} slices, network of {Asleep.seconds * 1e3:.0f} ms a tile"
    for peer, (network, seconds) in others.items():
        shares = f"its share {network.busy_s / seconds:.0%}, ours {ours.busy_s / ours_s:.0%}"
        yield Row(f"{work}: {shares}", peer, seconds * 1e3, ours_s * 1e3)


class Asleep(Detector):
    """A network on a device of its own, which takes batches one after the other and sleeps; what it says is decoded."""

    num_classes = 1
    seconds = 0.03
    """For a tile."""

    def __init__(self) -> None:
        super().__init__()
        self.device = ThreadPoolExecutor(1)
        self.busy_s = 0.0
        with torch.no_grad():
            self.decode = tiny_bundle(None).detector.eval().launch(torch.rand(1, 1, *PATCH))
        self.decode()  # compiles what it needs

    def sleep(self, num_tiles: int) -> None:
        self.busy_s += num_tiles * self.seconds
        time.sleep(num_tiles * self.seconds)

    def launch(self, image: torch.Tensor) -> Callable[[], list[Detections]]:
        done = self.device.submit(self.sleep, len(image))

        def found() -> list[Detections]:
            done.result()
            return [one for _ in image for one in self.decode()]

        return found

    def detect(self, image: torch.Tensor) -> list[Detections]:
        return self.launch(image)()


def one_after_the_other(detector: Detector, window: SlidingWindow) -> None:
    """A tile is read, computed and decoded before the next is read."""
    launcher = Launcher(detector, window.device)
    for batch in window.read():
        window.keep(launcher.launch(batch))


def monai_windows(network: Asleep, volume: Volume) -> None:
    """MONAI's sliding window over the whole volume in float32; it sees tiles of air too, and blends what it gets."""
    from monai.inferers import SlidingWindowInferer

    def predictor(image: torch.Tensor) -> torch.Tensor:
        network.sleep(len(image))
        return image

    image = torch.from_numpy(Window()(volume.array))[None]
    SlidingWindowInferer(PATCH, sw_batch_size=1, overlap=0.5)(image, predictor)


def _tiles(volume: Volume) -> ScanTiles:
    return ScanTiles(volume, Preprocessing(PATCH))


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def fewest_tiles(shape: tuple[int, int, int], overlap: float) -> int:
    """What an overlap requires: per axis `n` tiles of 128 cover at most `128 + (n - 1) (128 - ceil(128 overlap))`."""
    steps = [size - math.ceil(overlap * size) for size in PATCH]
    return math.prod(
        1 + math.ceil(max(0, size - tile) / step) for size, tile, step in zip(shape, PATCH, steps, strict=True)
    )


def monai_tiles(shape: tuple[int, int, int], overlap: float) -> int:
    """Tiles of `monai.inferers.sliding_window_inference`."""
    from monai.data.utils import dense_patch_slices
    from monai.inferers.utils import _get_scan_interval

    interval = _get_scan_interval(shape, PATCH, 3, (overlap,) * 3)
    return len(dense_patch_slices(shape, PATCH, interval))


def measure(name: str) -> Measured:
    """Predict one volume and look at this process's peak."""
    keep_freed_memory()  # as `medpretrain3d predict` does
    shape, spacing_mm = VOLUMES[name]
    predictor = Predictor(tiny_bundle(spacing_mm), "cpu")
    volume = chest(shape)
    told: list[tuple[int, int]] = []
    start = time.perf_counter()
    predictor.predict(volume, "chest", progress=lambda done, total: told.append((done, total)))
    seconds = time.perf_counter() - start
    return Measured(math.prod(shape), seconds, told[-1][1], peak_bytes())


class OneConvolution(Backbone):
    """The least that is a backbone: cells of 4^3 voxels to 8 channels."""

    levels = (Level(8, (4, 4, 4)),)
    in_channels = 1

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.Conv3d(1, 8, 4, stride=4)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [self.cells(image)]


def tiny_bundle(spacing_mm: tuple[float, float, float] | None) -> Bundle:
    """A detector that costs little, so that most of the time is not the network's."""
    torch.manual_seed(0)
    detector = RetinaNet(
        OneConvolution(), 1, AnchorGrid([[(8.0, 8.0, 8.0)]]), first_level=0, fpn_channels=8, head_convs=0
    )
    return Bundle(detector, ("nodule",), Preprocessing(PATCH, spacing_mm), InferenceConfig(), {}, "")


def chest(shape: tuple[int, int, int]) -> Volume:
    """Soft tissue in the middle two thirds of each slice, air with noise around it, 0.7 mm voxels."""
    random = np.random.default_rng(0)
    array = np.empty((1, *shape), dtype=np.int16)
    noise = random.normal(0, 20, (8, *shape[1:])).astype(np.int16)
    h, w = (slice(size // 6, size - size // 6) for size in shape[1:])
    body = np.full(shape[1:], -1000, dtype=np.int16)
    body[h, w] = 40
    for d in range(shape[0]):
        array[0, d] = body + noise[d % len(noise)]
    grid = Grid(shape, np.diag([0.7, 0.7, 0.7, 1.0]))
    return Volume(array, grid, grid)

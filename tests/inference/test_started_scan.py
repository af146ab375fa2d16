"""What is done at the same time: shown by the order of events, not by the time that they take."""

from __future__ import annotations

import logging
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import nibabel as nib
import numpy as np
import pytest
import torch

from medpretrain3d.backbones import ResEnc
from medpretrain3d.boxes import Detections
from medpretrain3d.cli import main
from medpretrain3d.detection import AnchorGrid, DeformableDETR, RetinaNet
from medpretrain3d.detection.base import Detector
from medpretrain3d.errors import UserError
from medpretrain3d.inference import Bundle, InferenceConfig, Predictor, detect_tiles, save_bundle
from medpretrain3d.inference.inputs import ScanPath
from medpretrain3d.inference.scan import TensorTiles
from medpretrain3d.inference.sliding_window import SlidingWindow, SlidingWindows
from medpretrain3d.inference.started_scan import start_ahead
from medpretrain3d.interruption import Interrupted
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.preprocessing import Preprocessing
from medpretrain3d.store.volume import Volume

LONG_S = 30.0
"""A test that fails waits so long; one that passes does not wait."""
PATCH = (8, 8, 8)


class WatchedTiles(TensorTiles):
    """Five tiles in a row, each of its number; notes when one is read."""

    def __init__(self, events):
        super().__init__(torch.rand(1, 8, 8, 40), -1.0)
        self.events = events
        self.read_events = [threading.Event() for _ in range(5)]
        for number in range(5):
            self.image[0, 0, 0, number * 8] = number + 10

    def read(self, start, patch):
        number = start[2] // 8
        self.events.append(("read", number))
        self.read_events[number].set()
        return super().read(start, patch)


class Asynchronous(Detector):
    """A network on a device of its own, which takes work and does it one after the other, as a GPU does."""

    num_classes = 1

    def __init__(self, tiles, events):
        super().__init__()
        self.tiles, self.events = tiles, events
        self.device = ThreadPoolExecutor(1)

    def detect(self, image):
        return self.launch(image)()

    def launch(self, image):
        number = int(image.max()) - 10
        self.events.append(("launched", number))
        done = self.device.submit(self._work, number)

        def decode():
            assert done.result(), f"tile {number + 1} was not read while the network worked on tile {number}"
            self.events.append(("decoded", number))
            return [Detections.cat([]) for _ in image]

        return decode

    def _work(self, number):
        """The network returns when the next tile is read, which it never is if that waits for the network."""
        return number == 4 or self.tiles.read_events[number + 1].wait(LONG_S)


def test_the_next_tile_is_read_and_launched_before_the_one_before_is_decoded():
    events = []
    tiles = WatchedTiles(events)
    detect_tiles(Asynchronous(tiles, events), tiles, PATCH, InferenceConfig(overlap=0.0), batch_size=1)
    for number in range(4):
        assert events.index(("launched", number + 1)) < events.index(("decoded", number))
    assert [number for name, number in events if name == "decoded"] == list(range(5))
    # Of five: one is decoded, one computed, two are read ahead; tile 4 waits for tile 0.
    assert events.index(("launched", 1)) < events.index(("read", 4))


def test_a_detector_with_one_verb_is_read_ahead_of_too(blob_finder):
    tiles = WatchedTiles([])

    class Waits(type(blob_finder)):
        def detect(self, image):
            number = int(image.max()) - 10
            assert number == 4 or tiles.read_events[number + 1].wait(LONG_S)
            return super().detect(image)

    detector = Waits()
    detect_tiles(detector, tiles, PATCH, InferenceConfig(overlap=0.0), batch_size=1)
    assert detector.num_images == 5


def tiny(kind):
    torch.manual_seed(0)
    if kind is DeformableDETR:
        sizes = {"num_levels": 2, "channels": 12, "num_heads": 2, "hidden": 16, "num_queries": 8}
        return DeformableDETR(ResEnc("XXS"), 1, encoder_layers=1, decoder_layers=1, **sizes).eval()
    return RetinaNet(ResEnc("XXS"), 1, AnchorGrid([[(4, 4, 4)]]), first_level=3, fpn_channels=16).eval()


@pytest.mark.parametrize("mirror_axes", [(), (0, 2)])
def test_results_do_not_depend_on_the_batch_size(mirror_axes):
    detector = tiny(RetinaNet).double()  # so that rounding swaps no two scores
    image = torch.rand(1, 24, 16, 24, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    config = InferenceConfig(score_threshold=0.0, mirror_axes=mirror_axes)
    one, *others = [
        detect_tiles(detector, TensorTiles(image, -1.0), (16, 16, 16), config, size) for size in (1, 2, 3, 64, None)
    ]
    assert len(one) > 20
    for other in others:
        torch.testing.assert_close(other.detections.boxes, one.detections.boxes)
        torch.testing.assert_close(other.detections.scores, one.detections.scores)
        assert torch.equal(other.view, one.view)


@pytest.mark.parametrize("kind", [RetinaNet, DeformableDETR])
def test_what_is_launched_is_what_is_detected(kind):
    detector = tiny(kind)
    image = torch.rand(2, 1, 16, 16, 16)
    for found, wanted in zip(detector.launch(image)(), detector.detect(image), strict=True):
        assert torch.equal(found.boxes, wanted.boxes)
        assert torch.equal(found.scores, wanted.scores)
        assert not found.boxes.requires_grad


def test_a_detector_that_overrides_detect_alone_is_launched_so():
    class SeesNothing(RetinaNet):
        def detect(self, image):
            return [found[:0] for found in super().detect(image)]

    detector = SeesNothing(ResEnc("XXS"), 1, AnchorGrid([[(4, 4, 4)]]), first_level=3, fpn_channels=16).eval()
    assert [len(found) for found in detector.launch(torch.rand(2, 1, 16, 16, 16))()] == [0, 0]


def test_tiles_that_do_not_fit_together_are_halved_and_that_is_said(blob_finder, caplog):
    class Small(type(blob_finder)):
        largest = 0

        def detect(self, image):
            if len(image) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            self.largest = max(self.largest, len(image))
            return super().detect(image)

    detector = Small()
    tiles = TensorTiles(torch.rand(1, 8, 8, 40), -1.0)
    config = InferenceConfig(overlap=0.0, mirror_axes=(0,))
    with caplog.at_level(logging.WARNING):
        found = detect_tiles(detector, tiles, PATCH, config, batch_size=8)
    assert detector.num_images == 10
    assert detector.largest == 2
    assert [record.getMessage() for record in caplog.records] == [
        "8 tiles do not fit the memory of cpu together; going on with 4",
        "4 tiles do not fit the memory of cpu together; going on with 2",
    ]
    alone = detect_tiles(blob_finder, tiles, PATCH, config, batch_size=1)
    assert torch.equal(found.detections.boxes, alone.detections.boxes)


def test_a_tile_that_does_not_fit_alone_ends_as_it_did(blob_finder):
    class Full(type(blob_finder)):
        def detect(self, image):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        detect_tiles(Full(), TensorTiles(torch.rand(1, 8, 8, 8), -1.0), PATCH, InferenceConfig(), batch_size=4)


@pytest.mark.parametrize("first", [True, False])
def test_a_member_without_a_finite_prediction_is_found_among_others(first):
    good, diverged = tiny(RetinaNet), tiny(RetinaNet)
    for parameter in diverged.box_head.parameters():
        parameter.data.fill_(torch.nan)
    members = [diverged, good] if first else [good, diverged]
    tiles = TensorTiles(torch.rand(1, 16, 16, 32), -1.0)
    windows = [SlidingWindow(member, tiles, (16, 16, 16), InferenceConfig(overlap=0.0)) for member in members]
    with (
        closing(SlidingWindows(windows)) as passes,
        pytest.raises(UserError, match="predictions in a volume is finite"),
    ):
        passes.detect()


def volume(seed=0):
    array = np.random.default_rng(seed).integers(-300, 500, (1, 8, 8, 40)).astype(np.int16)
    grid = Grid((8, 8, 40), np.eye(4))
    return Volume(array, grid, grid)


def bundle_of(detector):
    config = InferenceConfig(overlap=0.0)
    return Bundle(detector, ("dim", "bright"), Preprocessing(patch=PATCH), config, {}, "0" * 64)


def test_the_next_scan_is_read_while_this_one_is_predicted(blob_finder):
    is_next_read = threading.Event()

    class Watched(Volume):
        def read_image(self, start, size):
            is_next_read.set()
            return super().read_image(start, size)

    class Waits(type(blob_finder)):
        def detect(self, image):
            assert is_next_read.wait(LONG_S)
            return super().detect(image)

    first, second = volume(0), volume(1)
    second = Watched(second.array, second.grid, second.source_grid)
    predictor = Predictor(bundle_of(Waits()), "cpu")
    with closing(start_ahead([("a", first), ("b", second)], lambda one: predictor.start(one[1], one[0]))) as started:
        found = [predictor.predict(scan, case).to_json() for (case, _), scan in started]
    plain = Predictor(bundle_of(blob_finder), "cpu")
    assert found == [plain.predict(scan, case).to_json() for case, scan in (("a", first), ("b", second))]
    assert not reading()


def test_a_scan_that_fails_in_the_middle_says_so_and_leaves_no_thread(blob_finder):
    class Damaged(Volume):
        def read_image(self, start, size):
            if start[2] >= 16:
                raise UserError("scan: a block is damaged; copy it again")
            return super().read_image(start, size)

    whole = volume()
    damaged = Damaged(whole.array, whole.grid, whole.source_grid)
    predictor = Predictor(bundle_of(blob_finder), "cpu")
    with pytest.raises(UserError, match="a block is damaged"):
        predictor.predict(damaged, "a")
    assert not reading()
    assert len(predictor.predict(whole, "a")) > 0


def reading():
    return [thread for thread in threading.enumerate() if thread.name == "read ahead"]


@pytest.fixture
def place(tmp_path):
    """A bundle and three scans."""
    config = InferenceConfig(score_threshold=0.0, max_per_class=5)
    save_bundle(tmp_path / "bundle", tiny(RetinaNet), ["nodule"], Preprocessing((16, 16, 16)), config)
    (tmp_path / "scans").mkdir()
    for seed, name in enumerate("abc"):
        array = np.random.default_rng(seed).integers(-1000, 500, (24, 16, 16)).astype(np.int16)
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "scans" / f"{name}.nii.gz")
    return tmp_path


def predict(place):
    arguments = ["predict", place / "bundle", place / "scans", "-o", place / "out", "--device", "cpu"]
    return main([str(argument) for argument in arguments])


def test_the_command_opens_the_next_scan_while_the_network_works(place, monkeypatch):
    opened, is_b_opened = [], threading.Event()
    open_scan, launch = ScanPath.open, RetinaNet.launch

    def watched(self, unit="hu"):
        opened.append(self.case)
        if self.case == "b":
            is_b_opened.set()
        return open_scan(self, unit)

    def waits(self, image):
        assert is_b_opened.wait(LONG_S)
        # Of three scans one is predicted and one is ready: the third waits, so that memory is bounded.
        assert "c" not in opened or (place / "out" / "cases" / "a.json").is_file()
        return launch(self, image)

    monkeypatch.setattr(ScanPath, "open", watched)
    monkeypatch.setattr(RetinaNet, "launch", waits)
    assert predict(place) == 0
    assert opened == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("ended", "code"), [(KeyboardInterrupt(), 130), (Interrupted(signal.SIGTERM), 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_told_to_end_while_two_scans_are_in_flight_a_call_keeps_what_is_finished(
    place, monkeypatch, capsys, ended, code
):
    launch = RetinaNet.launch

    def struck(self, image):
        if (place / "out" / "cases" / "a.json").is_file():
            raise ended
        return launch(self, image)

    with monkeypatch.context() as patched:
        patched.setattr(RetinaNet, "launch", struck)
        assert predict(place) == code
    assert not reading()
    assert [path.name for path in (place / "out").rglob("*.*")] == ["a.json"]
    assert capsys.readouterr().err.splitlines()[-1].endswith("call again to go on")
    assert predict(place) == 0
    assert "1 of 3 scans taken from" in capsys.readouterr().out


def test_what_is_no_error_of_the_user_ends_the_command_at_its_scan(place, monkeypatch, capsys):
    open_scan = ScanPath.open

    def full(self, unit="hu"):
        if self.case == "b":
            raise MemoryError("a scan of 3 TB")
        return open_scan(self, unit)

    monkeypatch.setattr(ScanPath, "open", full)
    assert predict(place) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: out of memory (a scan of 3 TB); lower --batch-size, or --overlap"
    )
    assert not reading()
    assert (place / "out" / "cases" / "a.json").is_file()

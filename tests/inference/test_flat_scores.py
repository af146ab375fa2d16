"""A detector that scores 0.9 wherever it sees something: what `predict` makes of it must not depend on the place.

The reference below merges by the definition in `merging`, in plain Python over every pair.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medpretrain3d.boxes import Detections
from medpretrain3d.detection.base import Detector
from medpretrain3d.inference.config import InferenceConfig
from medpretrain3d.inference.merging import merge_raw_detections
from medpretrain3d.inference.raw_detections import CUT_MARGIN_VOX, RawDetections
from medpretrain3d.inference.scan import TensorTiles
from medpretrain3d.inference.sliding_window import detect_tiles, detect_volume


class Oracle(Detector):
    """Finds every bright blob of an image, cut at the image's end where the blob goes on; each scores the same."""

    num_classes = 1

    def __init__(self, score: float = 0.9) -> None:
        super().__init__()
        self.score = score

    def losses(self, image, targets):
        return {}

    def detect(self, image):
        return [self._of_image(channels[0]) for channels in image]

    def _of_image(self, image):
        boxes = []
        for value in image[image > 0].unique():  # every object has a brightness of its own
            where = torch.nonzero(image == value)
            boxes.append(torch.cat([where.amin(dim=0), where.amax(dim=0) + 1]).float())
        if not boxes:
            return Detections.cat([])
        return Detections(torch.stack(boxes), torch.full((len(boxes),), self.score), torch.zeros(len(boxes)).long())


def volume_with(boxes, shape):
    image = torch.full((1, *shape), -1.0)
    image[0, 0, 0, 0] = -0.5  # not constant
    for number, (d0, h0, w0, d1, h1, w1) in enumerate(boxes, start=1):
        image[0, d0:d1, h0:h1, w0:w1] = number / (len(boxes) + 1)
    return image


def apart(boxes, box, gap=2):
    return all(any(box[a] >= other[a + 3] + gap or other[a] >= box[a + 3] + gap for a in range(3)) for other in boxes)


@pytest.mark.parametrize("merge", ["nms", "wbc"])
def test_the_score_is_the_same_at_every_place_of_the_tile_grid(merge):
    random = np.random.default_rng(0)
    shape, config = (80, 50, 41), InferenceConfig(merge=merge, mirror_axes=(0,))
    for _ in range(30):
        start = [int(random.integers(0, size - 12 + 1)) for size in shape]
        box = (*start, *(first + 12 for first in start))
        found = detect_volume(Oracle(), volume_with([box], shape), (32, 32, 32), config)
        assert found.boxes.round().int().tolist() == [list(box)]
        assert found.scores.tolist() == pytest.approx([0.9])


@pytest.mark.parametrize("merge", ["nms", "wbc"])
def test_objects_longer_than_a_tile_come_out_whole(merge):
    random = np.random.default_rng(1)
    shape, config = (96, 64, 40), InferenceConfig(merge=merge)
    for _ in range(30):
        extent = [int(random.integers(17, 60)), int(random.integers(8, 40)), int(random.integers(5, 13))]
        start = [int(random.integers(0, size - edge + 1)) for size, edge in zip(shape, extent, strict=True)]
        box = (*start, *(first + edge for first, edge in zip(start, extent, strict=True)))
        found = detect_volume(Oracle(), volume_with([box], shape), (32, 32, 32), config)
        assert found.boxes.round().int().tolist() == [list(box)]
        assert found.scores.tolist() == pytest.approx([0.9])


def test_many_objects_seen_by_many_views_keep_their_score():
    # 90 objects x 5 members x 8 mirrored views x 8 tiles are 28,800 raw detections of one class.
    places = list(itertools.islice(itertools.product(range(0, 60, 12), repeat=3), 90))
    boxes = torch.tensor([[d, h, w, d + 6, h + 6, w + 6] for d, h, w in places], dtype=torch.float32)
    view = RawDetections.in_tile(
        Detections(boxes, torch.full((90,), 0.8), torch.zeros(90).long()), (0, 0, 0), *[(66,) * 3] * 2
    )
    found = merge_raw_detections(RawDetections.cat([view] * 320), InferenceConfig(merge="wbc"))
    assert len(found) == 90
    assert found.scores.tolist() == pytest.approx([0.8] * 90)


def test_two_long_objects_side_by_side_stay_two():
    boxes = [(4, 4, 4, 60, 9, 9), (4, 12, 4, 60, 17, 9)]
    found = detect_volume(Oracle(), volume_with(boxes, (64, 32, 32)), (32, 32, 32), InferenceConfig(merge="wbc"))
    assert sorted(found.boxes.round().int().tolist()) == sorted(map(list, boxes))


def test_a_view_that_could_see_the_object_whole_and_did_not_costs_its_share():
    class SeesTheFirstTileOnly(Oracle):
        calls = 0

        def detect(self, image):
            found = [one if self.calls + index == 0 else one[:0] for index, one in enumerate(super().detect(image))]
            self.calls += len(image)
            return found

    # Tiles at 0 and 8 of 16 voxels along D both hold D = 10 .. 14 whole; the second is blind.
    image = volume_with([(10, 4, 4, 14, 8, 8)], (24, 16, 16))
    image[0, 23, 0, 0] = -0.5
    found = detect_volume(SeesTheFirstTileOnly(), image, (16, 16, 16), InferenceConfig(merge="wbc"))
    assert found.scores.tolist() == pytest.approx([0.45])


def test_an_empty_tile_that_was_not_run_is_not_counted_as_blind():
    class SeesTheFirstTileOnly(Oracle):
        calls = 0

        def detect(self, image):
            self.calls += len(image)
            return super().detect(image)

    detector = SeesTheFirstTileOnly()
    image = volume_with([(2, 4, 4, 6, 8, 8)], (40, 16, 16))
    found = detect_volume(detector, image, (16, 16, 16), InferenceConfig(merge="wbc"))
    assert detector.calls == 1  # the tile at 0; those from 8 on are constant
    assert found.scores.tolist() == pytest.approx([0.9])


@pytest.mark.slow
@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data())
def test_predict_equals_a_brute_force_merging_of_the_definition(data):
    """Random tile grids, ensembles, mirrored views and noisy scores."""
    seed = data.draw(st.integers(0, 10**6))
    random = np.random.default_rng(seed)
    shape = tuple(int(random.integers(14, 27)) for _ in range(3))
    patch = tuple(int(random.integers(9, 14)) for _ in range(3))
    config = InferenceConfig(
        overlap=float(random.choice([0.0, 0.3, 0.5])),
        merge=str(random.choice(["nms", "wbc"])),
        nms_iou=float(random.choice([0.1, 0.3, 0.5])),
        mirror_axes=((), (1,), (0, 2))[int(random.integers(3))],
        border_weight=float(random.choice([0.1, 1.0])),
        score_threshold=0.05,
    )
    boxes: list[tuple[int, ...]] = []
    for _ in range(12):
        extent = [int(random.integers(1, 11)) for _ in range(3)]
        start = [int(random.integers(0, size - edge + 1)) for size, edge in zip(shape, extent, strict=True)]
        box = (*start, *(first + edge for first, edge in zip(start, extent, strict=True)))
        if len(boxes) < 4 and apart(boxes, box):
            boxes.append(box)
    members = [
        detect_tiles(Noisy(seed + member), TensorTiles(volume_with(boxes, shape), -1.0), patch, config)
        for member in range(int(random.integers(1, 4)))
    ]
    raw = RawDetections.cat(members)
    found = merge_raw_detections(raw, config)
    expected = brute_force(raw, config)
    assert len(found) == len(expected)
    for (box, score), mine, mine_score in zip(expected, found.boxes.tolist(), found.scores.tolist(), strict=True):
        assert mine_score == pytest.approx(score, abs=1e-5)
        assert mine == pytest.approx(box, abs=1e-3)


class Noisy(Oracle):
    """Boxes off by parts of a voxel, scores of their own, some objects missed; no two scores are equal."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = torch.Generator().manual_seed(seed)

    def detect(self, image):
        return [self._disturbed(found) for found in super().detect(image)]

    def _disturbed(self, found):
        boxes = found.boxes + 0.8 * (torch.rand(found.boxes.shape, generator=self.random) - 0.5)
        scores = 0.1 + 0.8 * torch.rand(len(boxes), generator=self.random)
        kept = torch.nonzero(torch.rand(len(boxes), generator=self.random) < 0.85)[:, 0]
        return Detections(boxes, scores, found.labels)[kept]


# ---------------------------------------------------------------------------------------------- the definition, slowly


def volume_of(box):
    return shared(box, box)


def shared(a, b):
    volume = 1.0
    for k in range(3):
        edge = min(a[k + 3], b[k + 3]) - max(a[k], b[k])
        if edge <= 0:
            return 0.0
        volume *= float(edge)
    return volume


def iou(a, b):
    union = volume_of(a) + volume_of(b) - shared(a, b)
    return shared(a, b) / union if union > 0 else 0.0


def brute_force(raw, config):
    """(box, score) by the five steps of `merge_raw_detections`, for one class."""
    found = [
        {
            "box": np.asarray(box, float),
            "score": float(score),
            "weight": config.border_weight + (1 - config.border_weight) * float(border_distance),
            "touches": touches,
            "view": view,
        }
        for box, score, border_distance, touches, view in zip(
            raw.detections.boxes.tolist(),
            raw.detections.scores.tolist(),
            raw.border_distance.tolist(),
            raw.touches_face.tolist(),
            raw.view.tolist(),
            strict=True,
        )
        if score >= config.score_threshold
    ]
    whole = merge_whole([one for one in found if not any(one["touches"])], config)
    pieces = []
    for one in found:
        if any(one["touches"]):
            covers = [
                o
                for o in whole
                if shared(o["box"], one["box"]) >= 0.5 * volume_of(one["box"]) and o["score"] >= 0.5 * one["score"]
            ]
            if covers:
                max(covers, key=lambda o: o["score"])["seen"].add(one["view"])
            else:
                pieces.append(one)
    objects = whole + merge_pieces(pieces, raw.views.tolist(), config)
    if config.merge == "wbc":
        for one in objects:
            could = {
                index
                for index, region in enumerate(raw.views.tolist())
                if all(one["box"][a] >= region[a] and one["box"][a + 3] <= region[a + 3] for a in range(3))
            }
            one["score"] *= len(one["views"]) / (len(one["views"]) + len(could - one["views"] - one["seen"]))
    kept = []
    for one in sorted(objects, key=lambda o: -o["score"]):
        if all(iou(one["box"], other["box"]) <= config.nms_iou for other in kept):
            kept.append(one)
    return [(o["box"].tolist(), o["score"]) for o in kept if o["score"] >= config.score_threshold]


def merge_whole(found, config):
    is_mean = config.merge == "wbc"
    left = sorted(found, key=lambda o: -o["score"] * (1 if is_mean else o["weight"]))
    objects = []
    while left:
        seed = left[0]
        members = [o for o in left if o is seed or iou(o["box"], seed["box"]) > config.nms_iou]
        left = [o for o in left if not any(o is member for member in members)]
        box, score = seed["box"], seed["score"]
        if is_mean:
            w = [(1.0 if o is seed else iou(o["box"], seed["box"])) * o["weight"] for o in members]
            ws = [a * o["score"] for a, o in zip(w, members, strict=True)]
            score = sum(ws) / sum(w)
            box = sum(a * o["box"] for a, o in zip(ws, members, strict=True)) / sum(ws)
        objects.append({"box": box, "score": score, "views": {o["view"] for o in members}, "seen": set()})
    return objects


def merge_pieces(pieces, views, config):
    chains = []
    for one in pieces:
        region = np.asarray(views[one["view"]]) + np.repeat([-CUT_MARGIN_VOX, CUT_MARGIN_VOX], 3)
        chains.append({**one, "box": one["box"].copy(), "face": region, "touches": list(one["touches"]), "of": [one]})
    for axis in range(3):
        for chain in sorted(chains, key=lambda c: -c["score"]):
            for up in (True, False):
                while any(c is chain for c in chains) and continue_chain(chain, chains, axis, up):
                    pass
    for chain in chains:
        chain["rank"] = chain["score"] * float(np.mean([one["weight"] for one in chain["of"]]))
    for chain in chains:
        if len(chain["of"]) > 1:
            chain["rank"] = (2 - any(chain["touches"])) * 1e9 + volume_of(chain["box"])
    chains.sort(key=lambda c: c["rank"], reverse=True)
    kept = []
    for chain in chains:
        cover = next(
            (
                c
                for c in kept
                if shared(c["box"], chain["box"]) >= 0.5 * volume_of(chain["box"])
                and c["score"] >= 0.5 * chain["score"]
            ),
            None,
        )
        if cover is None:
            kept.append({**chain, "all": list(chain["of"])})
        else:
            cover["all"] += chain["of"]
    objects = []
    for chain in kept:
        score = chain["score"]
        if config.merge == "wbc":
            weights = [o["weight"] for o in chain["all"]]
            score = sum(w * o["score"] for w, o in zip(weights, chain["all"], strict=True)) / sum(weights)
        objects.append({"box": chain["box"], "score": score, "views": {o["view"] for o in chain["all"]}, "seen": set()})
    return objects


def continue_chain(chain, chains, axis, up):
    own, other, sign = (axis + 3, axis, 1) if up else (axis, axis + 3, -1)
    if not chain["touches"][own]:
        return False
    best, best_fit = None, 0.0
    for c in chains:
        if c is chain or not c["touches"][other]:
            continue
        if sign * (chain["face"][own] - c["face"][other]) < 0 or sign * (c["face"][own] - chain["face"][own]) <= 0:
            continue
        if sign * (c["box"][own] - chain["face"][own]) < -1 or sign * (c["box"][own] - chain["box"][own]) <= 0:
            continue
        if sign * (c["face"][other] - chain["box"][other]) < -1:
            continue
        ratio = min(c["score"], chain["score"]) / max(c["score"], chain["score"])
        sides = [a for a in range(3) if a != axis]
        both = np.prod(
            [max(0, min(c["box"][a + 3], chain["box"][a + 3]) - max(c["box"][a], chain["box"][a])) for a in sides]
        )
        areas = sum(np.prod([x["box"][a + 3] - x["box"][a] for a in sides]) for x in (c, chain))
        section = both / (areas - both)
        if ratio >= 0.5 and section >= 0.5 and ratio * section > best_fit:
            best, best_fit = c, ratio * section
    if best is None:
        return False
    n, m = len(chain["of"]), len(best["of"])
    for edge in range(6):
        a, b = chain["touches"][edge], best["touches"][edge]
        if edge % 3 == axis:
            takes = edge == own
        elif a != b:
            takes = a
        elif a:
            takes = (best["box"][edge] > chain["box"][edge]) == (edge >= 3)
        else:
            chain["box"][edge] = (n * chain["box"][edge] + m * best["box"][edge]) / (n + m)
            takes = False
        if takes:
            for key in ("box", "face", "touches"):
                chain[key][edge] = best[key][edge]
    chain["score"] = (n * chain["score"] + m * best["score"]) / (n + m)
    chain["of"] = chain["of"] + best["of"]
    chains[:] = [c for c in chains if c is not best]
    return True

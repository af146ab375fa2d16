"""The defaults of `OptimConfig` train a fresh detector on phantoms, in a run as short as a first look."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from medpretrain3d.backbones import ResEnc
from medpretrain3d.boxes import Targets
from medpretrain3d.detection import AnchorGrid, GIoULoss, RetinaNet
from medpretrain3d.engine.optimizer import OptimConfig, configure
from medpretrain3d.phantom import make_case
from medpretrain3d.store.intensity import Window

EDGE, STEPS = 16, 40
ANCHORS = AnchorGrid([[(4, 4, 4), (6, 6, 6)], [(8, 8, 8), (12, 12, 12)]])


def crops(count):
    """Crops of phantoms around a nodule, each with the boxes of those that lie in it whole."""
    random, found, index = np.random.default_rng(0), [], 0
    while len(found) < count:
        case = make_case(seed=0, index=index, spacing_mm=4.0)
        image, index = Window()(case.image[None])[0], index + 1
        places = [place for place in ndimage.find_objects(case.instances) if place]
        boxes = np.array([[*(s.start for s in place), *(s.stop for s in place)] for place in places])
        for box in boxes:
            middle = (box[:3] + box[3:]) // 2 + random.integers(-4, 5, 3)
            start = (middle - EDGE // 2).clip(0, np.array(image.shape) - EDGE)
            inside = ((boxes[:, :3] >= start) & (boxes[:, 3:] <= start + EDGE)).all(axis=1)
            if inside.any():
                crop = torch.from_numpy(image[tuple(slice(at, at + EDGE) for at in start)].copy())
                seen = torch.from_numpy(boxes[inside] - np.tile(start, 2)).float()
                found.append((crop, Targets(seen, torch.zeros(len(seen), dtype=torch.long))))
    return found[:count]


class Watched(GIoULoss):
    """Counts the positives whose extent is decoded at the coder's limit."""

    num_positive = num_at_limit = 0

    def per_anchor(self, deltas, anchors, boxes, coder):
        self.num_positive += len(deltas)
        self.num_at_limit += int((deltas[:, 3:] >= coder.max_log_ratio).any(dim=1).sum())
        return super().per_anchor(deltas, anchors, boxes, coder)


def test_the_box_head_of_a_fresh_detector_does_not_run_away():
    torch.manual_seed(0)
    watched = Watched()
    model = RetinaNet(ResEnc("XXS"), 1, ANCHORS, first_level=1, fpn_channels=16, box_loss=watched)
    made, random, data, losses = configure(model, OptimConfig(), STEPS), np.random.default_rng(0), crops(8), []
    for step in range(STEPS):
        if step == STEPS - 10:
            watched.num_positive = watched.num_at_limit = 0
        crop, targets = zip(*(data[index] for index in random.integers(len(data), size=2)), strict=True)
        loss = torch.stack(list(model.losses(torch.stack(crop)[:, None], list(targets)).values())).sum()
        made["optimizer"].zero_grad()
        loss.backward()
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
        losses.append(loss.item())
    assert watched.num_positive > 20
    assert watched.num_at_limit == 0  # with momentum 0.99 and no ramp: most of them
    assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:10])

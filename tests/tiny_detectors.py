"""One tiny example of every detector, for the tests that ask the same of all of them.

A class that is not named here has one by its own `tiny`: a new detector is tested by existing.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from medpretrain3d.backbones import ResEnc
from medpretrain3d.detection import FCOS, AnchorGrid, DeformableDETR, Detector, RetinaNet, RetinaUNet
from medpretrain3d.registry import known_classes

ANCHORS = AnchorGrid([[(6, 6, 6), (6, 9, 9)], [(12, 12, 12), (12, 18, 18)]])
TINY_DETECTORS: dict[type[Detector], Any] = {
    RetinaNet: partial(RetinaNet, anchors=ANCHORS, fpn_channels=16),
    RetinaUNet: partial(RetinaUNet, anchors=ANCHORS, fpn_channels=16),
    FCOS: partial(FCOS, fpn_channels=16, head_convs=2),
    DeformableDETR: partial(
        DeformableDETR,
        num_levels=2,
        channels=32,
        num_heads=2,
        num_points=2,
        hidden=32,
        dropout=0.0,
        num_queries=12,
        encoder_layers=1,
        decoder_layers=2,
    ),
}
TINY_DETECTORS |= {
    cls: partial(cls, **cls.tiny) for cls in known_classes(Detector).values() if cls not in TINY_DETECTORS
}


def tiny_detector(cls: type[Detector], num_classes: int = 2, strides: Any = None, **options: Any) -> Any:
    """The example of a class, the same at every call."""
    torch.manual_seed(0)
    return TINY_DETECTORS[cls](ResEnc("XXS", strides=strides), num_classes, **options)

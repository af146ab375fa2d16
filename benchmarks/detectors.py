"""A training step against MONAI's RetinaNet detector around the encoder of dynamic-network-architectures.

Same sizes of the encoder, levels, anchors, matching, sampling of negatives, heads, batch and optimizer; MONAI's own
width and depth of the heads in the rows of all defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.apps.detection.networks.retinanet_network import RetinaNet as MonaiRetinaNet
from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape
from monai.networks.blocks.feature_pyramid_network import FeaturePyramidNetwork
from torch import Tensor, nn

from benchmarks.resenc import their_encoder
from benchmarks.timing import Row, race
from benchmarks.training_step import EQUAL_BAR, our_step, race_steps, their_step
from medpretrain3d.backbones import ResEnc
from medpretrain3d.boxes import Targets
from medpretrain3d.detection import FCOS, AnchorGrid, DeformableDETR, Detector, RetinaNet, RetinaUNet

FIRST_LEVEL = 2
BASE = [(6.0, 6.0, 6.0), (8.0, 8.0, 8.0), (10.0, 10.0, 10.0)]
SIZES = [[(d * 2**level, h * 2**level, w * 2**level) for d, h, w in BASE] for level in range(3)]
BOXES = torch.tensor([[10.0, 12, 14, 18, 20, 24], [30, 30, 30, 50, 48, 52]])
ROUNDS = 5


def rows() -> Iterator[Row]:
    image = torch.randn(1, 1, 64, 64, 64, generator=torch.Generator().manual_seed(0))
    anchors = AnchorGrid(SIZES)

    def detector(cls: type[RetinaNet], width: int, convs: int) -> Detector:
        return cls(ResEnc("XS"), 1, anchors, first_level=FIRST_LEVEL, fpn_channels=width, head_convs=convs)

    peer = "monai, both 4 convs of 128"
    equal = _monai_step(128, image)
    retinanet = detector(RetinaNet, 128, 4)
    loss = _loss(retinanet, image)
    work = "training step at 64^3, RetinaNet"
    yield from race_steps(work, peer, equal, lambda precision: our_step(retinanet, loss, precision), ROUNDS)
    unet = detector(RetinaUNet, 128, 4)
    work = "training step at 64^3, Retina U-Net, which also segments"
    yield race(work, peer, equal, our_step(unet, _loss(unet, image), "32-true"), ROUNDS, keeps_memory=True)
    default = _monai_step(256, image)
    for name, ours in (
        ("Retina U-Net", detector(RetinaUNet, 128, 2)),
        ("RetinaNet", detector(RetinaNet, 128, 2)),
        ("FCOS", FCOS(ResEnc("XS"), 1)),
        ("Deformable DETR", DeformableDETR(ResEnc("XS"), 1, num_levels=3)),
    ):
        work, step = f"training step at 64^3, {name}, all defaults", our_step(ours, _loss(ours, image), "32-true")
        yield race(work, "monai RetinaNetDetector", default, step, rounds=3, keeps_memory=True, bar=EQUAL_BAR)


def _loss(detector: Detector, image: Tensor) -> Callable[[], Tensor]:
    mask = torch.zeros(image.shape[2:], dtype=torch.long)
    for d0, h0, w0, d1, h1, w1 in BOXES.long().tolist():
        mask[d0:d1, h0:h1, w0:w1] = 1
    targets = [Targets(BOXES, torch.zeros(len(BOXES), dtype=torch.long), mask)]
    return lambda: torch.stack(list(detector.losses(image, targets).values())).sum()


class _Features(nn.Module):
    """The peers' encoder with MONAI's pyramid, in the form its network takes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.backbone = their_encoder("XS")
        levels = ResEnc("XS").levels[FIRST_LEVEL:]
        self.fpn = FeaturePyramidNetwork(3, [level.channels for level in levels], width)
        self.out_channels = width

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.backbone(image)[FIRST_LEVEL:]
        return self.fpn({str(index): feature for index, feature in enumerate(features)})


def _monai_step(width: int, image: Tensor) -> Callable[[], None]:
    network = MonaiRetinaNet(3, 1, len(BASE), _Features(width), size_divisible=16)
    generator = AnchorGeneratorWithAnchorShape(feature_map_scales=(1, 2, 4), base_anchor_shapes=BASE)
    detector = RetinaNetDetector(network, generator)
    detector.set_atss_matcher(num_candidates=4, center_in_gt=False)
    detector.set_hard_negative_sampler(batch_size_per_image=32, positive_fraction=1 / 3, pool_size=20, min_neg=8)
    detector.set_target_keys("boxes", "labels")
    detector.train()
    target = {"boxes": BOXES, "labels": torch.zeros(len(BOXES), dtype=torch.long)}
    return their_step(detector, lambda: torch.stack(list(detector([image[0]], [target]).values())).sum())

"""A training step against MONAI's RetinaNet detector: the same backbone, levels, anchors, matching and batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.apps.detection.networks.retinanet_network import RetinaNet as MonaiRetinaNet
from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape
from monai.networks.blocks.feature_pyramid_network import FeaturePyramidNetwork
from torch import Tensor, nn

from benchmarks.timing import Row, race
from medpretrain3d.backbones import ResEnc
from medpretrain3d.boxes import Targets
from medpretrain3d.detection import FCOS, AnchorGrid, DeformableDETR, Detector, RetinaNet, RetinaUNet
from medpretrain3d.precision.choice import choose_precision
from medpretrain3d.precision.mixed import autocast
from medpretrain3d.precision.names import Precision

FIRST_LEVEL = 2
BASE = [(6.0, 6.0, 6.0), (8.0, 8.0, 8.0), (10.0, 10.0, 10.0)]
SIZES = [[(d * 2**level, h * 2**level, w * 2**level) for d, h, w in BASE] for level in range(3)]
BOXES = torch.tensor([[10.0, 12, 14, 18, 20, 24], [30, 30, 30, 50, 48, 52]])


def rows() -> Iterator[Row]:
    image = torch.randn(1, 1, 64, 64, 64, generator=torch.Generator().manual_seed(0))
    anchors = AnchorGrid(SIZES)

    def detector(cls: type[RetinaNet], width: int, convs: int) -> Detector:
        return cls(ResEnc("XS"), 1, anchors, FIRST_LEVEL, fpn_channels=width, head_convs=convs)

    chosen = choose_precision("cpu").precision  # what a run takes; MONAI's users get fp32 unless they ask for less
    default = _monai_step(256, image)
    peer = "monai RetinaNetDetector"
    for name, ours in (
        ("Retina U-Net", detector(RetinaUNet, 128, 2)),
        ("RetinaNet", detector(RetinaNet, 128, 2)),
        ("FCOS", FCOS(ResEnc("XS"), 1)),
        ("Deformable DETR", DeformableDETR(ResEnc("XS"), 1, num_levels=3)),
    ):
        work = f"step at 64^3, {name}, all defaults, {chosen}"
        yield race(work, peer, default, _step(ours, image, chosen), rounds=3)
    equal = _monai_step(128, image)
    for name, cls in (("RetinaNet", RetinaNet), ("Retina U-Net, which also segments", RetinaUNet)):
        ours = _step(detector(cls, 128, 4), image, "32-true")
        yield race(f"step at 64^3, {name}", "monai, both 4 convs of 128", equal, ours, rounds=3)


def _step(detector: Detector, image: Tensor, precision: Precision) -> Callable[[], None]:
    mask = torch.zeros(image.shape[2:], dtype=torch.long)
    for d0, h0, w0, d1, h1, w1 in BOXES.long().tolist():
        mask[d0:d1, h0:h1, w0:w1] = 1
    targets = [Targets(BOXES, torch.zeros(len(BOXES), dtype=torch.long), mask)]

    def run() -> None:
        detector.zero_grad()
        with autocast(image.device, precision):
            losses = detector.losses(image, targets)
        torch.stack(list(losses.values())).sum().backward()

    return run


class _Features(nn.Module):
    """Our backbone with MONAI's pyramid, in the form its network takes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.backbone = ResEnc("XS")
        levels = self.backbone.levels[FIRST_LEVEL:]
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

    def run() -> None:
        detector.zero_grad()
        torch.stack(list(detector([image[0]], [target]).values())).sum().backward()

    return run

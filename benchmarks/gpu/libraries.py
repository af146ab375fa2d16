"""Other libraries on the same work and device: MONAI's detector, and the encoder of dynamic-network-architectures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.session import Row, Session, Skipped
from benchmarks.peers import peer
from benchmarks.resenc import their_encoder
from medpretrain3d.backbones import ResEnc
from medpretrain3d.backbones.resenc import Preset
from medpretrain3d.boxes import Targets
from medpretrain3d.detection import AnchorGrid, RetinaNet

BASE = [(6.0, 6.0, 6.0), (8.0, 8.0, 8.0), (10.0, 10.0, 10.0)]
FIRST_LEVEL, WIDTH, CONVS = 2, 128, 4
Autocast = Callable[[], AbstractContextManager[object]]
BOXES = [[10.0, 12, 14, 18, 20, 24], [4.0, 4, 4, 14, 12, 13]]


def rows(session: Session) -> Iterator[Row]:
    preset: Preset = "XS" if session.is_toy else "L"
    edge = 32 if session.is_toy else 128
    shape = (1 if session.is_toy else 2, 1, edge, edge, edge)
    size = f"{shape[0]} of {edge}^3"
    pairs: tuple[tuple[str, str, Callable[..., Callable[[], object]], Callable[..., Callable[[], object]]], ...] = (
        (f"training step, RetinaNet, ResEnc-{preset}, {size}", "MONAI", _monai_step, _retinanet_step),
        (f"training step, ResEnc-{preset} encoder, {size}", "dynamic-network-architectures", _dna_step, _resenc_step),
    )
    for work, name, theirs, ours in pairs:
        theirs_s: list[float] = []
        yield session.row("libraries", work, name, partial(_measure, session, theirs, preset, shape, theirs_s))
        yield session.row("libraries", work, "medpretrain3d", partial(_measure, session, ours, preset, shape, theirs_s))


def _measure(
    session: Session,
    make: Callable[..., Callable[[], object]],
    preset: Preset,
    shape: tuple[int, ...],
    theirs_s: list[float],
) -> tuple[str, str]:
    dtype = session.half if session.is_gpu else torch.float32
    with session.peak() as peak:
        run = make(preset, torch.rand(shape, device=session.device), partial(session.autocast, dtype))
        seconds = session.seconds(run)
        memory = peak()
    note = f"{theirs_s[0] / seconds:.2f} times as fast" if theirs_s else ""
    theirs_s.append(seconds)
    return f"{1 / seconds:.2f} steps/s, peak {memory}", note


def _peer(module: str) -> Any:
    try:
        return peer(module)
    except SystemExit:
        raise Skipped(f"{module.partition('.')[0]} is not installed; `make bench` installs the peers") from None


def _stepping(network: nn.Module, loss_of: Callable[[], Tensor], autocast: Autocast) -> Callable[[], object]:
    def run() -> None:
        network.zero_grad(set_to_none=True)
        with autocast():
            loss = loss_of()
        loss.backward()

    return run


class _Features(nn.Module):
    """Our backbone with MONAI's pyramid, in the form its network takes."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        pyramid = _peer("monai.networks.blocks.feature_pyramid_network")
        self.backbone = ResEnc(preset)
        channels = [level.channels for level in self.backbone.levels[FIRST_LEVEL : FIRST_LEVEL + 3]]
        self.fpn = pyramid.FeaturePyramidNetwork(3, channels, WIDTH)
        self.out_channels = WIDTH

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.backbone(image)[FIRST_LEVEL : FIRST_LEVEL + 3]
        found: dict[str, Tensor] = self.fpn({str(index): feature for index, feature in enumerate(features)})
        return found


def _monai_step(preset: Preset, image: Tensor, autocast: Autocast) -> Callable[[], object]:
    networks = _peer("monai.apps.detection.networks.retinanet_network")
    detectors = _peer("monai.apps.detection.networks.retinanet_detector")
    anchors = _peer("monai.apps.detection.utils.anchor_utils")
    network = networks.RetinaNet(3, 1, len(BASE), _Features(preset), size_divisible=32)
    generator = anchors.AnchorGeneratorWithAnchorShape(feature_map_scales=(1, 2, 4), base_anchor_shapes=BASE)
    detector = detectors.RetinaNetDetector(network.to(image.device), generator)
    detector.set_atss_matcher(num_candidates=4, center_in_gt=False)
    detector.set_hard_negative_sampler(batch_size_per_image=32, positive_fraction=1 / 3, pool_size=20, min_neg=8)
    detector.set_target_keys("boxes", "labels")
    detector.train()
    boxes = torch.tensor(BOXES, device=image.device)
    target = {"boxes": boxes, "labels": torch.zeros(len(boxes), dtype=torch.long, device=image.device)}
    images, targets = list(image), [target] * len(image)
    return _stepping(network, lambda: torch.stack(list(detector(images, targets).values())).sum(), autocast)


def _retinanet_step(preset: Preset, image: Tensor, autocast: Autocast) -> Callable[[], object]:
    sizes = [[(d * 2**level, h * 2**level, w * 2**level) for d, h, w in BASE] for level in range(3)]
    options = {"first_level": FIRST_LEVEL, "fpn_channels": WIDTH, "head_convs": CONVS}
    detector = RetinaNet(ResEnc(preset), 1, AnchorGrid(sizes), **options).to(image.device).train()
    boxes = torch.tensor(BOXES, device=image.device)
    target = Targets(boxes, torch.zeros(len(boxes), dtype=torch.long, device=image.device))
    targets = [target] * len(image)
    return _stepping(detector, lambda: torch.stack(list(detector.losses(image, targets).values())).sum(), autocast)


def _dna_step(preset: Preset, image: Tensor, autocast: Autocast) -> Callable[[], object]:
    _peer("dynamic_network_architectures.building_blocks.residual_encoders")
    network = their_encoder(preset).to(image.device)
    return _stepping(network, lambda: _energy(network(image)), autocast)


def _resenc_step(preset: Preset, image: Tensor, autocast: Autocast) -> Callable[[], object]:
    network = ResEnc(preset).to(image.device)
    return _stepping(network, lambda: _energy(network(image)), autocast)


def _energy(features: list[Tensor]) -> Tensor:
    return torch.stack([feature.square().mean() for feature in features]).sum()

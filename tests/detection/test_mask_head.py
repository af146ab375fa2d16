"""Masks of pooled boxes: what they learn, that they are learnt, and that nothing changes without them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medpretrain3d.backbones import ResEnc
from medpretrain3d.boxes import Targets
from medpretrain3d.detection import FCOS, DeformableDETR, Detector, InstanceMasks, RetinaNet, RetinaUNet
from medpretrain3d.detection.mask_head import MaskHead
from medpretrain3d.errors import UserError
from medpretrain3d.planning.recipe_step import sum_of_outputs
from medpretrain3d.randomness import sample_seeds
from tests.tiny_detectors import ANCHORS, tiny_detector

SHAPE = (16, 16, 16)
DETECTORS: list[type[Detector]] = [FCOS, RetinaNet, DeformableDETR]
MASKS = InstanceMasks(channels=8, size=4, convs=1)
LOSSES = {"mask_cross_entropy", "mask_dice"}


def image(batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 1, *SHAPE, generator=torch.Generator().manual_seed(0))


def ball(mask: bool = True) -> tuple[Targets, torch.Tensor]:
    """A ball of class 1 in its box."""
    radius, center = 4.0, (8.0, 8.0, 8.0)
    place = torch.stack(torch.meshgrid(*[torch.arange(16) + 0.5] * 3, indexing="ij"))
    is_inside = ((place - torch.tensor(center)[:, None, None, None]).norm(dim=0) < radius).to(torch.uint8)
    box = torch.tensor([[*(one - radius for one in center), *(one + radius for one in center)]])
    return Targets(box, torch.tensor([1]), 2 * is_inside if mask else None), is_inside


@pytest.mark.parametrize("cls", DETECTORS)
def test_without_masks_names_weights_and_losses_are_those_that_were_and_with_them_the_others_stay(cls: Any) -> None:
    plain, masked = tiny_detector(cls), tiny_detector(cls, masks=MASKS)
    before, after = plain.state_dict(), masked.state_dict()
    own = {name for name in after if name.startswith("mask_head.")}
    assert own
    assert list(before) == [name for name in after if name not in own]
    assert all(after[name].equal(value) for name, value in before.items())
    target, _ = ball()
    with sample_seeds(torch.tensor([3])):
        of_plain = plain.losses(image(), [target])
    with sample_seeds(torch.tensor([3])):
        of_masked = masked.losses(image(), [target])
    assert set(of_masked) == set(of_plain) | LOSSES
    assert all(of_masked[name].equal(value) for name, value in of_plain.items())
    found = plain.eval().detect(image())[0], masked.eval().detect(image())[0]
    assert found[0].boxes.equal(found[1].boxes)
    assert found[0].scores.equal(found[1].scores)


@pytest.mark.parametrize("cls", DETECTORS)
@pytest.mark.parametrize("targets", ["objects", "one without a mask", "no mask", "nothing"])
def test_every_parameter_gets_a_gradient(cls: Any, targets: str) -> None:
    target, _ = ball()
    unmasked, _ = ball(mask=False)
    nothing = Targets(torch.zeros(0, 6), torch.zeros(0, dtype=torch.long), target.mask)
    model = tiny_detector(cls, masks=MASKS)
    batches = {"objects": [target] * 2, "one without a mask": [target, unmasked], "no mask": [unmasked] * 2}
    losses = model.losses(image(2), batches.get(targets, [nothing] * 2))
    sum(losses.values()).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert all(bool(loss.isfinite()) for loss in losses.values())
    if targets in ("no mask", "nothing"):
        assert losses["mask_cross_entropy"] == losses["mask_dice"] == 0


def head_saying(value: float, options: InstanceMasks) -> MaskHead:
    """A head whose logits are one number everywhere."""
    head = options.head(ResEnc("XXS").levels)
    torch.nn.init.zeros_(head.output.weight)
    assert head.output.bias is not None
    torch.nn.init.constant_(head.output.bias, value)
    return head


def test_losses_by_hand() -> None:
    label_map = torch.zeros(SHAPE, dtype=torch.uint8)
    label_map[:, :, 4:8] = 2  # the left half of the box
    label_map[:, :, 8:12] = 1  # another class
    target = Targets(torch.tensor([[4.0, 4, 4, 12, 12, 12]]), torch.tensor([1]), label_map)
    head = head_saying(0.0, InstanceMasks(channels=8, size=4, convs=0, jitter=0.0, weight=2.0))
    losses = head.losses(ResEnc("XXS")(image()), image(), [target])
    assert losses["mask_cross_entropy"].item() == pytest.approx(2 * torch.tensor(2.0).log().item())
    # 512 parts of 0.5, of which 256 are the object: 1 - (2 * 128 + 1) / (256 + 256 + 1).
    assert losses["mask_dice"].item() == pytest.approx(2 * (1 - 257 / 513))


def test_what_is_outside_of_the_object_s_box_or_has_no_voxel_is_not_learnt() -> None:
    label_map = torch.ones(SHAPE, dtype=torch.uint8)
    boxes, labels = torch.tensor([[4.0, 4, 4, 12, 12, 12]]), torch.tensor([0])
    head = head_saying(20.0, InstanceMasks(channels=8, size=4, convs=0, jitter=0.4))
    features = ResEnc("XXS")(image())
    with sample_seeds(torch.tensor([5])):
        moved = head._changes(1, torch.device("cpu"))[0, 0]
    assert moved.abs().max() <= 0.4
    assert ((moved[:3] < 0) | (moved[3:] > 0)).any()  # beyond the box somewhere, where all the map is the class
    with sample_seeds(torch.tensor([5])):
        assert head.losses(features, image(), [Targets(boxes, labels, label_map)])["mask_cross_entropy"] > 1
    empty = Targets(boxes, labels, torch.zeros_like(label_map))
    assert head.losses(features, image(), [empty])["mask_dice"] == 0


@pytest.mark.parametrize("cls", DETECTORS)
def test_a_ball_is_learnt_by_heart(cls: Any) -> None:
    target, is_ball = ball()
    model = tiny_detector(cls, masks=InstanceMasks(channels=16, size=8, convs=1))
    scan = image() * 0.1 + is_ball
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        model.mask_head.losses(model.backbone(scan), scan, [target])["mask_cross_entropy"].backward()
        optimizer.step()
    likely = model.mask_head.probabilities(model.backbone(scan), target.boxes)  # (1, 16, 16, 16), eight a voxel
    found = torch.nn.functional.avg_pool3d(likely, 2)[0] > 0.5
    wanted = is_ball[4:12, 4:12, 4:12].bool()
    assert (found & wanted).sum() / (found | wanted).sum() > 0.8


@pytest.mark.parametrize("cls", DETECTORS)
def test_planning_and_compiling_know_the_head(cls: Any) -> None:
    model = tiny_detector(cls, masks=MASKS)
    sum_of_outputs(model, image(2)).backward()
    assert not [name for name, parameter in model.mask_head.named_parameters() if parameter.grad is None]
    assert "mask_head.fpn" in model.compiled_parts()
    assert "mask_head" not in model.compiled_parts()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="level 9, but the backbone has 4"):
        tiny_detector(FCOS, masks=InstanceMasks(level=9))
    with pytest.raises(UserError, match="segments as it is"):
        RetinaUNet(ResEnc("XXS"), 1, ANCHORS, masks=MASKS)
    with pytest.raises(UserError, match=r"jitter 0\.5: must be below 0\.5"):
        InstanceMasks(jitter=0.5)
    target, _ = ball()
    wrong = Targets(target.boxes, target.labels, torch.zeros(8, 8, 8))
    with pytest.raises(UserError, match=r"mask of shape \(8, 8, 8\)"):
        tiny_detector(FCOS, masks=MASKS).losses(image(), [wrong])

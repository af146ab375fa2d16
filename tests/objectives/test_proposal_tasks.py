"""Tasks over proposals beside the losses of a detector: AlignDet's contrast and DETReg's embedding."""

from __future__ import annotations

import math

import pytest
import torch

from medpretrain3d.backbones import ResNet3D, load_encoder, read_encoder, save_encoder
from medpretrain3d.boxes import Targets
from medpretrain3d.configurable import from_config, to_config
from medpretrain3d.detection import FCOS, DeformableDETR, RetinaNet, RetinaUNet
from medpretrain3d.errors import UserError
from medpretrain3d.objectives import DetectorPretraining
from medpretrain3d.objectives.proposal_contrast import ProposalContrast, contrast
from medpretrain3d.objectives.proposal_embedding import ProposalEmbedding
from medpretrain3d.objectives.proposals import proposal_features
from tests.objectives.test_detector_pretraining import batch
from tests.tiny_detectors import tiny_detector

DETECTORS = [RetinaNet, RetinaUNet, FCOS]


def objective(cls=FCOS, **options) -> DetectorPretraining:
    torch.manual_seed(0)
    tasks = {"contrast": ProposalContrast(channels=8), "embedding": ProposalEmbedding(edge=16)}
    return DetectorPretraining(tiny_detector(cls), frozen_encoder=True, **tasks | options)


def targets() -> list[Targets]:
    of = batch()
    return [Targets(of["boxes"], of["labels"]), Targets(torch.zeros(0, 6), torch.zeros(0, dtype=torch.long))]


def test_equal_vectors_are_as_good_as_chance_and_unknown_ones_are_left_out():
    same = torch.ones(3, 4)
    everything = torch.ones(3, dtype=torch.bool)
    assert contrast(same, same, everything, 0.5).item() == pytest.approx(math.log(3))
    assert contrast(same, same, torch.tensor([True, True, False]), 0.5).item() == pytest.approx(math.log(2))
    # Two that are opposite, at temperature 0.5: ln(1 + exp(-4)).
    opposite = torch.tensor([[1.0, 0], [-1, 0]])
    found = contrast(opposite, opposite, everything[:2], 0.5).item()
    assert found == pytest.approx(math.log1p(math.exp(-4)), rel=1e-4)
    none = torch.zeros(0, 4, requires_grad=True)
    contrast(none, torch.zeros(0, 4), everything[:0], 0.5).backward()
    assert none.grad is not None


def test_features_are_means_over_the_anchors_of_each_proposal():
    detector = tiny_detector(FCOS)
    features, known = proposal_features(detector, batch()["image"], targets(), "box_head")
    assert known.tolist() == [True, True]
    pyramid = detector.pyramid(batch()["image"])
    cells = torch.cat([detector.box_head.tower(level).flatten(2).transpose(1, 2) for level in pyramid], dim=1)
    shapes = [tuple(level.shape[2:]) for level in pyramid]
    for number in range(2):
        alone = [Targets(targets()[0].boxes, torch.tensor([number == 0, number == 1]).long()), targets()[1]]
        assigned = detector.match(shapes, alone)
        own = assigned.positive[assigned.labels == 1]  # all in the first image, one point for each cell
        torch.testing.assert_close(features[number], cells[0, own].mean(dim=0))


def test_mirrored_boxes_hold_what_they_held():
    task = ProposalContrast()
    image = torch.zeros(6, 1, 16, 16, 16)
    image[:, :, 2:9, 3:9, 4:9] = 1
    inside = Targets(torch.tensor([[2.0, 3, 4, 9, 9, 9]]), torch.tensor([1]))
    seeds = torch.arange(6)
    mirrored, carried = task.mirrored(image, [inside] * 6, seeds)
    for one, target in zip(mirrored, carried, strict=True):
        d0, h0, w0, d1, h1, w1 = target.boxes[0].int().tolist()
        assert one[:, d0:d1, h0:h1, w0:w1].min() == 1
        assert one.sum() == image[0].sum()
    assert len({tuple(target.boxes[0].tolist()) for target in carried}) > 2
    again, _ = task.mirrored(image, [inside] * 6, seeds)
    assert torch.equal(again, mirrored)


@pytest.mark.parametrize("cls", DETECTORS)
@pytest.mark.parametrize("which", ["objects", "no objects"])
def test_every_parameter_but_the_encoder_s_learns_and_the_losses_are_added(cls, which):
    one, of = objective(cls), batch()
    if which == "no objects":
        of |= {"boxes": of["boxes"][:0], "labels": of["labels"][:0], "box_of": of["box_of"][:0]}
    out = one(of)
    alone = DetectorPretraining(one.detector, frozen_encoder=True)(of)
    added = out.logs["contrast"] + out.logs["embedding"]
    assert out.loss.item() == pytest.approx((alone.loss + added).item(), rel=1e-5)
    assert torch.isfinite(added)
    assert (added > 0) == (which == "objects")
    out.loss.backward()
    names = {name for name, parameter in one.named_parameters() if parameter.requires_grad and parameter.grad is None}
    assert names == set()
    assert one(of).loss == out.loss


def test_the_moving_average_follows_and_is_no_part_of_what_is_handed_on():
    one = objective(embedding=None)
    before = {name: value.clone() for name, value in one.tasks["contrast"].teacher.state_dict().items()}
    with torch.no_grad():
        one.detector.box_head.scale += 1.0
    one.after_step()
    after = one.tasks["contrast"].teacher.state_dict()
    torch.testing.assert_close(
        after["network.detector.box_head.scale"], before["network.detector.box_head.scale"] + 0.004
    )
    one.after_load()
    assert torch.equal(one.tasks["contrast"].teacher.network["detector"].box_head.scale, one.detector.box_head.scale)
    assert not any(name.startswith("detector.tasks") for name in one.state_dict())
    twin = from_config(to_config(one), DetectorPretraining)
    assert twin.state_dict().keys() == one.state_dict().keys()


def test_both_networks_of_a_contrast_go_by_the_statistics_of_a_file(tmp_path):
    backbone = ResNet3D(**ResNet3D.tiny)
    with torch.no_grad():
        backbone.train()(torch.randn(2, 1, 32, 32, 32) * 3 + 1)
    save_encoder(tmp_path, backbone, card={})
    one = DetectorPretraining(
        FCOS(ResNet3D(**ResNet3D.tiny), 1, fpn_channels=16, head_convs=1), contrast=ProposalContrast(8)
    )
    load_encoder(one.backbone, read_encoder(tmp_path), one)
    one.after_load()
    image = torch.randn(2, 1, 32, 32, 32)
    with torch.no_grad():
        student = one.train().detector.pyramid(image)
        teacher = one.tasks["contrast"].teacher.network["detector"].pyramid(image)
    for ours, theirs in zip(student, teacher, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_proposal_of_the_right_size_has_the_encoder_s_own_features():
    one = objective()
    whole = [Targets(torch.tensor([[0.0, 0, 0, 16, 16, 16]]), torch.tensor([0])), targets()[1]]
    found = one.tasks["embedding"].embeddings(one.detector, batch()["image"], whole)
    expected = one.backbone.eval()(batch()["image"][:1])[-1].mean(dim=(2, 3, 4))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"detector": tiny_detector(DeformableDETR), "frozen_encoder": True},
            "ProposalContrast reads what a head",
        ),
        ({"contrast": None}, "the encoder learns as well; set frozen_encoder to true"),
        (
            {"embedding": ProposalEmbedding(edge=10), "frozen_encoder": True},
            "got edge 10, wanted a multiple of",
        ),
    ],
)
def test_what_cannot_be_learned_is_refused(options, told):
    arguments = {"detector": tiny_detector(FCOS), "contrast": ProposalContrast(), "embedding": ProposalEmbedding(16)}
    with pytest.raises(UserError, match=told):
        DetectorPretraining(**arguments | options)

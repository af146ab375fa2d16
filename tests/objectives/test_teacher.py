from __future__ import annotations

import copy
import math

import pytest
import torch

from medpretrain3d.backbones import Primus, ResNet3D
from medpretrain3d.objectives import DINO, ConsistentViews
from medpretrain3d.objectives.dino import distillation, entropy
from medpretrain3d.objectives.projector import pool
from medpretrain3d.objectives.teacher import Teacher
from tests.tiny import tiny_backbone
from tests.tiny_views import CONTRASTIVE, two_views

SHAPE = (8, 16, 16)
WITH_TEACHER = [DINO, ConsistentViews]


def train(objective, steps, optimizer=None):
    optimizer = optimizer or torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for step in steps:
        loss = objective(two_views(SHAPE, 8 * step, count=8)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step()
        losses.append(loss.item())
    return losses, optimizer


def test_the_average_after_two_steps_by_hand():
    student = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(student.weight, 1.0)
    teacher = Teacher(student, momentum=0.75)
    for value in (5.0, 9.0):
        torch.nn.init.constant_(student.weight, value)
        teacher.follow(student)
    assert teacher.network.weight.item() == pytest.approx(0.75 * (0.75 * 1 + 0.25 * 5) + 0.25 * 9)


def test_a_teacher_has_no_gradient_no_drop_path_and_batch_norms_like_the_student():
    teacher = Teacher(Primus("XXS", position_grid=(2, 2, 2), drop_path=0.5), 0.9).train()
    image = torch.randn(1, 1, 16, 16, 16, requires_grad=True)
    first, again = teacher(image)[0], teacher(image)[0]
    assert torch.equal(first, again)
    assert not first.requires_grad
    norms = [m for m in Teacher(ResNet3D(10, width=4), 0.9).train().modules() if isinstance(m, torch.nn.BatchNorm3d)]
    assert norms
    assert all(norm.training for norm in norms)


@pytest.mark.parametrize("freezes", [True, False])
def test_a_teacher_goes_by_loaded_statistics_where_the_student_does(freezes):
    student = torch.nn.Sequential(ResNet3D(10, width=4), torch.nn.BatchNorm3d(4))
    teacher = Teacher(student, 0.9)
    student[0].freeze_statistics = teacher.network[0].freeze_statistics = freezes
    norms = (name for name, one in student[0].named_modules() if isinstance(one, torch.nn.BatchNorm3d))
    student[0].loaded_statistics = frozenset(norms)  # as an encoder file leaves it, then the teacher begins anew
    student.train()
    for _ in range(2):
        teacher.start_from(student)
        of_student, of_teacher = (
            [norm.training for norm in one.modules() if isinstance(norm, torch.nn.BatchNorm3d)]
            for one in (student, teacher)
        )
        assert of_student == of_teacher
        assert of_student[:-1] == [not freezes] * (len(of_student) - 1)
        assert of_student[-1]  # a projector's came with no file
        student.train()
        teacher.train()
    assert not any(norm.training for norm in teacher.eval().modules())


@pytest.mark.parametrize("cls", WITH_TEACHER)
def test_teachers_resume_exactly(cls):
    whole = CONTRASTIVE[cls](tiny_backbone("ViT anisotropic"))
    torch.manual_seed(1)
    resumed = CONTRASTIVE[cls](tiny_backbone("ViT anisotropic"))
    _, optimizer = train(whole, range(2))
    state = copy.deepcopy((whole.state_dict(), optimizer.state_dict()))
    expected, _ = train(whole, range(2, 4), optimizer)
    resumed.load_state_dict(state[0])
    second = torch.optim.AdamW([p for p in resumed.parameters() if p.requires_grad])
    second.load_state_dict(state[1])
    losses, _ = train(resumed, range(2, 4), second)
    assert losses == expected
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize("cls", WITH_TEACHER)
def test_the_encoder_holds_no_teacher_and_the_teacher_begins_with_loaded_weights(cls):
    objective = CONTRASTIVE[cls](tiny_backbone())
    assert objective.backbone.state_dict().keys() == tiny_backbone().state_dict().keys()
    with torch.no_grad():
        for parameter in objective.backbone.parameters():
            parameter.add_(1)
    objective.after_load()
    taught = objective.teacher.network[0].state_dict()
    assert all(torch.equal(taught[name], value) for name, value in objective.backbone.state_dict().items())


def test_uniform_outputs_cost_ln_k_whatever_the_target():
    target = torch.rand(3, 50).softmax(dim=1)
    assert distillation(torch.full((3, 50), 7.0), target).item() == pytest.approx(math.log(50), abs=1e-5)
    assert entropy(torch.full((50,), 1 / 50)).item() == pytest.approx(math.log(50), abs=1e-5)


def test_a_student_learns_from_the_other_view():
    objective = CONTRASTIVE[DINO](tiny_backbone("ViT anisotropic"))
    batch = two_views(SHAPE)
    swapped = {**batch, "image": batch["image"].flip(1), "affine": batch["affine"].flip(1)}
    assert objective(batch).loss.item() == pytest.approx(objective(swapped).loss.item(), abs=1e-5)
    same = {**batch, "image": batch["image"][:, :1].expand(-1, 2, -1, -1, -1, -1)}
    assert objective(batch).loss.item() != pytest.approx(objective(same).loss.item(), abs=1e-3)


@pytest.mark.parametrize("name", ["ViT anisotropic", "PlainConv"])
def test_self_distillation_does_not_collapse_in_sixty_steps(name):
    objective = CONTRASTIVE[DINO](tiny_backbone(name))
    unseen = two_views(SHAPE, first_seed=10_000, count=16)["image"][:, 0]

    def spread() -> tuple[float, float]:
        with torch.no_grad():
            features = pool(objective.backbone(unseen)[-1])
        share = torch.linalg.svdvals(features - features.mean(dim=0)).square()
        return features.std(dim=0).mean().item(), entropy(share / share.sum()).exp().item()

    before = spread()
    losses, _ = train(objective, range(60))
    after = spread()
    assert sum(losses[-5:]) < sum(losses[:5])
    assert after[0] > 0.3 * before[0]  # standard deviation over samples
    assert after[1] > 0.5 * before[1]  # effective rank


def test_the_head_of_dino_is_maps_with_gelu_between_and_cosines_with_prototypes():
    """Caron et al., 2021, appendix C."""
    objective = DINO(tiny_backbone(), num_prototypes=8, head_channels=(6, 4))
    head, width = objective.head, objective.backbone.levels[-1].channels
    vectors = torch.randn(3, width, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    first, last = (one for one in head.modules() if isinstance(one, torch.nn.Linear))
    hidden = torch.nn.functional.gelu(vectors.mean(dim=(2, 3, 4)) @ first.weight.T + first.bias)
    bottleneck = hidden @ last.weight.T + last.bias
    cosine = torch.nn.functional.cosine_similarity(bottleneck[:, None], head.prototypes[None], dim=-1)
    torch.testing.assert_close(head([vectors]), cosine)


def test_the_teacher_of_dino_follows_more_slowly_as_the_run_goes_on():
    """Published: from 0.996 to 1 along half a cosine; one number is kept for the whole run."""
    objective = DINO(tiny_backbone(), num_prototypes=8, head_channels=(8,))
    found = []
    for step in (0, 25, 50, 100):
        objective.at_step(step, 100)
        found.append(objective.teacher.momentum)
    quarter = 1 - 0.004 * (1 + math.cos(math.pi / 4)) / 2
    assert found == pytest.approx([0.996, quarter, 0.998, 1.0])
    assert objective.schedules(50, 50) == pytest.approx({"momentum of the teacher": 1.0})
    constant = DINO(tiny_backbone(), num_prototypes=8, head_channels=(8,), momentum=0.99)
    constant.at_step(70, 100)
    assert constant.teacher.momentum == 0.99

from __future__ import annotations

import math

import pytest
import torch

from medpretrain3d.errors import UserError
from medpretrain3d.objectives import MultiTalent
from medpretrain3d.objectives.multi_talent import bce_and_dice, label_sums, logits_to_labels
from tests.tiny import tiny_backbone
from tests.tiny_objectives import labelled_batch, tiny_objective


def test_loss_by_hand():
    # Four voxels, two inside. Logits of 0 say one half everywhere: cross-entropy ln 2, Dice 2 * 1 / (2 + 2).
    logits = torch.zeros(1, 1, 1, 4)
    sums = label_sums(logits, torch.tensor([[[1, 1, 0, 0]]]))
    torch.testing.assert_close(sums[:, 0], torch.tensor([4 * math.log(2), 4, 1, 2, 2]))
    bce, dice = bce_and_dice(sums, smooth=0)
    assert bce.item() == pytest.approx(math.log(2))
    assert dice.item() == pytest.approx(0.5)


def test_dice_is_of_the_batch_and_of_valid_classes_alone():
    # Two images of class 0: one found whole (2 of 2), one missed (0 of 2): 2 * 2 / (2 + 4), not the mean of 1 and 0.
    sure = 50.0
    found = label_sums(torch.tensor([[[[sure, sure, -sure]]]]), torch.tensor([[[1, 1, 0]]]))
    missed = label_sums(torch.full((1, 1, 1, 3), -sure), torch.tensor([[[1, 1, 0]]]))
    tally = torch.cat([found + missed, torch.zeros(5, 1)], dim=1)  # class 1 is of a data set that is not in the batch
    _, dice = bce_and_dice(tally)
    assert dice.tolist() == pytest.approx([4 / 6, 0], abs=1e-4)


@pytest.mark.parametrize("backbone", ["ResEnc", "ViT"])
def test_outputs_of_other_data_sets_get_a_gradient_of_exactly_zero(backbone):
    objective = tiny_objective(MultiTalent, backbone)
    batch = labelled_batch(backbone)
    batch["dataset"] = torch.ones_like(batch["dataset"])
    objective(batch).loss.backward()
    assert (objective.outputs.weight.grad[:2] == 0).all()
    assert (objective.outputs.bias.grad[:2] == 0).all()
    assert (objective.outputs.weight.grad[2:].flatten(1).abs().sum(1) > 0).all()


def test_equal_names_of_two_data_sets_are_two_outputs():
    objective = tiny_objective(MultiTalent, "ResEnc")
    assert objective.outputs.weight.shape[0] == 5
    feature = torch.randn(objective.outputs.in_channels, 2, 2, 2)
    both = objective.logits(feature, 0), objective.logits(feature, 1)
    assert [len(logits) for logits in both] == [2, 3]
    assert not torch.allclose(both[0][0], both[1][0])  # liver and liver


def test_a_batch_of_two_data_sets_costs_what_each_costs():
    objective = tiny_objective(MultiTalent, "ResEnc")  # instance norm: samples do not touch each other
    batch = labelled_batch("ResEnc")
    alone = [objective({key: value[index : index + 1] for key, value in batch.items()}).loss for index in (0, 1)]
    assert objective(batch).loss.item() == pytest.approx(sum(alone).item(), abs=1e-5)


def test_most_probable_label_over_a_half_is_shown():
    logits = torch.tensor([[-1.0, 2.0, 0.5], [-2.0, 1.0, 3.0]]).reshape(2, 1, 1, 3)
    assert logits_to_labels(logits).flatten().tolist() == [0, 1, 2]


def test_missing_labels_are_named():
    with pytest.raises(UserError, match="wanted at least one class in every data set"):
        MultiTalent(tiny_backbone(), (("liver",), ()))
    with pytest.raises(UserError, match=r"the batch has no label_map; set data\.views"):
        tiny_objective(MultiTalent, "ResEnc")({"image": torch.zeros(1, 1, 16, 16, 16), "seed": torch.zeros(1)})

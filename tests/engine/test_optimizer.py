from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medpretrain3d.backbones import Backbone, Level, Primus, ViT
from medpretrain3d.engine.optimizer import OptimConfig, configure, freeze, lr_factor, rests_at_random
from medpretrain3d.errors import UserError


class Encoder(Backbone):
    """Three depth groups: a stem and two blocks."""

    levels = (Level(2, (1, 1, 1)),)
    in_channels = 2

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(2, 2)
        self.blocks = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.blocks[1](self.blocks[0](self.stem(image)))]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Encoder()
        self.head = nn.Linear(2, 2)


def rates(optimizer: torch.optim.Optimizer) -> dict[int, float]:
    """The learning rate of each parameter now."""
    return {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}


def test_poly_with_warm_up_by_hand():
    config = OptimConfig(warmup_steps=4)
    assert [lr_factor(step, config, 14) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert lr_factor(4, config, 14) == 1.0
    assert lr_factor(9, config, 14) == pytest.approx(0.5**0.9)
    assert lr_factor(14, config, 14) == 0.0


def test_what_was_transferred_and_what_is_fresh_have_rates_of_their_own():
    model = Model()
    model.neck = nn.Linear(2, 2)
    config = OptimConfig(lr=1.0, warmup_steps=0, backbone_lr_scale=0.5, transferred_lr_scale=0.25, fresh_lr_scale=2.0)
    found = rates(configure(model, config, 10, {"neck.weight", "neck.bias"})["optimizer"])
    assert {found[id(parameter)] for parameter in model.backbone.parameters()} == {0.5}
    assert {found[id(parameter)] for parameter in model.neck.parameters()} == {0.25}
    assert {found[id(parameter)] for parameter in model.head.parameters()} == {2.0}


@pytest.mark.parametrize("num_steps", [1, 6, 120, 1000, 3000, 125_000])
@pytest.mark.parametrize("schedule", ["poly", "cosine", "constant"])
def test_a_run_that_says_nothing_warms_up_for_a_thousand_steps(num_steps, schedule):
    config = OptimConfig(schedule=schedule)
    ramp = [lr_factor(step, config, num_steps) for step in range(min(num_steps, 1001))]
    assert ramp == pytest.approx([min(1.0, (step + 1) / 1000) for step in range(len(ramp))])
    configure(Model(), config, num_steps)  # no refusal: a ramp longer than the run is not asked for
    after_sawtooth = OptimConfig(schedule=schedule, sawtooth_steps=30)
    assert [lr_factor(30 + step, after_sawtooth, 30 + num_steps) for step in range(len(ramp))] == ramp


@pytest.mark.parametrize("sawtooth_steps", [0, 30])
@pytest.mark.parametrize("schedule", ["poly", "cosine", "constant"])
@pytest.mark.parametrize("num_steps", [999, 1000, 1001])
def test_a_run_as_long_as_its_ramp_is_trained_to_its_end(num_steps, schedule, sawtooth_steps):
    config = OptimConfig(schedule=schedule, sawtooth_steps=sawtooth_steps)
    made = configure(Model(), config, sawtooth_steps + num_steps)
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    for _ in range(sawtooth_steps + num_steps):
        rate = scheduler.get_last_lr()[0]
        optimizer.step()
        scheduler.step()  # behind the last step too, as Lightning does
    assert rate == pytest.approx(config.lr * min(1.0, num_steps / 1000))


def test_the_published_ramp_begins_at_a_millionth():
    config = OptimConfig(lr=1e-2, warmup_steps=4000, warmup_lr=1e-6)
    at = [config.lr * lr_factor(step, config, 125_000) for step in (0, 2000, 4000, 64_500)]
    assert at == pytest.approx([1e-6, (1e-2 + 1e-6) / 2, 1e-2, 1e-2 * 0.5**0.9])


def test_sawtooth_ramps_the_head_first_and_then_all():
    config = OptimConfig(sawtooth_steps=2, warmup_steps=4)
    head = [lr_factor(step, config, 16) for step in range(7)]
    encoder = [lr_factor(step, config, 16, is_encoder=True) for step in range(7)]
    assert head == [0.5, 1.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert encoder == [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert lr_factor(11, config, 16) == pytest.approx(0.5**0.9)


def test_sawtooth_leaves_the_encoder_as_it_is_until_its_turn():
    model = Model()
    made = configure(model, OptimConfig(sawtooth_steps=1, warmup_steps=1), 10)
    before = [parameter.clone() for parameter in model.parameters()]
    moved = []
    for _ in range(2):
        model.head(model.backbone(torch.ones(1, 2))[0]).sum().backward()
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
        moved.append([not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)])
    assert moved == [[False] * 6 + [True] * 2, [True] * 8]


def test_cosine_by_hand():
    config = OptimConfig(schedule="cosine", warmup_steps=0)
    assert [lr_factor(step, config, 4) for step in (0, 2, 4)] == pytest.approx([1.0, 0.5, 0.0])


def test_groups_scale_the_backbone_and_spare_biases_from_decay():
    optimizer = configure(Model(), OptimConfig(lr=0.1, weight_decay=0.5, backbone_lr_scale=0.1), 10)["optimizer"]
    rows = sorted((round(group["initial_lr"], 6), group["weight_decay"]) for group in optimizer.param_groups)
    assert rows == [(0.01, 0.0), (0.01, 0.5), (0.1, 0.0), (0.1, 0.5)]


def test_layer_decay_halves_the_rate_from_group_to_group_towards_the_input():
    model = Model()
    of = rates(configure(model, OptimConfig(lr=0.8, layer_decay=0.5, warmup_steps=0), 10)["optimizer"])
    modules = [model.head, model.backbone.blocks[1], model.backbone.blocks[0], model.backbone.stem]
    assert [of[id(module.weight)] for module in modules] == pytest.approx([0.8, 0.4, 0.2, 0.1])


@pytest.mark.parametrize(
    ("frozen", "init_from", "taken", "told"),
    [
        (0, None, None, ""),
        (2, None, None, "warning: optim.frozen_groups 2: no model.init_from, so these groups keep random values"),
        (2, "encoder", None, ""),
        (2, "encoder", 2, ""),
        (3, "encoder", 2, "warning: optim.frozen_groups 3: model.init_groups 2, so some keep random values"),
    ],
)
def test_groups_that_rest_at_random_values_are_told(frozen, init_from, taken, told):
    doubt = rests_at_random(OptimConfig(frozen_groups=frozen), init_from, taken)
    assert doubt.startswith(told)
    assert bool(doubt) == bool(told)


def test_frozen_groups_are_the_first_ones_and_are_not_in_the_optimiser():
    model, config = Model(), OptimConfig(frozen_groups=2)
    freeze(model, config)
    trained = rates(configure(model, config, 10)["optimizer"])
    names = [name for name, parameter in model.named_parameters() if id(parameter) in trained]
    assert names == ["backbone.blocks.1.weight", "backbone.blocks.1.bias", "head.weight", "head.bias"]
    with pytest.raises(UserError, match=r"frozen_groups 3: the encoder has 3 depth groups; freeze 0 \.\. 2"):
        freeze(Model(), OptimConfig(frozen_groups=3))


def test_one_plain_sgd_step_by_hand():
    parameter = nn.Parameter(torch.tensor([[1.0]]))
    model = nn.ParameterList([parameter])
    settings = OptimConfig(lr=0.5, momentum=0.9, weight_decay=0.0, warmup_steps=0)
    optimizer = configure(model, settings, 10)["optimizer"]
    parameter.grad = torch.tensor([[2.0]])
    optimizer.step()
    # Nesterov: the first step moves by lr * (g + momentum * g).
    assert parameter.item() == pytest.approx(1 - 0.5 * (2 + 0.9 * 2))


@pytest.mark.parametrize(("nesterov", "second"), [(False, 2.9), (True, 2.9 * 0.9 + 1)])
def test_momentum_with_and_without_nesterov_by_hand(nesterov, second):
    parameter = nn.Parameter(torch.tensor([[0.0]]))
    settings = OptimConfig(
        lr=1.0, momentum=0.9, nesterov=nesterov, weight_decay=0.0, schedule="constant", warmup_steps=0
    )
    optimizer = configure(nn.ParameterList([parameter]), settings, 10)["optimizer"]
    where = []
    for gradient in (2.111111, 1.0):  # momentum: v = 2.11, then 0.9 * 2.11 + 1 = 2.9
        parameter.grad = torch.tensor([[gradient]])
        optimizer.step()
        where.append(parameter.item())
    assert where[0] - where[1] == pytest.approx(second, abs=1e-4)


def test_adamw_divides_by_the_root_of_the_gradient_plus_eps():
    parameter = nn.Parameter(torch.tensor([[1.0]]))
    settings = OptimConfig(name="adamw", lr=0.1, weight_decay=0.0, eps=1.0, amsgrad=True, warmup_steps=0)
    optimizer = configure(nn.ParameterList([parameter]), settings, 10)["optimizer"]
    parameter.grad = torch.tensor([[3.0]])
    optimizer.step()
    # With bias correction the first step is lr * g / (|g| + eps).
    assert parameter.item() == pytest.approx(1 - 0.1 * 3 / (3 + 1))
    assert "max_exp_avg_sq" in optimizer.state[parameter]


def test_a_warm_up_longer_than_the_run_is_refused():
    with pytest.raises(UserError, match=r"warmup_steps 10 and trainer.max_steps 10"):
        configure(Model(), OptimConfig(warmup_steps=10), 10)
    with pytest.raises(UserError, match=r"warmup_steps 6 after sawtooth_steps 4 and trainer.max_steps 10"):
        configure(Model(), OptimConfig(warmup_steps=6, sawtooth_steps=4), 10)


def test_options_for_an_encoder_need_one():
    with pytest.raises(UserError, match="for a model without a backbone"):
        configure(nn.Linear(2, 2), OptimConfig(layer_decay=0.7), 10)


def test_weight_decay_follows_a_cosine_where_there_is_one_and_goes_on_from_a_checkpoint():
    config = OptimConfig(warmup_steps=0, weight_decay=0.04, weight_decay_end=0.4, schedule="constant")

    def made():
        model = Model()
        both = configure(model, config, 10)
        return model, both["optimizer"], both["lr_scheduler"]["scheduler"]

    def decays(optimizer):
        return sorted({group["weight_decay"] for group in optimizer.param_groups})

    _, optimizer, schedules = made()
    found = [decays(optimizer)]
    for _ in range(10):
        optimizer.step()
        schedules.step()
        found.append(decays(optimizer))
        if len(found) == 6:
            state = schedules.state_dict(), optimizer.state_dict()
    assert all(none == 0 for none, _ in found)  # biases are not decayed
    assert [found[step][1] for step in (0, 5, 10)] == pytest.approx([0.04, 0.22, 0.4])
    assert "weight_decays" not in state[0]
    _, optimizer, schedules = made()
    schedules.load_state_dict(state[0])
    optimizer.load_state_dict(state[1])
    assert decays(optimizer) == found[5]
    schedules.step()
    assert decays(optimizer) == found[6]


@pytest.mark.parametrize("backbone", [ViT("XXS"), Primus("XXS")], ids=lambda one: type(one).__name__)
def test_a_patch_embedding_has_a_rate_of_its_own(backbone):
    model = Model()
    model.backbone = backbone
    config = OptimConfig(lr=1.0, warmup_steps=0, layer_decay=0.5, embed_lr_scale=0.2)
    found = rates(configure(model, config, 10)["optimizer"])
    assert [found[id(one)] for one in backbone.embedding.parameters()] == pytest.approx([0.2 * 0.5**3] * 2)
    table = backbone.pos_embed if isinstance(backbone, ViT) else backbone.eva.pos_embed
    assert found[id(table)] == pytest.approx(0.5**3)
    with pytest.raises(UserError, match="no transformer over patches"):
        configure(Model(), config, 10)

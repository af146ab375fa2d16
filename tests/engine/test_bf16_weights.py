from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging, WeightAveraging
from torch import Tensor, nn
from torch.utils.data import DataLoader

from medpretrain3d.engine.bf16_weights import check_bf16_weights
from medpretrain3d.engine.fused import stay_fused
from medpretrain3d.engine.precision import precision_plugin
from medpretrain3d.engine.weight_averaging import average_in_fp32, average_in_one_call
from medpretrain3d.errors import UserError
from medpretrain3d.precision.mixed import autocast
from medpretrain3d.precision.split_weights import is_split, whole

CLIP = 0.5
DATA = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))


class Module(L.LightningModule):
    """A network of two layers and a norm; which types its weights had in each step is noted."""

    def __init__(self, name: str = "adamw") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.name = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 1)), name
        self.types: set[torch.dtype] = set()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.types.add(self.net[0].weight.dtype)
        return loss_of(self.net, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer_of(list(self.parameters()), self.name)


def loss_of(net: nn.Module, batch: Tensor) -> Tensor:
    return (net(batch).float() - batch.sum(dim=1, keepdim=True)).square().mean()


def optimizer_of(weights: list[nn.Parameter], name: str) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer
    if name == "adamw":
        optimizer = torch.optim.AdamW(weights, 0.01, fused=True)
    else:
        optimizer = torch.optim.SGD(weights, 0.01, momentum=0.9, nesterov=True, fused=True)
    stay_fused(optimizer)
    return optimizer


def trainer_of(max_steps: int, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        plugins=[precision_plugin("bf16-true", "cpu")],
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


class Save(L.Callback):
    """Keeps the state after three steps."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == 3:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_steps_are_those_of_weights_in_fp32_of_which_the_network_sees_bf16(name):
    module = Module(name)
    trainer_of(3, gradient_clip_val=CLIP).fit(module, DataLoader(DATA, batch_size=2))
    assert module.types == {torch.bfloat16}
    wanted = Module(name).net  # its weights stay in fp32, and are rounded for each forward pass
    optimizer = optimizer_of(list(wanted.parameters()), name)
    for batch in DATA.split(2):
        rounded = Module(name).net
        rounded.load_state_dict(wanted.state_dict())
        for layer in (rounded[0], rounded[3]):
            layer.weight.data = layer.weight.data.to(torch.bfloat16)
        with autocast(torch.device("cpu"), "bf16-true", cache_enabled=False):
            loss = loss_of(rounded, batch)
        loss.backward()
        for one, other in zip(wanted.parameters(), rounded.parameters(), strict=True):
            one.grad = other.grad.float()
        nn.utils.clip_grad_norm_(wanted.parameters(), CLIP)
        optimizer.step()
    for key, value in wanted.state_dict().items():
        assert module.net.state_dict()[key].dtype == torch.float32
        assert torch.equal(module.net.state_dict()[key], value)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_run_that_goes_on_ends_with_the_bytes_of_one_that_was_not_interrupted(name, tmp_path):
    path, again, straight = str(tmp_path / "state.ckpt"), Module(name), Module(name)
    data = DataLoader(DATA[:2].repeat(6, 1), batch_size=2)  # of which every batch is the same
    trainer_of(6, Save(path)).fit(straight, data)
    state = torch.load(path, weights_only=True)
    floats = [value for value in state["state_dict"].values() if value.is_floating_point()]
    moments = [one for each in state["optimizer_states"][0]["state"].values() for one in each.values()]
    assert {value.dtype for value in (*floats, *(one for one in moments if one.ndim))} == {torch.float32}
    weight = state["state_dict"]["net.0.weight"]
    assert not torch.equal(weight, weight.bfloat16().float())  # whole
    with torch.no_grad():
        again.net[0].weight.zero_()  # it is read
    trainer_of(6).fit(again, data, ckpt_path=path, weights_only=True)
    for key, value in straight.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
    assert not any(map(is_split, straight.parameters()))


def test_gradients_of_micro_batches_add_up():
    module = Module()
    norms: list[float] = []

    class Note(L.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            assert {weight.grad.dtype for weight in weights} == {torch.float32}
            norms.append(float(torch.nn.utils.get_total_norm([weight.grad for weight in weights])))

    trainer_of(1, Note(), accumulate_grad_batches=3).fit(module, DataLoader(DATA, batch_size=2))
    plain = Module().net
    for batch in DATA.split(2):
        (loss_of(plain, batch) / 3).backward()
    wanted = float(torch.nn.utils.get_total_norm([weight.grad for weight in plain.parameters()]))
    assert norms == [pytest.approx(wanted, rel=0.02)]


class Validated(Module):
    """Notes the weight that a validation sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        assert is_split(self.net[0].weight)
        self.seen.append(whole(self.net[0].weight).clone())


class NoteWhole(L.Callback):
    """Notes the weights after each step."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        self.seen.append(whole(module.net[0].weight).clone())


@pytest.mark.parametrize("kind", ["moving average", "mean"])
def test_averages_follow_whole_weights_and_are_whole(kind, tmp_path):
    """By hand: of each step 0.25, or the mean of all; in fp32 what is validated and what a run ends with."""
    average = EMAWeightAveraging(decay=0.75) if kind == "moving average" else WeightAveraging()
    average_in_one_call([average])
    average_in_fp32([average])
    module, note, path = Validated(), NoteWhole(), tmp_path / "state.ckpt"
    data = DataLoader(DATA, batch_size=2)
    every_two = {"val_check_interval": 2, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0}
    trainer_of(4, note, average, Save(str(path)), **every_two).fit(module, data, data)
    means = [note.seen[0]]
    for number, weight in enumerate(note.seen[1:], start=2):
        share = 0.25 if kind == "moving average" else 1 / number
        means.append(means[-1] + share * (weight - means[-1]))
    last = module.net[0].weight
    torch.testing.assert_close(last, means[-1])
    assert not torch.equal(last, last.bfloat16().float())  # no half is lost
    for seen in module.seen[:3]:  # three batches of the validation after two steps
        torch.testing.assert_close(seen, means[1])
    torch.testing.assert_close(module.seen[-1], means[3])
    assert torch.equal(note.seen[2], torch.load(path, weights_only=True)["current_model_state"]["net.0.weight"])
    again, noted, other = Validated(), NoteWhole(), EMAWeightAveraging(decay=0.75)
    if kind == "moving average":
        average_in_one_call([other])
        average_in_fp32([other])
        trainer_of(4, noted, other).fit(again, DataLoader(DATA[2:4], batch_size=2), ckpt_path=path, weights_only=True)
        expected = means[2] + 0.25 * (noted.seen[-1] - means[2])  # it went on from the average of three steps
        torch.testing.assert_close(again.net[0].weight, expected)


def test_what_would_lose_the_other_half_is_refused():
    with pytest.raises(UserError, match=r"bf16-true: got StochasticWeightAveraging .* take WeightAveraging"):
        check_bf16_weights([StochasticWeightAveraging(swa_lrs=0.1)], None)
    with pytest.raises(UserError, match="got trainer\\.strategy fsdp2"):
        check_bf16_weights([], "fsdp2")
    check_bf16_weights([EMAWeightAveraging(decay=0.9)], "ddp")

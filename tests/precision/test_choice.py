"""Which precision is taken where none is asked for: by timings that the tests make up."""

from __future__ import annotations

import pytest
import torch

from medpretrain3d.errors import UserError
from medpretrain3d.precision import choice
from medpretrain3d.precision.choice import (
    ENVIRONMENT,
    LARGE,
    SMALL,
    choose_for_cpu,
    choose_for_gpu,
    choose_precision,
    is_bf16_emulated,
    note_on,
)
from medpretrain3d.precision.names import precision_name

ZEN_4 = {"architecture": "x86_64", "avx512_f": True, "avx512_bf16": True}
AVX2 = {"architecture": "x86_64", "avx2": True, "avx512_bf16": False, "amx_bf16": False}


class Timing:
    """Milliseconds that a convolution takes in fp32, and how many times as quick bf16 is; notes what was asked."""

    def __init__(self, small: float, large: float) -> None:
        self.ratio = {SMALL: small, LARGE: large}
        self.asked: list[tuple[int, int, bool]] = []

    def __call__(self, channels: int, edge: int, in_bf16: bool) -> float:
        self.asked.append((channels, edge, in_bf16))
        return 12.0 / self.ratio[channels, edge] if in_bf16 else 12.0


def chosen(capabilities=ZEN_4, small=1.0, large=2.0, fault=""):
    return choose_for_cpu(capabilities, Timing(small, large), lambda: fault)


def test_bf16_is_taken_where_it_is_clearly_quicker():
    found = chosen(large=1.8)
    assert (found.precision, found.bf16_speed_ratio) == ("bf16-mixed", 1.8)
    assert "bf16 pays" in str(found)
    assert "1.80 x the speed of fp32" in str(found)


@pytest.mark.parametrize(("ratio", "precision"), [(1.0, "32-true"), (1.14, "32-true"), (1.16, "bf16-mixed")])
def test_a_small_gain_is_left(ratio, precision):
    found = chosen(large=ratio)
    assert (found.precision, found.bf16_speed_ratio) == (precision, ratio)


def test_the_quickest_of_each_counts():
    times = iter([9, 9, 5, 9, 7, 3, 9, 9, 40, 8, 8, 30, 8, 8])  # of two warm-ups and 2, then 3 rounds, in turn
    found = choose_for_cpu(ZEN_4, lambda *_: float(next(times)), lambda: "")
    assert found.bf16_speed_ratio == 8 / 8  # the hiccups of 40 and 30 ms count for neither
    assert found.precision == "32-true"


def test_a_large_gain_is_measured_twice_before_it_is_taken():
    small, disturbed, usual = [1.0, 1.0] * 3, [1.26, 1.0] * 4, [0.62, 1.0] * 4  # fp32 and bf16 in turn, a warm-up first
    times = iter([*small, *disturbed, *usual])
    found = choose_for_cpu(ZEN_4, lambda *_: next(times), lambda: "")
    assert (found.precision, found.bf16_speed_ratio) == ("32-true", 0.62)


def test_a_processor_without_instructions_is_rejected_by_its_flags_and_the_large_probe_is_never_waited_for():
    timing = Timing(small=3.0, large=9.0)  # a noisy moment
    found = choose_for_cpu(AVX2, timing, lambda: pytest.fail("nothing is compared"))
    assert found.precision == "32-true"
    assert "no bf16 instructions" in found.reason
    assert {one[:2] for one in timing.asked} == {SMALL}


def test_unknown_emulation_is_found_by_the_small_probe_alone():
    timing = Timing(small=0.05, large=9.0)
    found = choose_for_cpu({"architecture": "riscv64"}, timing, lambda: "")
    assert (found.precision, found.bf16_speed_ratio) == ("32-true", 0.05)
    assert {one[:2] for one in timing.asked} == {SMALL}


@pytest.mark.parametrize(("threads", "edge"), [(1, 16), (2, 20), (8, 32), (64, 64), (256, 64)])
def test_each_thread_has_as_much_to_do(threads, edge):
    asked = set()

    def timing(channels, edge, in_bf16):
        asked.add((channels, edge))
        return 1.0

    choose_for_cpu(ZEN_4, timing, lambda: "", threads)
    assert asked == {SMALL, (LARGE[0], edge)}


def test_a_processor_that_gains_nothing_by_narrow_convolutions_takes_bf16_for_its_steps():
    """Measured on a Zen 5 with two threads: 16 channels 1.0, 32 channels 1.14 to 1.38, 64 and more 1.5 to 1.8."""

    def timing(channels, edge, in_bf16):
        return 12.0 / (1.0 if channels < 32 else 1.14 if channels < 64 else 1.55) if in_bf16 else 12.0

    assert choose_for_cpu(ZEN_4, timing, lambda: "", 2).precision == "bf16-mixed"


def test_wrong_gradients_are_not_taken_however_quick():
    found = chosen(fault="gradients differ")
    assert found.precision == "32-true"
    assert "gradients differ" in found.reason


@pytest.mark.parametrize(
    ("flags", "is_emulated"),
    [
        (AVX2, True),
        (ZEN_4, False),
        ({"architecture": "x86_64", "avx512_f": True}, True),  # AVX512 alone emulates
        ({"architecture": "x86_64", "amx_bf16": True}, False),
        ({"architecture": "aarch64", "bf16": False}, True),
        ({"architecture": "arm64", "bf16": True}, False),
        ({"architecture": "riscv64"}, False),  # not known: a timing tells
        ({}, False),
    ],
)
def test_flags(flags, is_emulated):
    assert is_bf16_emulated(flags) is is_emulated


@pytest.mark.parametrize(
    ("native", "capability", "precision"),
    [
        (True, (8, 0), "bf16-mixed"),
        (False, (7, 5), "16-mixed"),
        (False, (7, 0), "16-mixed"),
        (False, (6, 1), "32-true"),
    ],
)
def test_a_gpu_takes_bf16_where_it_has_it_else_fp16_on_tensor_cores(native, capability, precision):
    assert choose_for_gpu(native, capability).precision == precision


def test_the_choice_of_this_machine_is_made_once_and_draws_nothing(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    choice._of_device.cache_clear()
    state = torch.get_rng_state()
    found = choose_precision("cpu")
    assert found.precision in ("32-true", "bf16-mixed")
    assert found.bf16_speed_ratio > 0
    assert torch.get_rng_state().equal(state)
    monkeypatch.setattr(choice, "milliseconds", lambda *_: pytest.fail("timed twice"))
    assert choose_precision(torch.device("cpu")) is found


def test_a_machine_can_be_told(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, "bf16")
    assert choose_precision("cpu").precision == "bf16-mixed"
    assert ENVIRONMENT in choose_precision("cpu").reason
    monkeypatch.setenv(ENVIRONMENT, "fast")
    with pytest.raises(UserError, match=rf"{ENVIRONMENT}: got 'fast', wanted one of 32-true, bf16-mixed, 16-mixed"):
        choose_precision("cpu")


def test_gradients_in_bf16_are_right_here():
    assert choice.bf16_fault() == ""


@pytest.mark.parametrize(
    ("asked", "name"), [("16", "16-mixed"), (16, "16-mixed"), ("fp32", "32-true"), ("bf16-mixed", "bf16-mixed")]
)
def test_other_names(asked, name):
    assert precision_name(asked) == name


@pytest.mark.parametrize("asked", ["bf16-true", "64-true", "", "8"])
def test_pure_half_precision_is_refused(asked):
    with pytest.raises(UserError, match=r"trainer\.precision: got .*, wanted one of 32-true, bf16-mixed, 16-mixed"):
        precision_name(asked, "trainer.precision")


def test_what_is_emulated_is_said(monkeypatch):
    assert note_on("32-true", "cpu") == ""
    assert "fp16 is emulated on CPUs" in note_on("16-mixed", "cpu")
    monkeypatch.setattr(choice, "_of_device", lambda _: choose_for_cpu(AVX2, Timing(0.1, 0.1), lambda: ""))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: AVX2)
    assert "emulates them: a 3D convolution in bf16 runs at 0.10 x" in note_on("bf16-mixed", "cpu")
    monkeypatch.setattr(choice, "_of_device", lambda _: choose_for_cpu(ZEN_4, Timing(1, 2), lambda: ""))
    assert note_on("bf16-mixed", "cpu") == ""

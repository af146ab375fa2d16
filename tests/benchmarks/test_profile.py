from __future__ import annotations

import pytest

from benchmarks.__main__ import NAMES, main
from benchmarks.profile import kind_of


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("aten::convolution_backward", "convolution"),
        ("aten::native_group_norm_backward", "norm"),
        ("aten::linalg_vector_norm", "optimizer and clipping"),
        ("aten::_fused_adamw_", "optimizer and clipping"),
        ("Optimizer.step#AdamW.step", "optimizer and clipping"),
        ("aten::nll_loss_nd", "loss"),
        ("aten::leaky_relu_", "activation and pooling"),
        ("aten::copy_", "copies"),
        ("aten::add", "rest"),
    ],
)
def test_kernels_are_told_apart_by_name(kernel, kind):
    assert kind_of(kernel) == kind


def test_benchmarks_are_found_by_being_there_and_a_wrong_name_is_refused_with_them():
    assert {"boxes", "detectors", "resenc"} <= set(NAMES)
    assert not {"page", "timing", "profile", "recipe_steps", "training_step"} & set(NAMES)
    with pytest.raises(SystemExit, match="no benchmark 'box'; there are anchors, "):
        main(["box"])

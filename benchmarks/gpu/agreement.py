"""Agreement with the CPU: loss and gradient of every objective and detector, in every precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.recipes import loss_of, moved
from benchmarks.gpu.session import PRECISION_OF, Row, Session, Skipped
from medpretrain3d.boxes import Targets
from medpretrain3d.detection import Detector
from medpretrain3d.objectives import Objective
from medpretrain3d.precision.mixed import autocast
from tests.tiny_detectors import TINY_DETECTORS, tiny_detector
from tests.tiny_objectives import TINY_OBJECTIVES, default_backbone, tiny_objective

FP16_SCALE = 2.0**12
"""Of the loss, as a scaler has it once it has settled: small gradients would else be 0."""
SHAPE = (32, 32, 32)


@dataclass(frozen=True)
class Setting:
    """A precision, and how far it may be from float32 on the CPU.

    `loss` is relative. `gradient` is the length of the difference over the length of the CPU's gradient, of all
    parameters; half precision has 8 or 11 bits, and normalization over the few voxels of a small network magnifies
    what is rounded. What a setting breaks, such as a kernel that reads the wrong voxels, is off by 1 and more.
    """

    name: str
    dtype: torch.dtype
    loss: float
    gradient: float
    is_tf32: bool = False


SETTINGS = (
    Setting("fp32", torch.float32, 1e-4, 1e-2),
    Setting("TF32", torch.float32, 1e-2, 1e-1, is_tf32=True),
    Setting("bf16 AMP", torch.bfloat16, 5e-2, 5e-1),
    Setting("fp16 AMP", torch.float16, 1e-2, 2e-1),
)
TOY_NAMES = ("MAE", "RetinaNet")


def rows(session: Session) -> Iterator[Row]:
    for name, make, batch in _cases():
        if session.is_toy and name not in TOY_NAMES:
            continue
        reference: list[tuple[float, Tensor]] = []
        for setting in SETTINGS:
            measure = partial(_compare, session, setting, make, batch, reference)
            yield session.row("agreement", f"{name}, loss and gradient", setting.name, measure)


def _cases() -> Iterator[tuple[str, Callable[[], Objective | Detector], Any]]:
    """Every objective on the first backbone that it takes, and every detector, small."""
    for cls, tiny in TINY_OBJECTIVES.items():
        backbone = default_backbone(cls)
        yield cls.__name__, partial(tiny_objective, cls), tiny.batch(backbone, 5)
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(SHAPE, dtype=torch.long)
    mask[4:10, 6:14, 8:15] = 2
    boxes, labels = torch.tensor([[4.0, 6, 8, 10, 14, 15]]), torch.tensor([1])
    targets = [Targets(boxes, labels, mask, seed=torch.tensor(seed)) for seed in range(2)]
    for detector in TINY_DETECTORS:
        yield (
            detector.__name__,
            partial(tiny_detector, detector),
            (torch.randn(2, 1, *SHAPE, generator=generator), targets),
        )


def _compare(
    session: Session,
    setting: Setting,
    make: Callable[[], Objective | Detector],
    batch: Any,
    reference: list[tuple[float, Tensor]],
) -> tuple[str, str]:
    if setting.is_tf32 and not session.is_gpu:
        raise Skipped("a CPU has no TF32")
    if not reference:
        reference.append(_step(make(), batch, torch.device("cpu"), SETTINGS[0]))
    loss, gradient = reference[0]
    found_loss, found = _step(make(), batch, session.device, setting)
    of_loss = abs(found_loss - loss) / abs(loss)
    of_gradient = float((found - gradient).norm() / gradient.norm())
    agrees = of_loss <= setting.loss and of_gradient <= setting.gradient
    result = f"{'agrees' if agrees else 'DIFFERS'}: loss {of_loss:.1e}, gradient {of_gradient:.1e}"
    return result, f"allowed {setting.loss:.0e} and {setting.gradient:.0e}"


def _step(model: Objective | Detector, batch: Any, device: torch.device, setting: Setting) -> tuple[float, Tensor]:
    model.to(device).train()
    precision = "tf32" if setting.is_tf32 else "ieee"
    before = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = precision
    try:
        with autocast(device, PRECISION_OF[setting.dtype]):
            loss = loss_of(model, moved(batch, device))
        scale = FP16_SCALE if setting.dtype == torch.float16 else 1.0
        (loss.float() * scale).backward()
    finally:
        torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision = before
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return float(loss.detach()), torch.cat([gradient.double().cpu().flatten() for gradient in gradients]) / scale

"""What each recipe of published scale needs, computed from its network: `make bench ARGS=published_scale` prints it.

The network of a training step is traced on tensors without memory, up to its loss. The way back is twice the way there,
for parts without a way back (a slow teacher) as well. Memory is counted as `medpretrain3d plan` does. Hours are these
FLOP divided by what a GPU computes with such a network, taken from two published times of a step; nothing was measured
on a GPU here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.recipe_steps import CONFIGS, made
from medpretrain3d.backbones import Backbone
from medpretrain3d.command_line.composition import composed, recipe_layers
from medpretrain3d.detection import Detector, RetinaUNet
from medpretrain3d.detection.dense import DenseDetector
from medpretrain3d.objectives import CaseClassification, MultiTalent, Objective
from medpretrain3d.planning.memory import MemoryEstimate, estimate_memory

TFLOP_PER_S = {"A100": 35.0, "H200": 94.0}
"""Of ResEnc-L in mixed precision: published are 0.50 s for a step of nnU-Net on an A100, taken as two patches of 160^3,
and 0.31 s for two of 192^3 on an H200."""
GPUS = "GB GPU", "GPU of"
"""What the line `Hardware:` of such a recipe says."""
HEADER = (
    "| recipe | GPUs | steps | TFLOP per step | EFLOP | hours A100 | hours H200 | GiB per GPU | read, MB/s per A100 |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


class Scale(NamedTuple):
    """Arithmetic and memory of a recipe."""

    recipe: str
    num_gpus: int
    num_steps: int
    step_flop: float
    """Of all GPUs."""
    memory_gib: float
    """Of one GPU."""
    step_bytes: int
    """Voxels that a step reads, of all GPUs, in the two bytes that they have in a store."""

    def hours(self, gpu: str) -> float:
        """Return the hours of the run on its GPUs."""
        return self.step_flop * self.num_steps / (TFLOP_PER_S[gpu] * 1e12) / self.num_gpus / 3600

    def __str__(self) -> str:
        read = self.step_bytes / 1e6 / (self.step_flop / (TFLOP_PER_S["A100"] * 1e12))
        cells = [
            *(self.recipe, str(self.num_gpus), f"{self.num_steps:,}", f"{self.step_flop / 1e12:.2f}"),
            f"{self.step_flop * self.num_steps / 1e18:.2f}",
            *(f"{self.hours(gpu):.0f}" if self.hours(gpu) >= 10 else f"{self.hours(gpu):.1f}" for gpu in TFLOP_PER_S),
            *(f"{self.memory_gib:.0f}", f"{read:.0f}"),
        ]
        return f"| {' | '.join(cells)} |"


def report() -> None:
    """Print a row for each recipe that asks for GPUs."""
    print(HEADER)
    for scale in scales():
        print(scale, flush=True)


def scales() -> Iterable[Scale]:
    """Compute recipe by recipe."""
    for stage in ("pretrain", "finetune"):
        for path in sorted((CONFIGS / stage).glob("*.yaml")):
            hardware = next(line for line in path.read_text(encoding="utf-8").splitlines() if "# Hardware:" in line)
            if any(word in hardware for word in GPUS):
                yield scale_of(path, stage, 8 if "8 x" in hardware else 1)


def scale_of(path: Path, stage: str, num_gpus: int) -> Scale:
    """Trace the network of a recipe."""
    config = composed(recipe_layers(path, stage))
    data, model = config["data"], config["model"]
    patch: list[int] = list(data["patch"])
    per_gpu = int(data.get("batch_size", 2))
    traced: list[float] = []

    def network() -> nn.Module:
        with torch.device("cpu"):  # numbers are computed while it is built
            return network_of(model).to("meta")

    batch = batch_of(str((data.get("views") or {}).get("class_path")), patch)

    def forward(network: nn.Module, _: Tensor) -> object:
        with torch.device("cpu"), FlopCounterMode(display=False) as counter:  # masks are drawn
            output = forward_of(network, batch)
        traced.append(3.0 * counter.get_total_flops())
        return output

    memory: MemoryEstimate = estimate_memory(network, forward, (1, *patch))
    num_crops = sum(one.numel() for one in batch.values() if one.device.type == "meta") // prod(patch)
    return Scale(
        recipe=f"{stage}/{path.stem}",
        num_gpus=num_gpus,
        num_steps=int(config["trainer"]["max_steps"]),
        step_flop=traced[0] * per_gpu * num_gpus,
        memory_gib=memory.gib(per_gpu),
        step_bytes=2 * num_crops * prod(patch) * per_gpu * num_gpus,
    )


def forward_of(network: nn.Module, batch: Mapping[str, Tensor]) -> object:
    """Run a training step's network, and its loss as far as that needs no values."""
    if isinstance(network, RetinaUNet):
        mask_logits, pyramid = network.branches(batch["image"])
        return [mask_logits, network.classification_head(pyramid), network.box_head(pyramid)]
    if isinstance(network, DenseDetector):
        return list(network.outputs(batch["image"]))
    try:
        return network(batch).loss
    except (RuntimeError, NotImplementedError):  # similarities of what the networks gave
        return None


def network_of(model: Mapping[str, Any]) -> nn.Module:
    """Build the objective or detector of a recipe; of two classes where the data would tell them."""
    if "detector" in model:
        return cast(nn.Module, made(Detector, model["detector"]))
    described = model["objective"]
    supervised = {"MultiTalent": MultiTalent, "CaseClassification": CaseClassification}.get(described["class_path"])
    if supervised is not None:
        return supervised(made(Backbone, described["init_args"]["backbone"]), (("one", "other"),))
    return cast(nn.Module, made(Objective, described))


def batch_of(views: str, patch: list[int]) -> dict[str, Tensor]:
    """Return a batch of one sample: images without memory, and what says where they are from."""

    def images(*shape: int) -> Tensor:
        return torch.empty(*shape, *patch, device="meta")

    seed = {"seed": torch.arange(1)}
    if views == "TwoViews":
        return {"image": images(1, 2, 1), "affine": torch.eye(3, 4).repeat(1, 2, 1, 1), **seed}
    if views == "VolumePairs":
        return {"image": images(1, 2, 1), **seed}
    if views == "GridAndTargets":
        grid = {"target_of": torch.zeros(5, dtype=torch.long), "grid": torch.tensor([[1, 4, 4]])}
        return {"base": images(1, 16, 1), "target": images(5, 1), "share": torch.rand(5, 16), **grid, **seed}
    labels = {"label_map": torch.zeros(1, *patch, dtype=torch.long, device="meta")} if views == "LabeledView" else {}
    cases = {"case_label": torch.zeros(1, dtype=torch.long)} if views == "CaseLabelView" else {}
    return {"image": images(1, 1), "dataset": torch.zeros(1, dtype=torch.long), **labels, **cases, **seed}

"""What a program imports before it works: seconds of every run, of every loader worker and of every wrong key."""

from __future__ import annotations

import subprocess
import sys

import pytest

NEVER = [
    *("SimpleITK", "blosc2", "cc3d", "huggingface_hub", "jinja2", "monai", "nibabel", "numba", "onnx", "openpyxl"),
    *(
        "pandas",
        "pydicom",
        "requests",
        "safetensors",
        "scipy.optimize",
        "scipy.signal",
        "scipy.stats",
        "timm",
        "torchvision",
        "wandb",
    ),
]
"""Imported where one of their functions is called."""
OF_LIGHTNING = ["fsspec", "lightning", "matplotlib", "torch._dynamo", "torchmetrics"]
"""Lightning imports them, and nothing else does: torch itself imports `torch._dynamo` with the first optimizer."""
LIBRARY = [
    *("backbones", "boxes", "detection", "evaluation", "inference", "ingest", "loading", "objectives", "planning"),
    *("store", "visualization.pictures", "visualization.box_pictures", "visualization.line_plot"),
]


def imported(*modules: str) -> set[str]:
    """All modules that a new process holds after importing some."""
    code = f"import sys, {', '.join(modules)}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_stage_imports_what_it_needs_and_metrics_of_torchmetrics_are_there_for_who_asks():
    code = (
        "import sys, pretrain.cli, finetune.cli\n"
        "print(*sys.modules)\n"
        "import torch, torchmetrics\n"
        "from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultMetric\n"
        "one = torchmetrics.Metric\n"
        "assert 'torchmetrics.functional' not in sys.modules\n"
        "from torchmetrics import MeanMetric, MetricCollection\n"  # now all of it
        "from torchmetrics.classification import BinaryAccuracy\n"
        "assert torchmetrics.Metric is one is torchmetrics.metric.Metric\n"
        "assert issubclass(MeanMetric, one) and issubclass(_ResultMetric, one)\n"
        "mean = MetricCollection([MeanMetric()]); mean.update(torch.tensor([1.0, 3.0]))\n"
        "print(mean.compute()['MeanMetric'].item(), torchmetrics.functional.__name__, hasattr(torchmetrics, 'nothing'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules, asked_for = done.stdout.splitlines()
    found = set(modules.split())
    assert [name for name in [*NEVER, "torchmetrics.functional", "torchmetrics.classification"] if name in found] == []
    assert "torchmetrics.metric" in found, "Lightning imports it"
    assert asked_for.split() == ["2.0", "torchmetrics.functional", "False"]


def test_the_library_imports_what_it_needs():
    found = imported(*(f"medpretrain3d.{name}" for name in LIBRARY))
    assert [name for name in [*NEVER, *OF_LIGHTNING] if name in found] == []


@pytest.mark.parametrize("module", ["pretrain.__main__", "finetune.__main__", "medpretrain3d.cli"])
def test_a_command_line_is_looked_at_without_torch(module):
    found = imported(module, "medpretrain3d.command_line.precheck")
    assert [name for name in [*NEVER, "lightning", "matplotlib", "torch", "torchmetrics.metric"] if name in found] == []

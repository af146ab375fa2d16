"""Check that the installed libraries work together, by using each as this package does.

A torchvision built for another torch breaks `import lightning`, timm and MONAI with messages that name none of them, an
old blosc2 ends the process, an old timm builds other networks: each library is therefore used in a process of its own,
and its answer is compared with a known one. Versions below this package's bounds, which are what it was tested with,
are named.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys

PATIENCE_S = 300.0
"""For one check: compiling the loops of `boxes` takes a minute on a slow machine, and a library may wait for ever."""


def _check(name: str) -> str:
    return f"from medpretrain3d.commands import library_checks; library_checks.{name}()"


CHECKS = {
    "versions": _check("versions"),
    "torch": _check("torch"),
    "torch + torchvision": (
        "import torch, torchvision\n"
        "boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2.1], [5, 5, 6, 6]])\n"
        "assert torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 2]\n"
        "print(torchvision.__version__)"
    ),
    "timm": _check("timm"),
    "lightning": "import lightning; lightning.Trainer(barebones=True, max_steps=1); print(lightning.__version__)",
    "monai": _check("monai"),
    "blosc2": _check("blosc2"),
    "numba": _check("numba"),
    "scipy": _check("scipy"),
    "nibabel": _check("nibabel"),
    "safetensors": _check("safetensors"),
    "cc3d": _check("cc3d"),
    "pictures": _check("pictures"),
    "wandb": "import wandb; wandb.Settings(host='redacted', x_disable_meta=True); print(wandb.__version__)",
    "threads": _check("threads"),
    "shared memory": _check("shared_memory"),
    "CUDA": _check("cuda"),
    "cuDNN": _check("cudnn"),
    "precision": _check("precision"),
}
"""A program per library; what only `engine` may import is used without this package."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(args: argparse.Namespace) -> int:
    """Print a line per library; 1 when one of them is broken."""
    broken = 0
    for name, program in CHECKS.items():
        fault, message = _answer(program)
        print(f"{name:<22}{'BROKEN' if fault else 'ok':<8}{fault or message}", flush=True)
        broken += bool(fault)
    if broken:
        print("install the pinned set: pip install -c constraints.txt -e .")
    return int(broken > 0)


def _answer(program: str) -> tuple[str, str]:
    """What is wrong, empty if nothing is, and the last line that the program printed."""
    command = [sys.executable, "-W", "ignore", "-c", program]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        return f"no answer in {PATIENCE_S:g} s", ""
    if done.returncode == 0:
        return "", _last_line(done.stdout)
    message = _last_line(done.stderr)
    if done.returncode < 0:
        return f"the process was ended by {signal.Signals(-done.returncode).name} {message}".rstrip(), ""
    return message or f"exit code {done.returncode}", ""


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]

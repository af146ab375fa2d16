"""Check that the installed libraries work together.

A torchvision built for another torch breaks `import lightning`, timm and MONAI with messages that name none of them;
each library is therefore imported in a process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

CHECKS = {
    "torch": "import torch; print(torch.__version__)",
    "torch + torchvision": "import torch, torchvision; torchvision.ops.nms; print(torchvision.__version__)",
    "timm": "import timm; print(timm.__version__)",
    "lightning": "import lightning; print(lightning.__version__)",
    "monai": "import monai; print(monai.__version__)",
    "blosc2": "import blosc2; print(blosc2.__version__)",
    "nibabel": "import nibabel; print(nibabel.__version__)",
    "wandb": "import wandb; print(wandb.__version__)",
    "CUDA": (
        "import torch\n"
        "print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else 'no GPU; training runs on the CPU')"
    ),
    "cuDNN": (
        "import sys, torch\n"
        "v = torch.backends.cudnn.version() if torch.cuda.is_available() else None\n"
        "print('not used' if v is None else v)\n"
        "sys.exit('3D convolutions in bf16 and TF32 are broken before 9.16; update cuDNN' if v and v < 91600 else 0)"
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(args: argparse.Namespace) -> int:
    """Print a line per library; 1 when one of them is broken."""
    broken = 0
    for name, code in CHECKS.items():
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
        lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
        verdict = "ok" if done.returncode == 0 else "BROKEN"
        print(f"{name:<22}{verdict:<8}{lines[-1] if lines else ''}")
        broken += done.returncode != 0
    if broken:
        print("install the pinned set: pip install -c constraints.txt -e .")
    return int(broken > 0)

"""What every test shares."""

from __future__ import annotations

import os

# Before torch is imported: several processes on few cores must sleep while they wait, not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("WANDB_MODE", "disabled")

from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("shared_cores", deadline=None)  # a first call may take seconds where cores are shared
settings.load_profile("shared_cores")

torch.set_num_threads(1)  # the suite runs in several processes already


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and reference results beside the repository; tests that need them skip where they are absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no folder `shared` beside the repository: real data and reference results are not here")
    return folder

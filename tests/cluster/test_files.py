"""The ready files for SLURM are what SLURM and this program understand."""

from __future__ import annotations

import os
import subprocess

import pytest

from .conftest import FILES


@pytest.mark.parametrize("name", sorted(path.name for path in FILES.glob("*.sbatch")))
def test_slurm_would_start_it(name):
    options = ["--nodes=2"] if name == "several_nodes.sbatch" else []  # there are two
    command = ["sbatch", "--test-only", *options, str(FILES / name), "word"]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "to start at" in done.stderr

"""The files for SLURM and for containers say what this program and its project know; no SLURM is needed to ask."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

from medpretrain3d.command_line.precheck import precheck
from medpretrain3d.command_line.stages import stage_words

from ..docs.test_commands import parse

ROOT = Path(__file__).resolve().parents[2]
FILES = {path.name: path for path in sorted((ROOT / "configs" / "slurm").glob("*.sbatch"))}
OPTIONS = {
    *("array", "cpus-per-task", "exclusive", "gpus-per-node", "mem", "nodes", "ntasks-per-node", "open-mode"),
    *("output", "requeue", "signal", "time"),
}
"""Those of sbatch that the files use; what they mean, tests/cluster asks a SLURM."""
RUN = ["pretrain", "--config", "mae_resenc_l"]
SIZES = {
    "SLURM_NTASKS_PER_NODE": "ntasks-per-node",
    "SLURM_NNODES": "nodes",
    "SLURM_CPUS_PER_TASK": "cpus-per-task",
}
WORDS = {
    "one_node.sbatch": RUN,
    "several_nodes.sbatch": RUN,
    "finetune_array.sbatch": ["lidc", "--config", "lidc_idri"],
    "prepare_array.sbatch": ["RAW", "STORE", "--spacing-mm", "1", "1", "1"],
    "study.sbatch": ["openkbp"],
}


def asked(path: Path) -> dict[str, str]:
    """What a file asks of SLURM."""
    found = re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?", path.read_text(encoding="utf-8"), re.M)
    return dict(found)


@pytest.mark.parametrize("path", FILES.values(), ids=list(FILES))
def test_a_file_is_a_script_whose_first_lines_say_what_and_how(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/bin/bash"
    assert f"# Run:  sbatch configs/slurm/{path.name} " in "\n".join(lines[:5]) + " "
    assert set(asked(path)) <= OPTIONS
    assert {"requeue", "open-mode", "output", "time"} <= set(asked(path))


@pytest.mark.parametrize("path", FILES.values(), ids=list(FILES))
def test_its_program_takes_what_it_is_given(path, tmp_path, monkeypatch):
    told = tmp_path / "told"
    for name in ("srun", "medpretrain3d"):
        (tmp_path / name).write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@" > {told}\n')
        (tmp_path / name).chmod(0o755)
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho node1\necho node2\n")
    (tmp_path / "scontrol").chmod(0o755)
    sizes = {name: asked(path).get(option, "") for name, option in SIZES.items()}
    task = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_NODELIST": "node[1-2]"}
    environment = {**os.environ, **sizes, **task, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment.pop("OMP_NUM_THREADS", None)
    subprocess.run(["bash", str(path), *WORDS[path.name]], env=environment, check=True)
    launcher, *words = told.read_text().splitlines()
    assert launcher == ("medpretrain3d" if path.name == "study.sbatch" else "srun")
    words = words[words.index("medpretrain3d") + 1 :] if launcher == "srun" else words
    monkeypatch.chdir(ROOT)
    if words[0] in ("pretrain", "finetune"):
        precheck(words[0], stage_words(words[1:], words[0])[1:])
        given = dict(pairwise(words))
        assert given["--trainer.devices"] == asked(path)["gpus-per-node"] == asked(path)["ntasks-per-node"]
    else:
        parse(shlex.join(["medpretrain3d", *words]), monkeypatch)


@pytest.mark.parametrize("name", ["Dockerfile", "medpretrain3d.def"])
def test_an_image_is_made_of_the_pins_and_of_extras_that_there_are(name):
    text = (ROOT / "containers" / name).read_text(encoding="utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (listed,) = re.findall(r'"/opt/medpretrain3d\[([\w,]+)\]"', text)
    assert set(listed.split(",")) == set(extras) - {"docs"}
    assert "--constraint /opt/medpretrain3d/constraints.txt" in text
    assert (ROOT / "constraints.txt").is_file()
    assert "://" not in text

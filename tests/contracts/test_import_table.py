"""Who may import whom (docs/architecture.md). A frozen decision: change the table there first."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "src" / "medpretrain3d"
GROUND = {
    *("errors", "configurable", "atomic", "memory", "names", "documents", "processes", "randomness", "finite"),
    *("interruption", "failure", "values", "compiled"),
}
MAY_IMPORT = {
    "boxes": set(),
    "backbones": set(),
    "objectives": {"backbones"},
    "detection": {"boxes", "backbones"},
    "data": {"boxes"},
    "planning": {"boxes", "backbones", "detection", "data"},
    "inference": {"boxes", "detection", "backbones", "data"},
    "evaluation": {"boxes", "data"},
    "engine": {"backbones"},
    "study": {"evaluation"},
    "commands": {
        *("boxes", "backbones", "objectives", "detection", "data", "planning", "inference", "evaluation", "study"),
    },
    "cli": {"commands"},
    "errors": set(),
    "configurable": set(),
    "atomic": set(),
    "compiled": set(),
    "memory": set(),
    "values": set(),
    "names": set(),
    "documents": set(),
    "processes": set(),
    "randomness": set(),
    "finite": set(),
    "interruption": set(),
    "failure": set(),
    "__init__": set(),
}
LIGHTNING_ALLOWED = {"engine"}
WANDB_ALLOWED = {"engine"}


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(path: Path) -> str:
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.py")), ids=lambda path: str(path.relative_to(LIBRARY)))
def test_imports_run_one_way(path):
    own = layer(path)
    used = {
        name.split(".")[1] for name in imports(path) if name.startswith("medpretrain3d.") and "__version__" not in name
    }
    assert used - MAY_IMPORT[own] - GROUND - {own} == set()


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.py")), ids=lambda path: str(path.relative_to(LIBRARY)))
def test_lightning_and_wandb_stay_in_the_engine(path):
    packages = {name.split(".")[0] for name in imports(path)}
    assert "lightning" not in packages or layer(path) in LIGHTNING_ALLOWED
    assert "wandb" not in packages or layer(path) in WANDB_ALLOWED
    assert "torchvision" not in packages


@pytest.mark.parametrize(
    ("stage", "forbidden"),
    [
        ("pretrain", {"boxes", "detection", "inference", "study"}),
        ("finetune", {"objectives", "study"}),
    ],
)
def test_stages_import_their_half_of_the_library_only(stage, forbidden):
    for path in (ROOT / stage).glob("*.py"):
        names = imports(path)
        used = {name.split(".")[1] for name in names if name.startswith("medpretrain3d.")}
        assert used & forbidden == set(), path
        other = "finetune" if stage == "pretrain" else "pretrain"
        assert not [name for name in names if name.split(".")[0] == other], path


def test_importing_the_package_stays_light():
    code = (
        "import sys, medpretrain3d\n"
        "heavy = {'timm', 'torchvision', 'wandb', 'matplotlib', 'lightning', 'monai', 'torch', 'numba'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_boxes_and_detectors_import_numba_only_when_they_need_it():
    code = "import sys, medpretrain3d.boxes, medpretrain3d.detection\nprint('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

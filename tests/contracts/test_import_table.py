"""Who may import whom, as the table of docs/architecture.md says: change it there."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "src" / "medpretrain3d"
STAGES = ("pretrain", "finetune")
FILES = {
    **{f"medpretrain3d.{path.relative_to(LIBRARY).with_suffix('').as_posix()}": path for path in LIBRARY.rglob("*.py")},
    **{f"{stage}.{path.stem}": path for stage in STAGES for path in (ROOT / stage).glob("*.py")},
}
MODULES = {name.replace("/", ".").removesuffix(".__init__"): path for name, path in FILES.items()}
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
MAY_USE_IMPORTLIB = {
    f"medpretrain3d.{name}".removesuffix(".__init__")
    for name in re.findall(r"`([\w.]+)`", PAGE.split("`importlib` is for ")[1].split(" alone")[0])
}


@cache
def table() -> dict[str, set[str]]:
    """Folders by name, and which others each may import."""
    rows = re.findall(r"^\| (`.*?) \| .*? \| (.*?) \|$", PAGE.split("may import |\n", 1)[1].split("\n\n")[0], re.M)
    names = [(re.findall(r"`([\w]+)/?`", first), last) for first, last in rows]
    ground, everything = set(names[0][0]), {name for group, _ in names for name in group} - set(STAGES)
    allowed = {}
    for group, last in names:
        listed = set(re.findall(r"`([\w]+)`", last))
        may = everything - listed if last.startswith("everything but") else listed | ground
        allowed.update({name: may | {name} for name in group})
    allowed["__init__"] = set()
    return allowed


def used(path: Path) -> set[str]:
    """Full names of everything that a file imports, or reaches as an attribute of what it imports, wherever in it."""
    return used_by(path.read_text(encoding="utf-8"))


def used_by(code: str) -> set[str]:
    names: set[str] = set()
    called: dict[str, str] = {}  # names in the file and what they stand for
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names.add(alias.name)
                called[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            for alias in node.names:
                names.add(f"{node.module}.{alias.name}")
                called[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            parts: list[str] = []
            while isinstance(node, ast.Attribute):
                parts, node = [node.attr, *parts], node.value
            if isinstance(node, ast.Name) and called.get(node.id, "").partition(".")[0] in ("medpretrain3d", *STAGES):
                names.add(".".join([called[node.id], *parts]))
    return names


def module_of(name: str) -> str | None:
    """The longest beginning of a full name that is a module of ours."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


def folder_of(module: str) -> str:
    """Row of the table that a module belongs to."""
    parts = module.split(".")
    return parts[0] if parts[0] in STAGES else (parts[1] if len(parts) > 1 else "__init__")


def breaches(module: str, names: set[str]) -> list[str]:
    """What a module imports that the table does not allow."""
    own = folder_of(module)
    allowed = table()[own]
    found = []
    for name in names:
        if name.partition(".")[0] in ("medpretrain3d", *STAGES):
            folder = folder_of(module_of(name) or name)
            if folder != "__init__" and folder not in allowed:
                found.append(name)
        package = name.partition(".")[0]
        if package == "importlib" and not name.startswith("importlib.metadata") and module not in MAY_USE_IMPORTLIB:
            found.append(name)
        if package == "lightning" and own not in ("engine", *STAGES):
            found.append(name)
        if (package == "wandb" and own != "engine") or package == "torchvision":
            found.append(name)
    return found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Some modules that import each other, or nothing."""
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done:
            return []
        for other in sorted(graph[module]):
            if found := visit(other, [*way, module]):
                return found
        done.add(module)
        return []

    for module in sorted(graph):
        if found := visit(module, []):
            return found
    return []


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_file_imports_what_the_table_allows(module):
    assert breaches(module, used(MODULES[module])) == []


def test_every_folder_stands_in_the_table():
    assert {folder_of(module) for module in MODULES} == set(table())


def test_no_two_files_import_each_other():
    graph = {
        module: {other for name in used(path) if (other := module_of(name)) and other != module}
        for module, path in MODULES.items()
    }
    for others in graph.values():  # what is reached through a package needs the package's own file, not more of it
        others.discard("medpretrain3d")
    assert circle(graph) == []


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("medpretrain3d.boxes.overlap", "from medpretrain3d.detection.losses import x"),
        ("medpretrain3d.boxes.overlap", "from medpretrain3d import detection"),
        ("medpretrain3d.boxes.overlap", "import medpretrain3d\nmedpretrain3d.detection.losses"),
        ("medpretrain3d.boxes.overlap", "import medpretrain3d as package\npackage.detection.losses.focal"),
        ("medpretrain3d.errors", "from medpretrain3d.store.grid import Grid"),
        ("medpretrain3d.engine.run", "import pretrain.module"),
        ("medpretrain3d.study.run", "from finetune.module import FinetuneModule"),
        ("medpretrain3d.store.grid", "import importlib"),
        ("medpretrain3d.store.grid", "from importlib import import_module"),
        ("medpretrain3d.store.grid", "def f():\n    import lightning.pytorch as L"),
        ("finetune.module", "from medpretrain3d.objectives import MAE"),
        ("finetune.module", "import pretrain"),
    ],
)
def test_what_the_table_does_not_allow_is_found(module, code):
    assert breaches(module, used_by(code))


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


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

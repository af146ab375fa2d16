"""The reference of error messages: every `UserError` that the source raises, by the part that says it."""

from __future__ import annotations

import ast
import functools
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ERRORS = ("UserError", "InvalidCaseError", "Misplaced", "MissingLibrary")
HEAD = """# Error messages

Every message that bad input can cause, as the source has it: `...` stands for what the message quotes. A message says
what it got, what was wanted and what to do; what lies behind those of one part is told in
[troubleshooting](../../troubleshooting.md).
Search this page for a piece of yours without names and numbers.

"""


def write_errors(path: Path) -> None:
    """Write the page."""
    parts = []
    for family, messages in sorted(families().items()):
        lines = "\n".join(f"- `{message}`" for message in sorted(set(messages)))
        parts.append(f"## {family}\n\n{lines}\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEAD + "\n".join(parts), encoding="utf-8")


@functools.cache
def families() -> dict[str, list[str]]:
    """Messages by family: the folder of the library, or the stage, that raises them."""
    found: dict[str, list[str]] = defaultdict(list)
    library = ROOT / "src" / "medpretrain3d"
    for folder, files in (
        (library, library.rglob("*.py")),
        *((ROOT / one, (ROOT / one).glob("*.py")) for one in STAGES),
    ):
        for path in sorted(files):
            parts = path.relative_to(folder).parts
            family = folder.name if folder != library else parts[0] if len(parts) > 1 else GROUND
            found[family] += messages_of(path.read_text(encoding="utf-8"))
    return {family: messages for family, messages in found.items() if messages}


STAGES = ("pretrain", "finetune")
GROUND = "ground"
"""Family of the modules that lie beside the folders."""


def messages_of(code: str) -> list[str]:
    """Texts of the errors that a file raises; what is put into them is `...`."""
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    return [
        text
        for call in calls
        if (getattr(call.func, "id", None) or getattr(call.func, "attr", None)) in ERRORS and call.args
        if (text := _text(call.args[0]))
    ]


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        text = str(node.value)
    elif isinstance(node, ast.JoinedStr):
        text = "".join(str(one.value) if isinstance(one, ast.Constant) else "..." for one in node.values)
    elif isinstance(node, ast.BinOp):
        text = _text(node.left) + _text(node.right)
    else:
        return ""
    return re.sub(r"\s+", " ", text.replace("`", "'")).strip()

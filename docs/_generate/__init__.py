"""Pages that follow from the code: of packages, commands, error messages, and of each method with its figure."""

from __future__ import annotations

from pathlib import Path

from _generate.api import write_api
from _generate.commands import write_commands
from _generate.errors import write_errors
from _generate.methods import write_methods


def write_pages(docs: Path) -> None:
    """Write all of them, below the folder of the pages."""
    write_commands(docs / "reference" / "commands.md")
    write_errors(docs / "reference" / "api" / "errors.md")
    write_api(docs / "reference" / "api")
    write_methods(docs / "methods")

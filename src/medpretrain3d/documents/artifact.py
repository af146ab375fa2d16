"""Documents of our own, which name a format and a version: store index, encoder card, bundle, plan, run.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from medpretrain3d.atomic import write_text
from medpretrain3d.documents.json_file import json_text, parse_json
from medpretrain3d.documents.schema import checked
from medpretrain3d.documents.text import SMALL, read_bytes
from medpretrain3d.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Artifact(Generic[T]):
    """A kind of JSON document that this project writes and reads: by one header, one check and one error.

    Example:
        >>> from medpretrain3d.documents import Artifact
        >>> note = Artifact("my-note", 2, dict[str, object], "write it again")
        >>> note.parse(note.text({"text": "spleen"}), "note.json")["text"]
        'spleen'
        >>> note.document({})
        {'format': 'my-note', 'version': 2}
    """

    format: str
    """Its name, written under `format`."""
    version: int
    """Written under `version`; newer documents are refused."""
    schema: type[T]
    """What it holds, see `checked`."""
    advice: str
    """What to do about a damaged one, the end of every message."""
    oldest: int = 1
    """First version that is still read."""
    max_bytes: int = SMALL
    """A larger file is refused."""

    def read(self, path: Path) -> T:
        """Read a file.

        Raises:
            UserError: it is missing, too large, no JSON, of another format or version, or a value is of another type.
        """
        return self.parse(read_bytes(path, self.advice, self.max_bytes), str(path))

    def parse(self, content: bytes | str, place: str) -> T:
        """Return what a text holds; `place` names it in messages.

        Raises:
            UserError: see `read`.
        """
        return self.check(parse_json(content, place, object, self.advice), place)

    def check(self, document: object, place: str) -> T:
        """Compare plain data with header and schema.

        Raises:
            UserError: another format or version, or another type of value.
        """
        if not isinstance(document, dict):
            raise UserError(
                f"{place}: got a {type(document).__name__}, wanted an object of format {self.format}; {self.advice}"
            )
        found, version = document.get("format"), document.get("version")
        if found != self.format or type(version) is not int or not self.oldest <= version <= self.version:
            name = found if isinstance(found, str) else repr(found)
            wanted = f"wanted {self.format} up to version {self.version}"
            if self.oldest > 1 and found == self.format:
                wanted = f"this medpretrain3d reads version {self.version}"
            raise UserError(
                f"{place}: got {name[:80]} version {str(version)[:20]}, {wanted}; update medpretrain3d or {self.advice}"
            )
        return checked(document, self.schema, place, self.advice)

    def document(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Return the content with its header in front."""
        return {"format": self.format, "version": self.version, **content}

    def text(self, content: Mapping[str, Any], indent: int | None = None) -> str:
        """Return the JSON text of a document, header included."""
        return json_text(self.document(content), indent)

    def write(self, path: Path, content: Mapping[str, Any], indent: int | None = None) -> None:
        """Write a file, completely or not at all.

        Raises:
            UserError: the disk is full or the folder cannot be written.
        """
        write_text(path, self.text(content, indent))

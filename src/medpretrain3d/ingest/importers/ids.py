"""Ids that a table writes, and the scans that they mean."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers.base import Leftover
from medpretrain3d.store.readers import volume_stem

_MANGLED = re.compile(r"\d+([.,]\d+)?[eE]\+?\d+")


class ScanIds:
    """The ids of scans, found by what a table writes for them.

    A row means the scan of exactly its id; where there is none, the only one that differs in blanks, case, how letters
    with accents are composed in Unicode, folders in front, the ending of an image file, or zeros in front of a number.

    Args:
        ids: of the scans.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        self.ids = dict.fromkeys(ids)
        self._by_plain: dict[str, list[str]] = defaultdict(list)
        for one in self.ids:
            self._by_plain[_plain(one)].append(one)

    def find(self, written: str) -> str | None:
        """Return the scan that a table means; None where it is none or may be several."""
        if written in self.ids:
            return written
        found = self._by_plain.get(_plain(written), [])
        return found[0] if len(found) == 1 else None

    def meet(self, table: Path, written: Sequence[str]) -> tuple[dict[str, str], list[Leftover]]:
        """Return the scans that the rows of a table mean, and a leftover for each row that means none.

        Args:
            table: for messages.
            written: the id in each row.

        Returns:
            Scan by id as written; leftovers.

        Raises:
            UserError: there are rows, and none meets a scan.
        """
        found = {one: scan for one in dict.fromkeys(written) if (scan := self.find(one)) is not None}
        if written and not found:
            example = next(iter(self.ids), "")
            raise UserError(
                f"{table}: none of its {len(written)} rows meets a scan: it names '{written[0]}', scans are called "
                f"'{example}'; write ids as the scans are called"
            )
        leftovers = [Leftover(one, unmet_reason(table, one)) for one in written if one not in found]
        inexact = {one: scan for one, scan in found.items() if one != scan}
        leftovers += [
            Leftover(f"{one} for {scan}", f"ids of {table.name} that meet their scan by likeness", is_used=True)
            for one, scan in inexact.items()
        ]
        return found, leftovers


def unmet_reason(table: Path, written: str) -> str:
    """Why a row is left over."""
    if _MANGLED.fullmatch(written):
        return f"rows of {table.name} whose id a spreadsheet turned into a number"
    return f"rows of {table.name} that meet no scan"


def _plain(text: str) -> str:
    # Table programs write an accented letter as one code point, and macOS names its files by two.
    name = unicodedata.normalize("NFC", text).strip().strip("\ufeff").replace("\\", "/").rstrip("/").rpartition("/")[2]
    name = volume_stem(Path(name)) if name else name
    name = re.sub(r"\.(dcm|npy)$", "", name, flags=re.IGNORECASE).casefold()
    return name.lstrip("0") or "0" if name.isdigit() else name

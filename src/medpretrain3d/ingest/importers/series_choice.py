"""Which DICOM series of an export are wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers.base import Leftover
from medpretrain3d.store.readers import Series


@dataclass(frozen=True)
class SeriesChoice:
    """What a series has to be.

    Args:
        modality: as `CT`; empty for any.
        series: its identifier, key or description, where `*` stands for any text; empty for any.
        min_slices: fewer has a localizer.
    """

    modality: str = ""
    series: str = ""
    min_slices: int = 0

    def of(self, raw: Path, found: Sequence[Series]) -> list[Series]:
        """Return the series that are wanted.

        Raises:
            UserError: there are series, and none is.
        """
        wanted = [one for one in found if self._fits(one)]
        if found and not wanted:
            raise UserError(f"{raw}: none of its {len(found)} DICOM series is what --option asks for; ask for less")
        return wanted

    def _fits(self, one: Series) -> bool:
        return (
            (not self.modality or one.modality.casefold() == self.modality.casefold())
            and (not self.series or one.fits(self.series))
            and one.num_slices >= self.min_slices
        )


def problem_of_part(raw: Path, one: Series, parts: Mapping[str, Sequence[Path]]) -> str:
    """Return why a series cannot be used where its files lie in several folders, as `scattered` says; else nothing."""
    if one.uid not in parts:
        return ""
    first, second = (folder.relative_to(raw).as_posix() for folder in parts[one.uid][:2])
    return f"is a part of a DICOM series whose files lie in {first} and {second}; move them into one folder"


def left_out(raw: Path, found: Sequence[Series], wanted: Sequence[Series]) -> list[Leftover]:
    """Return the series that are not wanted, by folder and key."""
    return [
        Leftover(f"{one.folder.relative_to(raw).as_posix()} ({one.key})", "DICOM series that the options leave out")
        for one in found
        if one not in wanted
    ]

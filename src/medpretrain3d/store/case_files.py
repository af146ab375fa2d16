"""The files of one case, wherever they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medpretrain3d.names import plain_name
from medpretrain3d.store.stored_file import Fetcher, StoredFile

CASES, IMAGE, MASK, SIDECAR = "cases", "image.b2nd", "mask.b2nd", "case.json"
NAMES = (IMAGE, MASK, SIDECAR)
"""Files of a case in the order in which they are written: with the sidecar it is complete."""


@dataclass(frozen=True)
class CaseFiles:
    """Image, mask and sidecar of a case; of a case without a mask that file is missing.

    Args:
        folder: `STORE/cases/<id>`, or the container with the same path within it: where messages say that it is.
        image: (C, D, H, W) int16.
        mask: (D, H, W) uint16.
        sidecar: what `case.json` says.
    """

    folder: Path
    image: StoredFile
    mask: StoredFile
    sidecar: StoredFile

    @property
    def case_id(self) -> str:
        """Id of the case."""
        return self.folder.name

    def named(self, name: str) -> StoredFile:
        """Return one of them by its file name."""
        return {IMAGE: self.image, MASK: self.mask, SIDECAR: self.sidecar}[name]

    @staticmethod
    def of_folder(folder: Path, fetcher: Fetcher | None = None) -> CaseFiles:
        """Return those of a folder of their own."""
        return CaseFiles(Path(folder), *(StoredFile(Path(folder) / name, fetcher=fetcher) for name in NAMES))

    @staticmethod
    def of_container(path: Path, case_id: str, extents: Sequence[int], fetcher: Fetcher | None = None) -> CaseFiles:
        """Return those of a container; `extents` as the property of that name."""
        place = f"{CASES}/{case_id}"
        return CaseFiles(
            path / place,
            *(
                StoredFile(path, offset, size, f"{place}/{name}", fetcher)
                for name, offset, size in zip(NAMES, extents[::2], extents[1::2], strict=True)
            ),
        )

    @property
    def container(self) -> str:
        """Name of the container that they are in; empty where each is a file of its own."""
        return self.image.path.name if self.image.member else ""

    @property
    def extents(self) -> tuple[int, ...]:
        """First byte and number of bytes of each of `NAMES` within the container; two zeros for none."""
        return tuple(
            number for one in (self.image, self.mask, self.sidecar) for number in (one.offset, one.num_bytes or 0)
        )


def case_folder(store: Path, case_id: str) -> Path:
    """Return the folder of a case of a store that has one for each.

    Raises:
        UserError: the id cannot be a folder's name inside the store.
    """
    return Path(store) / CASES / plain_name(case_id, "case id")

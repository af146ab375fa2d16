"""Where to look in each scan, as the user names it: organ masks of a segmenter, or what a coarse detector found."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import with_config
from typing_extensions import TypedDict

from medpretrain3d.documents import LARGE, SCHEMA, Text, read_bytes, read_json
from medpretrain3d.errors import UserError
from medpretrain3d.inference.prediction import Entry
from medpretrain3d.inference.region import BoxRegion, MaskRegion, Near, Region
from medpretrain3d.store.organ_files import organ_files
from medpretrain3d.store.readers import volume_stem
from medpretrain3d.store.volume import read_labels
from medpretrain3d.values import NonNegative, check_fields


@with_config(SCHEMA)
class _Document(TypedDict):
    frame: Literal["lps_mm"]
    classes: list[Text]
    predictions: list[Entry]


_ADVICE = "give predictions.json of `medpretrain3d predict`, or a folder of masks"


@dataclass(frozen=True)
class Regions:
    """The region of every scan, and what counts as near it.

    Args:
        place: folder of masks in the layout of TotalSegmentator (`organ_files`), or a predictions file.
        parts: of it: names of mask files without ending, or labels of label maps; of a predictions file its classes.
            Nothing named is all of them.
        margin_mm: what is so near belongs to it.

    Raises:
        UserError: a margin below 0, or nothing is there.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import nibabel
        >>> import numpy as np
        >>> from medpretrain3d.inference import Regions
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     mask = np.zeros((8, 8, 8), np.uint8)
        ...     mask[2:4] = 1
        ...     (Path(folder) / "scan").mkdir()
        ...     image = nibabel.Nifti1Image(mask, np.diag([-2.0, -2, 2, 1]))
        ...     nibabel.save(image, Path(folder) / "scan" / "liver.nii.gz")
        ...     near = Regions(Path(folder), ("liver",), margin_mm=5.0).near("scan")
        >>> near.holds(np.array([[5.0, 0, 0, 5, 0, 0], [13, 0, 0, 13, 0, 0]]))  # the liver ends at 7 mm
        array([ True, False])
    """

    place: Path
    parts: tuple[str, ...] = ()
    margin_mm: NonNegative = 10.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.place.exists():
            raise UserError(f"{self.place}: no such file or folder; {_ADVICE}")

    def near(self, case: str) -> Near:
        """Return the region of a scan with its margin. Raises UserError as `of`."""
        return Near(self.of(case), self.margin_mm)

    def of(self, case: str) -> Region:
        """Return the region of a scan.

        Raises:
            UserError: there is none for it, it is empty, or a part of it is unknown.
        """
        return self._boxes(case) if self.place.is_file() else self._mask(case)

    @property
    def identity(self) -> list[Any]:
        """Margin and parts: what decides which boxes stay, beside the masks or boxes of each scan (`sha256`)."""
        return [self.margin_mm, *self.parts]

    def sha256(self, case: str) -> str:
        """Return the SHA-256 of the masks of a scan, or of the boxes of it that the coarse detector found.

        Raises:
            UserError: there is none for it, or a part of it is unknown.
        """
        if self.place.is_file():
            return hashlib.sha256(self._rows(case).tobytes()).hexdigest()
        digest = hashlib.sha256()
        for path in self._files(case):
            digest.update(hashlib.sha256(read_bytes(path, _ADVICE, LARGE)).digest())
        return digest.hexdigest()

    def check(self, cases: Iterable[str]) -> None:
        """Look whether every scan has masks, without reading any.

        Raises:
            UserError: there is none for one of them, or the predictions file or its classes are not what was wanted.
        """
        if self.place.is_file():
            _ = self._found
        else:
            for case in cases:
                self._files(case)

    def _mask(self, case: str) -> MaskRegion:
        mask, grid = None, None
        for path in self._files(case):
            volume = read_labels(path)
            own = self._is_inside(volume.array[0], path)
            if grid is not None and not grid.is_close(volume.grid):
                raise UserError(f"{path}: is on another grid than the other masks of {case}; write all on one")
            mask, grid = own if mask is None else mask | own, volume.grid
        if mask is None or grid is None or not mask.any():
            named = f" ({', '.join(self.parts)})" if self.parts else ""
            raise UserError(
                f"case {case}: its mask{named} in {self.place} is empty, so there is nowhere to look; correct the "
                "mask, or predict the scan without a region"
            )
        return MaskRegion(mask, grid)

    def _is_inside(self, labels: np.ndarray, path: Path) -> np.ndarray:
        """Return which voxels are of the parts: of a label map those with their numbers."""
        if not self.parts or path.parent != self.place:
            return np.asarray(labels > 0)
        if other := next((part for part in self.parts if not part.isdigit()), None):
            raise UserError(f"{path}: is a label map, whose parts are numbers; got '{other}'")
        return np.isin(labels, [int(part) for part in self.parts])

    def _files(self, case: str) -> list[Path]:
        files = organ_files(self.place, case)
        if not self.parts or files[0].parent == self.place:
            return files
        known = {volume_stem(path): path for path in files}
        if unknown := [part for part in self.parts if part not in known]:
            raise UserError(
                f"case {case}: no mask {unknown[0]} in {files[0].parent}, which has {', '.join(known)}; name some of "
                "these"
            )
        return [known[part] for part in self.parts]

    @cached_property
    def _found(self) -> tuple[list[str], dict[str, Entry]]:
        document = read_json(self.place, _Document, _ADVICE, LARGE)
        classes = document["classes"]
        if unknown := [part for part in self.parts if part not in classes]:
            raise UserError(f"{self.place}: has no class {unknown[0]}; its classes are {', '.join(classes)}")
        return classes, {entry["case"]: entry for entry in document["predictions"]}

    def _boxes(self, case: str) -> BoxRegion:
        boxes_lps_mm = self._rows(case)
        if not len(boxes_lps_mm):
            raise UserError(
                f"case {case}: {self.place} has no box of it, so there is nowhere to look; lower the threshold of the "
                "coarse detector, or predict the scan without a region"
            )
        return BoxRegion(boxes_lps_mm)

    def _rows(self, case: str) -> np.ndarray:
        """Return what the coarse detector found of the parts: (N, 6) float64, LPS mm."""
        classes, found = self._found
        if case not in found:
            raise UserError(f"{self.place}: says nothing of case {case}; predict it with the coarse detector too")
        entry = found[case]
        wanted = {number for number, name in enumerate(classes) if not self.parts or name in self.parts}
        rows = [row for row, label in enumerate(entry["labels"]) if label in wanted]
        return np.asarray(entry["boxes"], dtype=np.float64).reshape(-1, 6)[rows]

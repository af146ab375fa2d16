"""Cases already predicted, kept one file each, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired

from pydantic import with_config
from typing_extensions import TypedDict

from medpretrain3d.atomic import write_text
from medpretrain3d.documents import LARGE, SCHEMA, Text, json_text, read_json
from medpretrain3d.errors import UserError
from medpretrain3d.inference.inputs import ScanInput
from medpretrain3d.inference.prediction import Entry, Prediction
from medpretrain3d.inference.regions import Regions
from medpretrain3d.inference.writers import mask_sha256
from medpretrain3d.names import plain_name


@with_config(SCHEMA)
class _Document(TypedDict):
    identity: dict[str, Any]
    scan_sha256: Text
    region_sha256: NotRequired[Text]
    masks_sha256: NotRequired[Text | None]
    prediction: Entry


class FinishedCases:
    """A folder of `<case>.json` files, each valid for one set of bundles, one set of options and one scan.

    Args:
        folder: where the files are.
        identity: plain data that decides whether a result may be reused: the bundles' sha256 and the options.
        num_classes: of the bundles.
        regions: where the bundles look: of a scan's result its own mask decides, and none of another scan.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        num_classes: int | None = None,
        regions: Regions | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.num_classes = num_classes
        self.regions = regions
        # Through JSON and back, because tuples become lists there.
        self.identity: dict[str, Any] = json.loads(json.dumps(dict(identity)))
        self._hashes: dict[str, dict[str, str]] = {}

    def note(self, scan: ScanInput) -> None:
        """Hash a scan that is about to be read, for `save`: a file that changes meanwhile is then predicted again.

        Raises:
            UserError: the scan or its region cannot be read.
        """
        self._hashes[scan.case] = self._read_hashes(scan)

    def load(self, scan: ScanInput, masks: Sequence[Path] = (), with_masks: bool = False) -> Prediction | None:
        """The result of a case, or None if there is none, or one of another bundle, other options or another scan.

        Args:
            scan: as it is now.
            masks: files in which its masks may be; the one that was written with the result is noted in it.
            with_masks: whether that one has to be there.
        """
        path = self._path(scan.case)
        if not path.is_file():
            return None
        try:
            document = read_json(path, _Document, "it is made again", LARGE)
            entry = document["prediction"]
            is_known = self.num_classes is None or max(entry["labels"], default=0) < self.num_classes
            is_valid = is_known and entry["case"] == scan.case and document["identity"] == self.identity
            if not is_valid or any(document.get(name) != now for name, now in self._read_hashes(scan).items()):
                return None
            recorded = document.get("masks_sha256")
            is_there = recorded and any(path.is_file() and mask_sha256(path) == recorded for path in masks)
            if with_masks and not is_there:
                return None
            prediction = Prediction.from_json(entry, scan.file)
            return dataclasses.replace(prediction, mask_sha256=recorded if is_there else None)
        except UserError:
            return None  # unreadable is as good as absent: the case is predicted again

    def save(self, prediction: Prediction, scan: ScanInput, masks: Path | None = None) -> str | None:
        """Keep the result of a case, and which file holds its masks, if it has any: its SHA-256 is returned.

        Raises:
            UserError: the disk is full or the folder cannot be written.
        """
        masks_sha256 = None if masks is None else mask_sha256(masks)
        hashes = self._hashes.pop(scan.case, None) or self._read_hashes(scan)
        document = {
            "identity": self.identity,
            **hashes,
            "masks_sha256": masks_sha256,
            "prediction": prediction.to_json(),
        }
        write_text(self._path(prediction.case), json_text(document))
        return masks_sha256

    def _read_hashes(self, scan: ScanInput) -> dict[str, str]:
        region = {} if self.regions is None else {"region_sha256": self.regions.sha256(scan.case)}
        return {"scan_sha256": scan.sha256(), **region}

    def _path(self, case: str) -> Path:
        return self.folder / f"{plain_name(case, 'case id')}.json"

"""Cases already predicted, kept one file each, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medpretrain3d.atomic import write_text
from medpretrain3d.inference.inputs import ScanInput
from medpretrain3d.inference.prediction import Prediction


class FinishedCases:
    """A folder of `<case>.json` files, each valid for one set of bundles, one set of options and one scan.

    Args:
        folder: where the files are.
        identity: plain data that decides whether a result may be reused: the bundles' sha256 and the options.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        # Through JSON and back, because tuples become lists there.
        self.identity: dict[str, Any] = json.loads(json.dumps(dict(identity)))

    def load(self, scan: ScanInput) -> Prediction | None:
        """The result of a case, or None if there is none, or one of another bundle, other options or another scan."""
        path = self._path(scan.case)
        if not path.is_file():
            return None
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            is_valid = document["identity"] == self.identity and document["scan_sha256"] == scan.sha256()
            return Prediction.from_json(document["prediction"], scan.file) if is_valid else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # unreadable is as good as absent: the case is predicted again

    def save(self, prediction: Prediction, scan: ScanInput) -> None:
        """Keep the result of a case.

        Raises:
            UserError: the disk is full or the folder cannot be written.
        """
        document = {"identity": self.identity, "scan_sha256": scan.sha256(), "prediction": prediction.to_json()}
        write_text(self._path(prediction.case), json.dumps(document, allow_nan=False) + "\n")

    def _path(self, case: str) -> Path:
        return self.folder / f"{case}.json"

"""Scores of predictions in a program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from medpretrain3d.documents import json_text
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import pair, read_predictions, read_targets
from medpretrain3d.evaluation.bootstrap import NUM_BOOTSTRAP
from medpretrain3d.evaluation.protocols import PROTOCOLS, ProtocolName, protocol_of
from medpretrain3d.evaluation.size_strata import DIAMETERS_MM
from medpretrain3d.inference import Prediction, predictions_json
from medpretrain3d.store.store import Store
from medpretrain3d.store.targets import targets_json


def evaluate(
    predictions: str | Path | Sequence[Prediction],
    targets: str | Path,
    classes: Sequence[str] | None = None,
    num_bootstrap: int = NUM_BOOTSTRAP,
    protocol: ProtocolName | None = None,
) -> dict[str, Any]:
    """Score predictions: AP, mAP, AR, FROC and error analysis, or AP and FROC by distance; intervals over scans.

    Args:
        predictions: `predictions.json`, the folder it is in, or what `predict` gave for each scan.
        targets: `targets.json`, or a store, of which the cases that were predicted count.
        classes: of the predictions, where they are no file; default: those of the targets.
        num_bootstrap: 0 for no intervals.
        protocol: `detection` by overlap or `centre` by the distance of centers; None is `centre` where any object is a
            point, else `detection`.

    Returns:
        The metrics by name, as `mAP_IoU_0.10_0.50_0.05_MaxDet_100`, of `centre` as `AP`; see docs/evaluation.md.

    Raises:
        UserError: a file is missing or damaged, predictions and targets are not of the same scans and classes, or
            points are to be scored by overlap.
    """
    with TemporaryDirectory() as folder:
        found = read_predictions(_predictions(predictions, targets, classes, Path(folder)))
        wanted = read_targets(_targets(Path(targets), [case.case for case in found.cases], Path(folder)))
    chosen = PROTOCOLS[protocol] if protocol else protocol_of(wanted.cases)
    return chosen.score(
        pair(found, wanted),
        wanted.cases,
        wanted.classes,
        num_bootstrap=num_bootstrap,
        size_edges_mm=DIAMETERS_MM if wanted.frame == "lps_mm" else (),
    )


def _predictions(
    predictions: str | Path | Sequence[Prediction], targets: str | Path, classes: Sequence[str] | None, folder: Path
) -> Path:
    if isinstance(predictions, str | Path):
        path = Path(predictions)
        return path / "predictions.json" if path.is_dir() else path
    if classes is None:
        classes = Store(Path(targets)).classes if Path(targets).is_dir() else read_targets(targets).classes
    path = folder / "predictions.json"  # as a file, so that both ways give the same numbers
    path.write_text(json_text(predictions_json(classes, predictions)), encoding="utf-8")
    return path


def _targets(targets: Path, cases: Sequence[str], folder: Path) -> Path:
    if not Store.is_at(targets):
        return targets
    store = Store(targets)
    unknown = [case for case in cases if case not in store.entries]
    if unknown:
        raise UserError(f"{targets}: has no case '{unknown[0]}' of the predictions; give the store that they are of")
    path = folder / "targets.json"
    path.write_text(json_text(targets_json(store, cases)), encoding="utf-8")
    return path

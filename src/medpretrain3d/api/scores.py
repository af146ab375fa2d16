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
from medpretrain3d.evaluation.class_names import of_classes
from medpretrain3d.evaluation.files import PredictionFile, TargetFile
from medpretrain3d.evaluation.protocols import PROTOCOLS, ProtocolName, protocol_of
from medpretrain3d.evaluation.size_strata import DIAMETERS_MM
from medpretrain3d.inference import Prediction, predictions_json
from medpretrain3d.store.store import Store
from medpretrain3d.store.targets import targets_json
from medpretrain3d.values import check_value, shown


def evaluate(
    predictions: str | Path | Sequence[Prediction],
    targets: str | Path,
    classes: Sequence[str] | None = None,
    num_bootstrap: int = NUM_BOOTSTRAP,
    protocol: ProtocolName | None = None,
) -> dict[str, Any]:
    """Score predictions: AP, mAP, AR, FROC and error analysis, or AP and FROC by distance; intervals over patients.

    Args:
        predictions: `predictions.json`, the folder it is in, or what `predict` gave for each scan.
        targets: `targets.json`, or a store, of which the cases that were predicted count.
        classes: of predictions in memory that do not say, and of those alone: a file names its own. Default: those of
            the targets. Labels are matched with those of the targets by these names.
        num_bootstrap: 0 for no intervals.
        protocol: `detection` by overlap or `centre` by the distance of centers; None is `centre` where any object is a
            point, else `detection`.

    Returns:
        The metrics by name, as `mAP_IoU_0.10_0.50_0.05_MaxDet_100`, of `centre` as `AP`; see docs/evaluation.md. Where
        predictions in memory know classes that the targets do not name, these do not count: `classes_not_tested` and
        `num_boxes_not_tested` say which and how many.

    Raises:
        UserError: a file is missing or damaged, predictions and targets are not of the same scans and classes, points
            are to be scored by overlap, another protocol, or an argument of another type.
    """
    check_value("evaluate", "targets", targets, str | Path)
    check_value("evaluate", "classes", classes, Sequence[str] | None)
    if protocol is not None and protocol not in tuple(PROTOCOLS):
        raise UserError(
            f"evaluate: got protocol {shown(protocol)}, wanted one of {', '.join(PROTOCOLS)}; others are options of "
            "`medpretrain3d evaluate --protocol`"
        )
    with TemporaryDirectory() as folder:
        found = read_predictions(_predictions(predictions, targets, classes, Path(folder)))
        wanted = read_targets(_targets(Path(targets), [case.case for case in found.cases], Path(folder)))
    not_tested: dict[str, Any] = {}
    if not isinstance(predictions, str | Path):
        found, not_tested = _by_name(found, wanted)
    chosen = PROTOCOLS[protocol] if protocol else protocol_of(wanted.cases)
    result = chosen.score(
        pair(found, wanted),
        wanted.cases,
        wanted.classes,
        num_bootstrap=num_bootstrap,
        size_edges_mm=DIAMETERS_MM if wanted.frame == "lps_mm" else (),
    )
    return {**result, **not_tested}


def _by_name(found: PredictionFile, wanted: TargetFile) -> tuple[PredictionFile, dict[str, Any]]:
    """Return the predictions of the targets' classes, and what is said of others."""
    if unknown := [name for name in wanted.classes if name not in found.classes]:
        raise UserError(
            f"targets: name {', '.join(unknown)}, the predictions are of {', '.join(found.classes)}; call both alike"
        )
    others = [name for name in found.classes if name not in wanted.classes]
    of_wanted, num_others = of_classes(found, wanted.classes)
    return of_wanted, {"classes_not_tested": others, "num_boxes_not_tested": num_others} if others else {}


def _predictions(
    predictions: str | Path | Sequence[Prediction], targets: str | Path, classes: Sequence[str] | None, folder: Path
) -> Path:
    if isinstance(predictions, str | Path):
        if classes is not None:
            raise UserError(
                f"evaluate: got classes {shown(classes)} beside {predictions}, which names its own; leave them out"
            )
        path = Path(predictions)
        return path / "predictions.json" if path.is_dir() else path
    given: object = predictions
    if not isinstance(given, Sequence) or not all(isinstance(one, Prediction) for one in given):
        raise UserError(
            f"evaluate: got a {type(predictions).__name__} as predictions, wanted a list of Prediction, one of each "
            "scan, predictions.json, or the folder it is in"
        )
    carried = {one.classes for one in predictions if one.classes is not None}
    if len(carried | ({tuple(classes)} if classes is not None else set())) > 1:
        given = sorted({", ".join(one) for one in carried} | ({", ".join(classes)} if classes is not None else set()))
        raise UserError(f"predictions: are of classes {' and of '.join(given)}; give those of one detector, as it says")
    classes = classes or next(iter(carried), None)
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

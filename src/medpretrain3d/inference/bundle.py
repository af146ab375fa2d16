"""The detector bundle: a folder with weights and everything that prediction needs to know, and no training code.

`detector.safetensors` holds the weights, `bundle.json` the config of the network, its classes, the preprocessing
of its images, how inference is done and where it all came from. A second stage lies beside them (`rescorer_file.py`).
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, cast

from medpretrain3d import __version__
from medpretrain3d.atomic import finished_folder, write_text
from medpretrain3d.backbones.checkpoints.completeness import differences, outline
from medpretrain3d.backbones.checkpoints.publishing import VOLUMES_SEEN, without_places
from medpretrain3d.backbones.checkpoints.volumes_seen import VolumesSeen
from medpretrain3d.backbones.checkpoints.weights_file import read_weights
from medpretrain3d.configurable import from_config, plugins_in, to_config
from medpretrain3d.detection.base import Detector
from medpretrain3d.errors import UserError
from medpretrain3d.finite import require_finite
from medpretrain3d.inference.bundle_document import ADVICE, DOCUMENT, WEIGHTS, document_text, read_document
from medpretrain3d.inference.config import InferenceConfig
from medpretrain3d.inference.operating_points import OperatingPoints
from medpretrain3d.inference.rescorer import Rescorer
from medpretrain3d.inference.rescorer_file import load_rescorer
from medpretrain3d.plugins import check_required
from medpretrain3d.store.preprocessing import Preprocessing


@dataclass(frozen=True)
class Bundle:
    """A detector with all that is needed to use it.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.detection import FCOS
        >>> from medpretrain3d.inference import load_bundle, save_bundle
        >>> from medpretrain3d.store import Preprocessing
        >>> detector = FCOS(ResEnc("XXS"), num_classes=1, fpn_channels=16, head_convs=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sha256 = save_bundle(Path(folder) / "bundle", detector, ["nodule"], Preprocessing(patch=(16, 16, 16)))
        ...     bundle = load_bundle(Path(folder) / "bundle")
        >>> bundle.classes, type(bundle.detector).__name__, bundle.sha256 == sha256
        (('nodule',), 'FCOS', True)
    """

    detector: Detector
    """In evaluation mode, on the CPU."""
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    inference: InferenceConfig
    provenance: dict[str, Any]
    """Where it came from: commit, encoder, training, data, licence."""
    sha256: str
    """Of `bundle.json`, which holds the sha256 of the weights: two bundles with the same one predict the same."""
    notes: tuple[str, ...] = ()
    """What a user must know to trust what it finds: plugins of another version."""
    operating_points: OperatingPoints | None = None
    """Scores in validation scans, from which thresholds are read; None where it was written without."""
    rescorer: Rescorer | None = None
    """The second stage, in evaluation mode, on the CPU; None where there is none."""
    rescorer_provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where the second stage came from: its encoder, how it was trained, scans seen."""

    @property
    def is_scored_by_distance(self) -> bool:
        """Whether its run was scored by the distance of centers (`model.protocol: centre`); False where unknown."""
        training = self.provenance.get("training")
        return isinstance(training, Mapping) and training.get("protocol") == "centre"

    @property
    def volumes_seen(self) -> VolumesSeen:
        """Scans that the weights of its stages were trained on; empty where it does not list them.

        Raises:
            UserError: a list is damaged.
        """
        stated = [one.get(VOLUMES_SEEN) for one in (self.provenance, self.rescorer_provenance)]
        records = [VolumesSeen.from_json(document) for document in stated if document is not None]
        return reduce(operator.or_, records, VolumesSeen())


def save_bundle(
    folder: Path,
    detector: Detector,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    inference: InferenceConfig | None = None,
    provenance: Mapping[str, Any] | None = None,
    replace: bool = False,
) -> str:
    """Write a bundle, complete or not at all.

    Args:
        folder: where it goes.
        detector: of this package or of a loaded plugin, built from configurable parts.
        classes: names, in the order of the labels.
        preprocessing: of its training images.
        inference: `None` is `InferenceConfig()`.
        provenance: plain data; by custom `git_commit`, `encoder_sha256` (or None), `training` (configuration hash and
            steps), `data_fingerprint`, `licence`. The version of this package is added.
        replace: whether an existing folder gives way once the new one is complete.

    Returns:
        The bundle's sha256, by which predictions refer to it.

    Raises:
        UserError: the number of classes is not the detector's, a weight is not finite, a class is of no loaded plugin,
            or `folder` exists and `replace` is False.
    """
    from safetensors.torch import save

    _check_classes(classes, detector)
    require_finite(f"{folder}: not written", detector.state_dict(), "the training diverged, lower its learning rate")
    # safetensors refuses tensors that share memory, hence the clones.
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in detector.state_dict().items()}
    payload = save(weights)
    architecture, how = to_config(detector), preprocessing.to_json()
    plugins = plugins_in([architecture, how])
    document: dict[str, Any] = {
        "detector": architecture,
        **({"plugins": plugins} if plugins else {}),
        "weights_sha256": hashlib.sha256(payload).hexdigest(),
        "classes": list(classes),
        "preprocessing": how,
        "inference": asdict(inference or InferenceConfig()),
        "provenance": {"medpretrain3d_version": __version__, **without_places(provenance or {})},
    }
    text = document_text(document).encode()
    with finished_folder(folder, replace=(DOCUMENT, WEIGHTS) if replace else False) as unfinished:
        (unfinished / WEIGHTS).write_bytes(payload)
        (unfinished / DOCUMENT).write_bytes(text)
    return hashlib.sha256(text).hexdigest()


def set_inference(
    folder: Path,
    inference: InferenceConfig,
    facts: Mapping[str, Any],
    operating_points: Mapping[str, Any] | None = None,
) -> None:
    """Give a bundle another way of inference; the weights stay.

    Args:
        folder: the bundle.
        inference: stored in place of the bundle's own.
        facts: plain data on where the choice came from, stored as `tuning` in the provenance.
        operating_points: of this way; those of the earlier way go.

    Raises:
        UserError: no bundle there, or it cannot be written.
    """
    document, _ = read_document(Path(folder))
    document["inference"] = asdict(inference)
    document["provenance"] = {**document["provenance"], "tuning": dict(facts)}
    document.pop("operating_points", None)
    if operating_points is not None:
        document["operating_points"] = dict(operating_points)
    write_text(Path(folder) / DOCUMENT, document_text(document))


def set_operating_points(folder: Path, operating_points: Mapping[str, Any]) -> None:
    """Store what a bundle's detector scored in validation scans, see `OperatingPoints`.

    Raises:
        UserError: no bundle there, or it cannot be written.
    """
    document, _ = read_document(Path(folder))
    document["operating_points"] = dict(operating_points)
    write_text(Path(folder) / DOCUMENT, document_text(document))


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle and build its detector.

    Raises:
        UserError: the folder is missing or no bundle, was written by a newer version or needs a plugin that is not
            loaded, its weights are not the ones
            `bundle.json` speaks of or not finite, or they do not fit the network it describes.
    """
    folder = Path(folder)
    document, text = read_document(folder)
    path, weights_path = folder / DOCUMENT, folder / WEIGHTS
    notes = check_required(str(path), document.get("plugins"))
    weights = read_weights(weights_path, document["weights_sha256"])
    # Before memory is given to it: a config of a few bytes can speak of a network of many gigabytes.
    detector = outline(path, document["detector"], weights)
    if not isinstance(detector, Detector):
        raise UserError(f"{path}: describes a {type(detector).__name__}, wanted a detector; {ADVICE}")
    message = differences(detector.state_dict(), weights)
    if message:
        raise UserError(f"{weights_path}: does not fit the network of bundle.json: {message}; {ADVICE}")
    require_finite(str(weights_path), weights, "its training diverged, so it finds nothing; train again")
    try:
        detector = cast(Detector, from_config(document["detector"]))
        preprocessing = Preprocessing.from_json(document["preprocessing"])
        inference = InferenceConfig.from_json(document["inference"])
        stated = document.get("operating_points")
        points = None if stated is None else OperatingPoints.from_json(stated)
        _check_classes(document["classes"], detector)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    detector.load_state_dict(weights)
    second = document.get("rescorer_sha256")
    rescorer, source = (None, {}) if second is None else load_rescorer(folder, second)
    sha256 = hashlib.sha256(text).hexdigest()
    provenance = document["provenance"]
    classes = tuple(document["classes"])
    facts = (classes, preprocessing, inference, provenance, sha256)
    return Bundle(detector.eval(), *facts, notes, points, rescorer, source)


def check_members(bundles: Sequence[Bundle]) -> None:
    """Compare the members of an ensemble.

    Raises:
        UserError: there is none, or they are of other classes or intensity units.
    """
    if not bundles:
        raise UserError("no detector bundle; give at least one")
    for bundle in bundles[1:]:
        if bundle.classes != bundles[0].classes:
            raise UserError(
                f"bundles of different classes: {', '.join(bundles[0].classes)} and {', '.join(bundle.classes)}; "
                "the members of an ensemble must have the same, in the same order"
            )
        if bundle.preprocessing.unit != bundles[0].preprocessing.unit:
            raise UserError(
                "a bundle trained on HU and one trained on other units look at different scans; give alike ones"
            )


def _check_classes(classes: Sequence[str], detector: Detector) -> None:
    if len(classes) != detector.num_classes:
        raise UserError(
            f"{len(classes)} class names for a detector of {detector.num_classes} classes; give one name per class"
        )
    if len(set(classes)) != len(classes):
        raise UserError(f"classes {list(classes)} name one class twice; give each a name of its own")

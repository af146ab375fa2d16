"""Unmerged detections in labeled scans, kept in one file, so that ways of merging are compared without the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired

import torch
from pydantic import Field, with_config
from torch import Tensor
from typing_extensions import TypedDict

from medpretrain3d.atomic import finished_file
from medpretrain3d.boxes import Detections, Targets
from medpretrain3d.documents import SCHEMA, Artifact, Name, Number, Text
from medpretrain3d.errors import UserError
from medpretrain3d.inference.bundle_document import read_document
from medpretrain3d.inference.config import InferenceConfig
from medpretrain3d.inference.raw_detections import RawDetections
from medpretrain3d.store.case import Case
from medpretrain3d.store.grid import Spacing

VALIDATION = "validation"
_ADVICE = "make the file again with medpretrain3d tune BUNDLE --store STORE"


@with_config(SCHEMA)
class _Entry(TypedDict):
    case: Text
    spacing_mm: Annotated[list[Annotated[Number, Field(gt=0)]], Field(min_length=3, max_length=3)]


@with_config(SCHEMA)
class _About(TypedDict):
    """Schema of the file's metadata beside the tensors."""

    classes: list[Name]
    inference: dict[str, Any]
    cases: list[_Entry]
    made_by: NotRequired[Text]
    scans: NotRequired[Text]
    weights_sha256: NotRequired[Text]


ABOUT_DOCUMENT = Artifact("medpretrain3d-sightings", 2, _About, _ADVICE, oldest=2)  # 1 held no views


@dataclass(frozen=True)
class CachedCase:
    """One scan: what tiles and views saw, not merged, and what there was; both in the same voxels."""

    case: str
    spacing_mm: Spacing
    raw_detections: RawDetections
    targets: Targets
    """Boxes, labels and ignore regions; no mask."""

    @staticmethod
    def of(case: Case, raw_detections: RawDetections) -> CachedCase:
        """Pair what was seen in a case of a store with its objects."""
        ignore = torch.from_numpy(case.ignore_boxes)
        targets = Targets(torch.from_numpy(case.boxes), torch.from_numpy(case.labels), ignore=ignore)
        return CachedCase(case.id, case.grid.spacing_mm, raw_detections, targets)


@dataclass(frozen=True)
class CachedDetections:
    """Several scans, looked at by one detector in one way."""

    classes: tuple[str, ...]
    inference: InferenceConfig
    """How they were looked at: overlap, mirrored views, and the score below which nothing was kept."""
    cases: tuple[CachedCase, ...]
    made_by: str = ""
    """Digest of the weights and settings, where a run kept them; empty where that is not known."""
    scans: str = VALIDATION
    """Which scans these are, in a word."""
    weights_sha256: str = ""
    """Of the weights that saw them, as `bundle.json` has it; empty where that is not known."""

    def refuse_other_weights(self, path: Path, bundle: Path) -> None:
        """Compare the detector that saw the scans with a bundle, where it is known.

        Args:
            path: of the file.
            bundle: folder of the detector whose sightings are wanted.

        Raises:
            UserError: another one saw them, or there is no bundle.
        """
        wanted = read_document(bundle)[0]["weights_sha256"]
        if self.weights_sha256 not in ("", wanted):
            raise UserError(
                f"{path}: is what weights {self.weights_sha256[:12]} saw, {bundle} has {wanted[:12]}; give the "
                f"sightings of this bundle, or {_ADVICE}"
            )

    def save(self, path: Path) -> None:
        """Write the file, completely or not at all.

        Raises:
            UserError: the disk is full or the folder cannot be written.
        """
        from safetensors.torch import save

        tensors = _tensors(self.cases)
        about = {
            "classes": list(self.classes),
            "inference": asdict(self.inference),
            "cases": [{"case": one.case, "spacing_mm": list(one.spacing_mm)} for one in self.cases],
            **({"made_by": self.made_by} if self.made_by else {}),
            **({"scans": self.scans} if self.scans != VALIDATION else {}),
            **({"weights_sha256": self.weights_sha256} if self.weights_sha256 else {}),
        }
        with finished_file(path) as unfinished:
            unfinished.write_bytes(save(tensors, metadata={"about": ABOUT_DOCUMENT.text(about)}))

    @staticmethod
    def load(path: Path) -> CachedDetections:
        """Read the file.

        Raises:
            UserError: it is missing, damaged, or of another format or a newer version.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        if not path.is_file():
            raise UserError(
                f"{path}: no such file; a fine-tuning run keeps what it saw in its validation cases there, or name a "
                "labelled store with --store"
            )
        try:
            with safe_open(path, framework="pt") as file:
                about = (file.metadata() or {}).get("about", "null")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not readable as sightings ({error}); {_ADVICE}") from error
        known = ABOUT_DOCUMENT.parse(about, str(path))
        try:
            _check_tensors(tensors, len(known["cases"]), len(known["classes"]))
            inference = InferenceConfig.from_json(known["inference"])
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        spacings = [(d, h, w) for d, h, w in (entry["spacing_mm"] for entry in known["cases"])]
        names = [entry["case"] for entry in known["cases"]]
        cases = tuple(_cases(names, spacings, tensors))
        made_by, scans = known.get("made_by", ""), known.get("scans", VALIDATION)
        weights = known.get("weights_sha256", "")
        return CachedDetections(tuple(known["classes"]), inference, cases, made_by, scans, weights)


def _check_tensors(tensors: dict[str, Tensor], num_cases: int, num_classes: int) -> None:
    """Shapes and types as `_tensors` makes them, lengths that agree with each other, finite values, known labels."""
    counts = tensors.get("counts", torch.zeros(0))
    if counts.shape != (num_cases, 4) or counts.dtype != torch.long or bool((counts < 0).any()):
        raise UserError(f"counts of {tuple(counts.shape)} do not fit {num_cases} cases; {_ADVICE}")
    num_seen, num_targets, num_ignored, num_views = (sum(column) for column in counts.T.tolist())
    rows = dict.fromkeys(("boxes", "scores", "labels", "depth", "touches_face", "view"), num_seen)
    rows |= {"views": num_views, "target_boxes": num_targets, "target_labels": num_targets, "ignore_boxes": num_ignored}
    wanted = _tensors([])
    for name, count in rows.items():
        tensor = tensors.get(name, torch.zeros(0, dtype=torch.complex64))
        if tensor.shape != (count, *wanted[name].shape[1:]) or tensor.dtype != wanted[name].dtype:
            raise UserError(
                f"{name} of {tuple(tensor.shape)} {tensor.dtype}, wanted {count} of {wanted[name].dtype}; {_ADVICE}"
            )
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(f"{name} holds values that are not finite; {_ADVICE}")
    for name in ("labels", "target_labels"):
        if bool(((tensors[name] < 0) | (tensors[name] >= num_classes)).any()):
            raise UserError(f"{name} are not all from 0 to {num_classes - 1}; {_ADVICE}")
    limits = counts[:, 3].repeat_interleave(counts[:, 0])  # (N,) views of the case of each detection
    if bool(((tensors["view"] < 0) | (tensors["view"] >= limits)).any()):
        raise UserError(f"view names rows that views does not have; {_ADVICE}")


def _tensors(cases: Sequence[CachedCase]) -> dict[str, Tensor]:
    """Return all cases behind each other; `counts` (cases, 4) counts raw detections, targets, ignore regions and
    views."""
    seen = RawDetections.cat([one.raw_detections for one in cases])
    ignore = [_ignore(one.targets) for one in cases]
    counts = [
        [len(one.raw_detections), len(one.targets.labels), len(regions), len(one.raw_detections.views)]
        for one, regions in zip(cases, ignore, strict=True)
    ]
    tensors = {
        "boxes": seen.detections.boxes,
        "scores": seen.detections.scores,
        "labels": seen.detections.labels,
        "depth": seen.border_distance,
        "touches_face": seen.touches_face,
        "view": torch.cat([torch.zeros(0, dtype=torch.long), *(one.raw_detections.view for one in cases)]),
        "views": seen.views,
        "target_boxes": torch.cat([torch.zeros(0, 6), *(one.targets.boxes for one in cases)]),
        "target_labels": torch.cat([torch.zeros(0, dtype=torch.long), *(one.targets.labels for one in cases)]),
        "ignore_boxes": torch.cat([torch.zeros(0, 6), *ignore]),
        "counts": torch.tensor(counts, dtype=torch.long).reshape(-1, 4),
    }
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}  # no two share memory


def _cases(names: Sequence[str], spacings: Sequence[Spacing], tensors: dict[str, Tensor]) -> list[CachedCase]:
    num_seen, num_targets, num_ignored, num_views = tensors["counts"].T.tolist()

    def split(name: str, counts: list[int]) -> tuple[Tensor, ...]:
        result: tuple[Tensor, ...] = tensors[name].split(counts)
        return result

    boxes, scores, labels = (split(name, num_seen) for name in ("boxes", "scores", "labels"))
    border_distance, touches_face, view = (split(name, num_seen) for name in ("depth", "touches_face", "view"))
    views = split("views", num_views)
    target_boxes, target_labels = split("target_boxes", num_targets), split("target_labels", num_targets)
    ignore = split("ignore_boxes", num_ignored)
    return [
        CachedCase(
            name,
            spacings[i],
            RawDetections(
                Detections(boxes[i], scores[i], labels[i]), border_distance[i], touches_face[i], view[i], views[i]
            ),
            Targets(target_boxes[i], target_labels[i], ignore=ignore[i]),
        )
        for i, name in enumerate(names)
    ]


def _ignore(targets: Targets) -> Tensor:
    return torch.zeros(0, 6) if targets.ignore is None else targets.ignore

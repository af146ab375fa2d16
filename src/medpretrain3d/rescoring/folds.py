"""A second stage for every fold: trained on the other folds' candidates, asked about those of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medpretrain3d.backbones import (
    Backbone,
    EncoderFile,
    ReadOptions,
    VolumesSeen,
    load_encoder,
    provenance_of,
    read_encoder,
)
from medpretrain3d.boxes import Detections
from medpretrain3d.configurable import from_config
from medpretrain3d.documents import json_text
from medpretrain3d.errors import UserError
from medpretrain3d.inference import Bundle, Rescorer, ScanTiles
from medpretrain3d.inference.resampled_scan import ResampledRegions
from medpretrain3d.inference.rescorer import combined
from medpretrain3d.inference.rescorer_file import RESCORER, load_rescorer, save_rescorer
from medpretrain3d.inference.second_stage import added_log_odds
from medpretrain3d.precision.names import Precision
from medpretrain3d.rescoring.candidates import CandidateSet
from medpretrain3d.rescoring.training import RescorerTraining, train_rescorer
from medpretrain3d.store.store import Store

FOLD = "{fold}"
"""In the name of the file to begin from: the number of the fold."""


@dataclass(frozen=True)
class SecondStage:
    """What the second stages of all folds have in common."""

    init_from: str
    """Encoder file; `{fold}` in it stands for the number of the fold."""
    options: ReadOptions
    edges_mm: tuple[float, ...]
    edge_vox: int
    training: RescorerTraining
    device: torch.device
    precision: Precision
    """Of the trained network at work."""

    def encoder_of(self, fold: int, candidates: CandidateSet, store: Store) -> EncoderFile:
        """Read the encoder that the second stage of a fold begins from.

        Raises:
            UserError: it saw scans of the fold with their labels, or see `read_encoder`.
        """
        encoder = read_encoder(self.init_from.replace(FOLD, str(fold)), self.options)
        held_out = [case for case in candidates.found if candidates.fold_of[case] == fold]
        voxels = {case: str(store.entries[case]["voxels"]) for case in held_out}
        if seen := VolumesSeen.of_encoder(encoder).among(voxels, with_labels=True):
            raise UserError(
                f"--init-from {self.init_from}: was trained with labels on {len(seen)} of {len(held_out)} cases that "
                f"fold {fold} holds out, first '{seen[0]}'; wanted weights that have not seen them: another file, or "
                f"one for each fold with {FOLD} in its name"
            )
        return encoder

    def rescorer_of(
        self,
        fold: int,
        encoder: EncoderFile,
        bundle: Bundle,
        candidates: CandidateSet,
        store: Store,
        folder: Path,
        say: Callable[[str], None],
        progress: Callable[[int, float], None],
    ) -> Rescorer:
        """Train the second stage of a fold into a folder, or read what an earlier call with the same options left.

        Args:
            fold: its number.
            encoder: that it begins from.
            bundle: the fold's detector, whose preprocessing the second stage has too.
            candidates: of the cross-validation.
            store: of its cases.
            folder: where it is kept.
            say: told lines.
            progress: told of every step and its loss.

        Raises:
            UserError: see `load_encoder` and `train_rescorer`.
        """
        cases = candidates.training_cases(store, fold)
        identity = self._identity(encoder.sha256, bundle, candidates, store, cases)
        if (folder / RESCORER).is_file():
            try:
                rescorer, provenance = load_rescorer(folder)
            except UserError as error:
                say(f"fold {fold}: trained again, since what an earlier call left cannot be read: {error}")
            else:
                if provenance.get("identity") == identity:
                    say(f"fold {fold}: second stage of an earlier call with the same options")
                    return rescorer
        arguments = {**encoder.architecture.get("init_args", {}), "in_channels": bundle.preprocessing.num_channels}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.training.seed)
            backbone = from_config({**encoder.architecture, "init_args": arguments}, Backbone)
        say(f"fold {fold}: {load_encoder(backbone, encoder)}")
        say(f"fold {fold}: trained on {candidates.summary(cases)}")
        rescorer = Rescorer(backbone, len(bundle.classes), self.edges_mm, self.edge_vox)
        scans = {case: ScanTiles(store.case(case), bundle.preprocessing, ResampledRegions) for case in cases}
        trained = train_rescorer(rescorer, candidates, scans, bundle.classes, self.training, self.device, progress)
        ours = VolumesSeen.of_training((str(store.entries[case]["voxels"]) for case in cases), with_labels=True)
        provenance = {
            "identity": identity,
            "fold": fold,
            "training": self.training.to_json(),
            "encoder": provenance_of(encoder),
            "volumes_seen": (VolumesSeen.of_encoder(encoder) | ours).to_json(),
        }
        save_rescorer(folder, trained, provenance)
        return load_rescorer(folder)[0]

    def scores_of(
        self, fold: int, rescorer: Rescorer, bundle: Bundle, candidates: CandidateSet, store: Store
    ) -> dict[str, np.ndarray]:
        """Return the scores (N,) float64 of both stages of the candidates in the cases that a fold holds out."""
        rescorer.to(self.device)
        result = {}
        for case, found in candidates.found.items():
            if candidates.fold_of[case] == fold:
                tiles = ScanTiles(store.case(case), bundle.preprocessing)
                boxes = torch.from_numpy(tiles.map_boxes(found.boxes.double().numpy()))
                there = Detections(boxes, found.scores, found.labels)
                added = added_log_odds(rescorer, there, tiles, self.device, self.precision)
                result[case] = combined(found.scores, added).numpy()
        return result

    def _identity(
        self, encoder_sha256: str, bundle: Bundle, candidates: CandidateSet, store: Store, cases: list[str]
    ) -> str:
        samples: Mapping[str, Any] = {case: _plain(candidates, case) for case in cases}
        chosen = {name: value for name, value in asdict(self.options).items() if value is not None}
        facts = {
            "encoder": encoder_sha256,
            **({"read_options": chosen} if chosen else {}),  # one file is other weights by other options
            "preprocessing": bundle.preprocessing.to_json(),
            "store": store.fingerprint,
            "candidates": samples,
            "edges_mm": self.edges_mm,
            "edge_vox": self.edge_vox,
            "training": self.training.to_json(),
        }
        return hashlib.sha256(json_text(facts).encode()).hexdigest()


def _plain(candidates: CandidateSet, case: str) -> list[Any]:
    """Return all that is learned of the candidates of a case, as plain data."""
    found = candidates.found[case]
    columns = (found.boxes, found.scores, found.labels, candidates.is_object[case], candidates.is_sample[case])
    return [column.tolist() for column in columns]

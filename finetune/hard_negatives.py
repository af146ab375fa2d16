"""Hard negatives of a run: what its options name, as the places of crops."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medpretrain3d.cross_validation.candidates import read_candidates
from medpretrain3d.documents import LARGE, read_bytes
from medpretrain3d.errors import UserError
from medpretrain3d.loading.hard_negatives import HardNegatives
from medpretrain3d.loading.sampling import CropSampler
from medpretrain3d.store.corpus import CaseRef
from medpretrain3d.store.store import Store


@dataclass(frozen=True)
class HardNegativesFile:
    """False positives of a predictions file in the training cases of a run."""

    hard_negatives: HardNegatives
    sha256: str
    """Of the file, wherever it lies."""

    @staticmethod
    def read(
        path: str, share: float | None, sampler: CropSampler, store: Store, train_cases: Sequence[CaseRef]
    ) -> HardNegativesFile:
        """Read a file of out-of-fold predictions.

        Args:
            path: predictions.json of `cross-validate`.
            share: of all crops; None is half of those that the sampler places anywhere.
            sampler: of the crops.
            store: of the training cases.
            train_cases: of the run.

        Raises:
            UserError: more crops than the sampler places anywhere, or see `read_candidates` and `HardNegatives.among`.
        """
        anywhere = 1 - sampler.object_share - sampler.foreground_share
        wanted = anywhere / 2 if share is None else share
        if not 0 < wanted <= anywhere + 1e-9:
            raise UserError(
                f"data.hard_negative_share {'absent' if share is None else share}: object_share "
                f"{sampler.object_share} and foreground_share {sampler.foreground_share} leave {max(anywhere, 0):g} of "
                "the crops for hard negatives; lower one of them"
            )
        candidates = read_candidates(Path(path), store)
        found = HardNegatives.among(candidates, train_cases, min(wanted / anywhere, 1.0))
        return HardNegativesFile(found, hashlib.sha256(read_bytes(Path(path), "give it again", LARGE)).hexdigest())

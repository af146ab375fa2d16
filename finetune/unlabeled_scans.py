"""Scans without labels beside the labeled ones: which, and how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medpretrain3d.engine.distributed import rank_zero_print
from medpretrain3d.errors import UserError
from medpretrain3d.loading.crops import AugmentOn, CropReader
from medpretrain3d.loading.sampling import CaseOrder
from medpretrain3d.loading.unlabeled_crops import UnlabeledCrops
from medpretrain3d.run_metadata import RunMetadata
from medpretrain3d.store.corpus import CaseRef, Corpus, check_channel_order
from medpretrain3d.store.held_cases import HeldCases
from medpretrain3d.store.store import Store
from medpretrain3d.store.unlabeled_cases import unlabeled_cases

OWN_SEED = 2**32
"""Added to the seed of the run, which is smaller: crops at one place of a batch have nothing to do with each other."""


UNITS = {"hu": "HU", "any": "none, as in MR"}


class UnlabeledScans:
    """The scans that a run sees without their labels; none that it validates or tests on, unless asked for.

    Args:
        stores: with or without labels, the labeled store too.
        split: see `medpretrain3d.store.unlabeled_cases`.
        stage_to: folder to which the stores are copied first.
        labeled: the store with labels.
        fold: of it.
        held: what the run validates and tests on.

    Raises:
        UserError: no scan is left, or scans of another spacing, unit, number or order of channels.
    """

    def __init__(
        self,
        stores: Sequence[str],
        split: str | None,
        stage_to: str | None,
        labeled: Store,
        fold: int | None,
        held: Sequence[CaseRef],
    ) -> None:
        self.corpus = Corpus(stores, stage_to)
        for store in self.corpus.stores:
            _check_alike(store, labeled)
        # Also what is tested at the end of a cross-validation.
        later = [CaseRef(labeled, case_id) for case_id in labeled.splits.get("test", ())]
        chosen = unlabeled_cases(self.corpus, labeled, [*held, *later], split, fold)
        self.cases = chosen.cases
        known = HeldCases.of(held)
        self.num_held = sum(case in known for case in self.cases)
        for note in chosen.notes:
            rank_zero_print(note)
        rank_zero_print(f"{len(self.cases)} scans of {self.corpus.name} are seen without labels")

    def metadata(self) -> RunMetadata:
        """Return which scans they are."""
        return RunMetadata(
            unlabeled_corpus=self.corpus.name,
            num_unlabeled_volumes=len(self.cases),
            unlabeled_fingerprint=self.corpus.fingerprint,
            num_held_cases_unlabeled=self.num_held,
        )

    def provenance(self) -> dict[str, Any]:
        """Return the same for the files that a run makes."""
        return {
            "corpus": self.corpus.name,
            "num_volumes": len(self.cases),
            "num_held_cases": self.num_held,
            "data_fingerprint": self.corpus.fingerprint,
        }

    def crops(self, reader: CropReader, seed: int, augment_on: AugmentOn) -> UnlabeledCrops:
        """Return crops of them."""
        return UnlabeledCrops(CaseOrder(self.cases, OWN_SEED + seed), reader, augment_on)


def _check_alike(store: Store, labeled: Store) -> None:
    facts: dict[str, tuple[object, object]] = {
        "spacing_mm": (store.spacing_mm, labeled.spacing_mm),
        "unit": (UNITS[store.unit], UNITS[labeled.unit]),
        "channels": (len(store.channel_names), len(labeled.channel_names)),
    }
    for name, (theirs, ours) in facts.items():
        if theirs != ours:
            raise UserError(
                f"data.unlabeled: {name} of {store.place} is {theirs}, of {labeled.place} {ours}; prepare both alike, "
                "with the same --spacing-mm, from scans of one modality"
            )
    check_channel_order(labeled, store)

"""Whether the pretraining saw the scans that this run is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune.datamodule import FinetuneData
from medpretrain3d.backbones import EncoderFile, VolumesSeen
from medpretrain3d.engine.distributed import rank_zero_print
from medpretrain3d.errors import UserError
from medpretrain3d.run_metadata import RunMetadata
from medpretrain3d.store.corpus import CaseRef


@dataclass(frozen=True)
class SeenScans:
    """Ids of the test and validation cases whose scans were seen in pretraining or without labels, and which with."""

    test: tuple[str, ...]
    val: tuple[str, ...]
    test_with_labels: tuple[str, ...]
    val_with_labels: tuple[str, ...]
    num_test: int
    num_val: int
    unknown: tuple[str, ...]
    """Weights among the encoder's ancestors whose scans nobody listed: then the numbers are the least there may be."""
    where: str = "in pretraining"

    @staticmethod
    def of(encoder: EncoderFile | None, data: FinetuneData) -> SeenScans:
        """Compare what the encoder's card lists, and what this run sees without labels, with its own splits."""
        seen = VolumesSeen.of_encoder(encoder)
        if data.unlabeled is not None:
            seen |= VolumesSeen.of_training((case.voxels for case in data.unlabeled.cases), with_labels=False)
        test, val = _voxels(data.test_cases), _voxels(data.val_cases)
        return SeenScans(
            test=tuple(seen.among(test)),
            val=tuple(seen.among(val)),
            test_with_labels=tuple(seen.among(test, with_labels=True)),
            val_with_labels=tuple(seen.among(val, with_labels=True)),
            num_test=len(test),
            num_val=len(val),
            unknown=seen.unknown,
            where="in pretraining" if data.unlabeled is None else "in pretraining or without labels",
        )

    def metadata(self) -> RunMetadata:
        """Return the counts; None where nothing is known."""
        is_unknown = bool(self.unknown)
        return RunMetadata(
            num_test_cases=self.num_test,
            num_val_cases=self.num_val,
            num_test_cases_seen=None if is_unknown and not self.test else len(self.test),
            num_val_cases_seen=None if is_unknown and not self.val else len(self.val),
            num_test_cases_seen_with_labels=len(self.test_with_labels),
            num_val_cases_seen_with_labels=len(self.val_with_labels),
            is_pretraining_data_known=not is_unknown,
        )

    def __str__(self) -> str:
        if self.unknown and not self.test + self.val:
            return (
                f"not known whether test or validation scans were seen {self.where}: {', '.join(self.unknown)} does "
                "not list its scans"
            )
        least = f", at least: {', '.join(self.unknown)} does not list its scans" if self.unknown else ""
        return (
            f"seen {self.where}: {len(self.test)} of {self.num_test} test scans, {len(self.val)} of {self.num_val} "
            f"validation scans{least}"
        )


def check_seen_scans(encoder: EncoderFile, data: FinetuneData, is_allowed: bool) -> SeenScans:
    """Say how many scans of the test and validation the encoder saw.

    Raises:
        UserError: it saw some with their labels, and that is not allowed.
    """
    seen = SeenScans.of(encoder, data)
    rank_zero_print(str(seen))
    labeled = (*seen.test_with_labels, *seen.val_with_labels)
    if labeled:
        message = (
            f"{len(seen.test_with_labels)} of {seen.num_test} test scans and {len(seen.val_with_labels)} of "
            f"{seen.num_val} validation scans were pretrained on with labels, first '{labeled[0]}'"
        )
        if not is_allowed:
            raise UserError(
                f"init_from: {message}, so they say nothing about new scans; pretrain without them (data.fold, "
                "data.exclude), choose other splits, or set model.allow_seen_scans to true"
            )
        rank_zero_print(f"{message}: allowed, but no test of new scans")
    return seen


def _voxels(cases: Sequence[CaseRef]) -> dict[str, str]:
    return {case.case_id: case.voxels for case in cases}

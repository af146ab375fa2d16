"""Hashes of the scans weights were trained on, eight bytes each: a later test can say how many of its scans they saw.

A scan is known by the hash of its voxels before resampling (`CaseRef.voxels`), the same in stores of any spacing and
for copies under other names. A hash of that keeps 64 bits: among 300,000 volumes, which take 3.2 MB of a card, a scan
that is not one of them is taken for one with a probability of 2e-14, where a Bloom filter of a tenth of the size would
be wrong once in a hundred times.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.publishing import VOLUMES_SEEN
from medpretrain3d.errors import UserError

NUM_BYTES = 8


@dataclass(frozen=True)
class VolumesSeen:
    """Scans that some weights, or those they were continued from, were trained on; empty for random weights.

    Example:
        >>> from medpretrain3d.backbones import VolumesSeen
        >>> first, second = "1" * 64, "2" * 64  # of voxels, as stores keep them
        >>> seen = VolumesSeen.of_training([first], with_labels=True)
        >>> seen.among({"case_1": first, "case_2": second})
        ['case_1']
    """

    with_labels: frozenset[bytes] = frozenset()
    """By a supervised objective, as training cases of a detector, or by crops that were placed on their objects."""
    without_labels: frozenset[bytes] = frozenset()
    unknown: tuple[str, ...] = ()
    """Weights among the ancestors whose scans nobody listed."""

    @staticmethod
    def of_training(voxels: Iterable[str], with_labels: bool) -> VolumesSeen:
        """Build the record of one training run.

        Args:
            voxels: hash of each training scan, `CaseRef.voxels`.
            with_labels: whether labels were shown with them.
        """
        hashes = frozenset(map(_truncated, voxels))
        return VolumesSeen(with_labels=hashes) if with_labels else VolumesSeen(without_labels=hashes)

    @staticmethod
    def of_encoder(encoder: EncoderFile | None) -> VolumesSeen:
        """Read the record in an encoder's card; unknown where it says nothing, empty for None, which is random weights.

        Raises:
            UserError: the card's list is damaged.
        """
        if encoder is None:
            return VolumesSeen()
        document = encoder.card.get(VOLUMES_SEEN)
        if document is None:
            return VolumesSeen(unknown=(f"{encoder.format} {encoder.sha256[:12]}",))
        return VolumesSeen.from_json(document)

    def __or__(self, other: VolumesSeen) -> VolumesSeen:
        """Return the union of two records, for weights that were trained on both."""
        return VolumesSeen(
            self.with_labels | other.with_labels,
            self.without_labels | other.without_labels,
            tuple(dict.fromkeys((*self.unknown, *other.unknown))),
        )

    def __len__(self) -> int:
        return len(self.with_labels | self.without_labels)

    def among(self, voxels: Mapping[str, str], with_labels: bool = False) -> list[str]:
        """Return those of some cases that were seen; with `with_labels` those whose labels were.

        Args:
            voxels: hash of each case's scan, `CaseRef.voxels`, by its id.
            with_labels: count scans that were seen with their labels only.
        """
        seen = self.with_labels if with_labels else self.with_labels | self.without_labels
        return [case_id for case_id, digest in voxels.items() if _truncated(digest) in seen]

    def to_json(self) -> dict[str, Any]:
        """Return plain data: base64 of the sorted hashes."""
        return {
            "num_volumes": len(self),
            "with_labels": _packed(self.with_labels),
            "without_labels": _packed(self.without_labels),
            "unknown": list(self.unknown),
        }

    @staticmethod
    def from_json(document: Any) -> VolumesSeen:
        """Invert `to_json`.

        Raises:
            UserError: the list is damaged.
        """
        try:
            with_labels, without_labels = (_unpacked(document[name]) for name in ("with_labels", "without_labels"))
            seen = VolumesSeen(with_labels, without_labels, tuple(map(str, document["unknown"])))
            if len(seen) != document.get("num_volumes", len(seen)):
                raise ValueError(f"{len(seen)} scans, wanted {document['num_volumes']}")
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise UserError(
                f"{VOLUMES_SEEN}: the list of scans seen in training is damaged ({error!r}); copy the file again, "
                "or begin from the checkpoint of the run that wrote it"
            ) from error
        return seen


def _truncated(digest: str) -> bytes:
    return hashlib.sha256(digest.encode()).digest()[:NUM_BYTES]


def _packed(hashes: Iterable[bytes]) -> str:
    return base64.b64encode(b"".join(sorted(hashes))).decode("ascii")


def _unpacked(text: str) -> frozenset[bytes]:
    payload = base64.b64decode(text, validate=True)
    if len(payload) % NUM_BYTES:
        raise ValueError(f"{len(payload)} bytes, wanted {NUM_BYTES} each")
    return frozenset(payload[start : start + NUM_BYTES] for start in range(0, len(payload), NUM_BYTES))

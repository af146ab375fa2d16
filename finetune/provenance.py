"""What a detector's weights come from: for `run.json`, bundles and checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune.unlabeled_term import UnlabeledTerm, unlabeled_provenance
from medpretrain3d.backbones import EncoderFile, VolumesSeen, provenance_of
from medpretrain3d.detection import Detector
from medpretrain3d.run_metadata import RunMetadata

if TYPE_CHECKING:
    from finetune.datamodule import FinetuneData


def paradigm_of(encoder: EncoderFile) -> str:
    """Return how an encoder was pretrained, in a word; `unknown` where its card does not say."""
    return str((encoder.card.get("pretraining") or {}).get("paradigm", "unknown"))


def start_metadata(encoder: EncoderFile | None) -> RunMetadata:
    """Return what a run tells of the encoder that it begins from; None is random weights."""
    if encoder is None:
        return RunMetadata(paradigm="scratch", method="scratch", num_pretrain_volumes=0)
    pretraining = encoder.card.get("pretraining") or {}
    paradigm = paradigm_of(encoder)
    return RunMetadata(
        paradigm=paradigm,
        method=pretraining.get("method", paradigm),  # files of others state one name
        corpus=pretraining.get("corpus"),
        num_pretrain_volumes=pretraining.get("num_pretrain_volumes"),
        pretrain_run=pretraining.get("run"),
        checkpoint_sha256=encoder.sha256,
        init_sha256=encoder.sha256,
    )


def begun_from(encoder: EncoderFile, num_groups: int | None) -> dict[str, Any]:
    """Return the provenance of the encoder that a run begins from.

    Args:
        encoder: what was read.
        num_groups: depth groups of it that were taken, from its input; None is all.
    """
    return provenance_of(encoder) | ({} if num_groups is None else {"init_groups": num_groups})


def volumes_seen(encoder: EncoderFile | None, data: FinetuneData) -> VolumesSeen:
    """Return scans that the weights were trained on, here and before."""
    ours = VolumesSeen.of_training((case.voxels for case in data.train_cases), with_labels=True)
    if data.unlabeled is not None:
        ours |= VolumesSeen.of_training((case.voxels for case in data.unlabeled.cases), with_labels=False)
    return VolumesSeen.of_encoder(encoder) | ours


def encoder_card(
    detector: Detector,
    encoder: EncoderFile | None,
    num_groups: int | None,
    unlabeled: UnlabeledTerm | None,
    data: FinetuneData,
) -> dict[str, Any]:
    """Return the card of the backbone as it is trained, by which a checkpoint can be begun from.

    Args:
        detector: around the backbone.
        encoder: that it began from; None is random weights.
        num_groups: see `begun_from`.
        unlabeled: what learns from crops without labels.
        data: that it is trained on.
    """
    pretraining = {
        "paradigm": "supervised_detection",
        "method": "supervised_detection",
        "corpus": data.corpus.name,
        "num_pretrain_volumes": len(data.train_cases),
        "detector": type(detector).__name__,
        "classes": data.classes,
        "data_fingerprint": data.corpus.fingerprint,
        **unlabeled_provenance(unlabeled, data),
    }
    return {
        "preprocessing": data.preprocessing().to_json(),
        "pretraining": pretraining,
        "citations": [],
        "volumes_seen": volumes_seen(encoder, data).to_json(),
        **({"continued_from": begun_from(encoder, num_groups)} if encoder else {}),
    }

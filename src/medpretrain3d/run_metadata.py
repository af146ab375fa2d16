"""Run metadata: what is written about a run into `run.json`, sent to wandb and read by a study, defined once."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import StrictBool, StrictInt, StrictStr

from medpretrain3d.documents import Artifact, Number, Text, Whole, checked, read_json

_ADVICE = "give another run.name, or run.restart=true to repeat the run"


@dataclass(frozen=True)
class RunMetadata:
    """What is known of a run of either stage, flat; `None` is what is not known or not meant.

    Example:
        >>> from medpretrain3d.run_metadata import RunMetadata
        >>> data = RunMetadata(dataset="openkbp", num_train_cases=24)
        >>> (data | RunMetadata(stage="finetune", num_train_cases=8)).num_train_cases
        8
    """

    stage: Text | None = None
    """`pretrain` or `finetune`."""
    name: Text | None = None
    group: Text | None = None
    run_id: Text | None = None
    """Of this run among all others, made when it begins; at wandb and MLflow, too, it goes on under it."""
    begun_in: Text | None = None
    """Hash of the job of SLURM in which it began, and how often that had been queued again, as `1f0c52ab93d4/0`."""
    arm: Text | None = None
    """Arm of the comparison that it is of."""
    seed: StrictInt | None = None
    finished: StrictBool | None = None
    """Whether the run ended well."""

    paradigm: Text | None = None
    """How the backbone was pretrained, in a word: `scratch`, `reconstruction`, `supervised`, `contrastive`,
    `detector`."""
    method: Text | None = None
    """The arm within the paradigm, as `mae`."""
    backbone: Text | None = None
    detector: Text | None = None
    params: Whole | StrictInt | None = None
    """Of the network that is kept."""
    pretrain_run: Text | None = None
    """Group and name of the run that the weights come from."""
    checkpoint_sha256: StrictStr | None = None
    """Of the encoder: written by pretraining, begun from by fine-tuning."""

    corpus: Text | None = None
    """Of the pretraining."""
    num_pretrain_volumes: Whole | None = None
    dataset: Text | None = None
    """Of the fine-tuning."""
    fold: Whole | None = None
    label_fraction: Number | None = None
    num_train_cases: Whole | None = None
    data_fingerprint: StrictStr | None = None
    cases_fingerprint: StrictStr | None = None
    """Of which cases of the data are trained, validated and tested on."""
    semi_supervised: Text | None = None
    """How scans without labels were learned from beside those with them, as `meanteacher`."""
    unlabeled_corpus: Text | None = None
    num_unlabeled_volumes: Whole | None = None
    """Scans seen without labels in fine-tuning."""
    unlabeled_fingerprint: StrictStr | None = None
    num_held_cases_unlabeled: Whole | None = None
    """Test and validation scans among them."""
    hard_negatives_sha256: StrictStr | None = None
    """Of the predictions whose false positives crops were placed on."""
    num_test_cases: Whole | None = None
    num_val_cases: Whole | None = None
    num_test_cases_seen: Whole | None = None
    """Test scans that the encoder was pretrained on."""
    num_val_cases_seen: Whole | None = None
    num_test_cases_seen_with_labels: Whole | None = None
    num_val_cases_seen_with_labels: Whole | None = None
    is_pretraining_data_known: StrictBool | None = None
    """Whether every ancestor of the weights lists its scans; otherwise these numbers are the least there may be."""

    budget_steps: StrictInt | None = None
    """Optimizer steps that were asked for."""
    steps: Whole | None = None
    """Optimizer steps that were made."""
    weights: Text | None = None
    """Which weights were tested and kept: `last`, `averaged` or `best`."""
    minutes: Number | None = None
    """Wall clock, of every sitting."""
    compute_hours: Number | None = None
    """Of all devices, validation and test included."""
    precision: Text | None = None
    """Of the network, as Lightning names it; the run keeps that which it began with."""
    bf16_speed_ratio: Number | None = None
    """Speed of a 3D convolution in bf16, divided by that in fp32, where the run began; None: nothing was measured."""
    compute_device: Text | None = None
    energy_kwh: Number | None = None
    """Of the devices, every sitting, validation and test included; None where a counter could not be read."""
    energy_of: Text | None = None
    """What was counted: `GPU`, or `CPU packages`, which are those of the machine whatever else ran on them."""
    flop: Number | StrictInt | None = None
    """Of the batches trained on."""
    machine: Text | None = None
    global_batch_size: Whole | None = None
    """Samples of a step, over all processes and accumulated batches."""
    init_sha256: StrictStr | None = None
    """Of the weights that the run began with, wherever their file lies."""
    views_fingerprint: StrictStr | None = None
    """Of what pretraining is shown beside the stores, as labels of a table."""
    exclude_fingerprint: StrictStr | None = None
    """Of the stores whose test and validation scans were left out of pretraining."""
    num_threads: Whole | None = None
    """Of each process on the CPU."""
    git_sha: StrictStr | None = None
    medpretrain3d_version: StrictStr | None = None

    def __or__(self, other: RunMetadata) -> RunMetadata:
        """Return both, the values of the other where it has them."""
        return RunMetadata(**{**asdict(self), **other.known()})

    def known(self) -> dict[str, Any]:
        """Return the values that differ from the default."""
        return {one.name: value for one in fields(self) if (value := getattr(self, one.name)) != one.default}

    def to_json(self) -> dict[str, Any]:
        """Return plain data, every key in it."""
        return asdict(self)

    @staticmethod
    def from_json(document: dict[str, Any], place: str, advice: str = _ADVICE) -> RunMetadata:
        """Return what a `run.json` of any version says; keys of others are left out.

        Raises:
            UserError: a value of another type, or a version that is not known yet.
        """
        if "format" in document:
            RUN_DOCUMENT.check(document, place)
            return checked(document, RunMetadata, place, advice)
        # Before the file had a header, `version` was that of the package.
        own = {**document, "medpretrain3d_version": document.get("version")}
        return checked(own, RunMetadata, place, advice)


RUN_DOCUMENT = Artifact("medpretrain3d-run", 1, dict[str, Any], _ADVICE)


def read_run_metadata(path: Path, advice: str = _ADVICE) -> RunMetadata:
    """Read a `run.json`.

    Raises:
        UserError: it is missing or damaged, see `RunMetadata.from_json`.
    """
    # Earlier versions wrote NaN where there was no number.
    return RunMetadata.from_json(read_json(path, dict[str, Any], advice, allow_nan=True), str(path), advice)

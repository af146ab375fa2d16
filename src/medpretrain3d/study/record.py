"""Record of one job of a study on the disk: what it was made from, and how it ended.

The stages' libraries are not imported here: this is read at the start and the end of every job.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NotRequired

from pydantic import with_config
from typing_extensions import TypedDict

from medpretrain3d.atomic import write_text
from medpretrain3d.documents import SCHEMA, Artifact, Number, Text, json_text, read_json
from medpretrain3d.errors import UserError
from medpretrain3d.run_metadata import read_run_metadata

RUN = "run.json"
PRODUCTS = {"pretrain": "encoder/encoder.json", "finetune": "bundle/bundle.json"}
"""What a run of each stage leaves in its folder."""
METRICS = "test/metrics.json"
RUN_FILES = (
    RUN,
    "config.yaml",
    "metrics.csv",
    *PRODUCTS.values(),
    METRICS,
    *(f"test/{name}.json" for name in ("predictions", "targets", "train_targets")),
)
"""Files of a run that reports and statistics read, and that are kept, as far as it has them."""
ADVICE = "take the file away; its job runs again"


@with_config(SCHEMA)
class Record(TypedDict):
    """Schema of the record of a job."""

    name: Text
    kind: Text
    setting: dict[str, Text]
    facts: dict[str, Any]
    code: Text
    recipe: Text
    identity: Text
    needs: list[Text]
    commands: list[list[Text]]
    folder: Text
    """Of the run, or the store."""


@with_config(SCHEMA)
class Failure(TypedDict):
    """Schema of how a job ended that did not end well."""

    exit_code: int
    message: Text
    store: NotRequired[Text]


@with_config(SCHEMA)
class Done(TypedDict):
    """Schema of how a job ended that ended well."""

    minutes: Number
    store: NotRequired[Text]
    """Of what was prepared: hash of voxels, labels and splits of a store, or of candidates."""
    date: NotRequired[Text]
    """When its result was there; earlier versions did not write it, see `result_date`."""


RECORD = Artifact("medpretrain3d-study-job", 1, Record, ADVICE)


def is_complete(folder: Path, kind: str, done: Path) -> bool:
    """Return whether the result of a job is there as it was when the job ended.

    Args:
        folder: of its run, or its store.
        kind: of job.
        done: the file that says how it ended.
    """
    try:
        if kind == "prepare":
            return read_json(done, Done, ADVICE).get("store") == product_hash(folder)
        return (folder / PRODUCTS[kind]).is_file() and bool(read_run_metadata(folder / RUN).finished)
    except (UserError, OSError):
        return False


def lacks_weights(folder: Path, kind: str) -> bool:
    """Return whether of a run only what is kept of results is there, and not the weights that it made."""
    product = (folder / PRODUCTS[kind]).parent
    return product.is_dir() and not any(product.rglob("*.safetensors"))


def product_hash(folder: Path) -> str:
    """Return a hash of all that a store holds, its splits included, or of candidates out of fold.

    Raises:
        UserError: there is neither, or a store is damaged.
    """
    from medpretrain3d.study import inputs  # with numpy: half a second

    if (folder / inputs.CANDIDATES).is_file() and not inputs.is_prepared(folder):
        return inputs.content_hash(folder / inputs.CANDIDATES)
    store = inputs.open_store(folder)
    return f"{store.fingerprint[:16]}, {inputs.pretraining_hash([store])}"


def write_done(path: Path, kind: str, folder: Path, minutes: float) -> None:
    """Say that a job ended well, and when: with the numbers of its test, also where its end is noted only later."""
    metrics, now = folder / METRICS, datetime.now(UTC)
    tested = datetime.fromtimestamp(metrics.stat().st_mtime, UTC) if metrics.is_file() else now
    done = Done(minutes=round(minutes, 4), date=min(tested, now).isoformat())
    if kind == "prepare":
        done["store"] = product_hash(folder)
    path.with_suffix(".failed").unlink(missing_ok=True)
    write_text(path, json_text(done))


def write_failed(path: Path, exit_code: int, message: str) -> None:
    """Say that a job did not end well."""
    write_text(path, json_text(Failure(exit_code=exit_code, message=message)))

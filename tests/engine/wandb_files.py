"""Reads what wandb keeps of an offline run: a log of records in the format of LevelDB, behind a header of 7 bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 32768
FULL, LAST = 1, 4


def records(path: Path) -> Iterator[Any]:
    """All records of a `run-<id>.wandb` that are whole."""
    from wandb.proto import wandb_internal_pb2

    content, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if BLOCK - place % BLOCK < 7:  # too little for another header
            place += BLOCK - place % BLOCK
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def items(entries: Any) -> dict[str, Any]:
    """Values by their keys, nested ones with dots."""
    return {".".join(one.nested_key) or one.key: json.loads(one.value_json) for one in entries}


class WandbFile:
    """One sitting of a run: what its records say in the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run: Any = None
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.metrics: dict[str, Any] = {}
        self.artifacts: dict[str, Any] = {}
        self.stats: set[str] = set()
        self.exit_code: int | None = None
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.run = record.run
                self.config |= items(record.run.config.update)
            elif kind == "config":
                self.config |= items(record.config.update)
            elif kind == "summary":
                self.summary |= items(record.summary.update)
            elif kind == "history":
                self.history.append(items(record.history.item))
            elif kind == "metric":
                self.metrics[record.metric.name or record.metric.glob_name] = record.metric
            elif kind == "artifact":
                self.artifacts[record.artifact.type, record.artifact.name] = record.artifact
            elif kind == "stats":
                self.stats |= {one.key for one in record.stats.item}
            elif kind == "exit":
                self.exit_code = record.exit.exit_code

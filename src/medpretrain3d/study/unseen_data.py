"""Jobs on data that are not there, known by the records of their results: a report needs no data and no training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from medpretrain3d.documents import json_text
from medpretrain3d.study.jobs import UNKNOWN, Job
from medpretrain3d.study.record import Record

OF_DATA = ("data", "split", "excluded", "unlabeled")
"""Facts that are hashes of data, or are there only where these are."""


def from_record(job: Job, records: Sequence[Record]) -> Job:
    """Return a job with the hashes of data that the newest record like it has; as it is where none is, or it has all.

    A record is like it that has the same place in the design, the same options, and begins from the same encoder. That
    its data were those of the study is taken at its word, so that names of data sets and arms count here: nothing else
    tells runs on two stores apart.

    Args:
        job: which may be on data that are not there.
        records: of results, the oldest first.
    """
    if UNKNOWN not in job.facts.values():
        return job
    own = (job.kind, [one.identity for one in job.needs], _options(job.facts))
    for record in reversed(records):
        if (record["kind"], record["needs"], _options(record["facts"])) == own and _is_place(job, record):
            return replace(job, facts=record["facts"])
    return job


def _is_place(job: Job, record: Record) -> bool:
    """Return whether a record is of a job's place in the design; encoders name data only where an arm has several."""
    differing = {key for key, _ in {*job.setting.items()} ^ {*record["setting"].items()}}
    return not differing or (differing == {"data"} and ("data" in job.setting) != ("data" in record["setting"]))


def _options(facts: Any) -> dict[str, str]:
    # As JSON has them: a record knows lists where a recipe has tuples.
    return {key: json_text(value) for key, value in facts.items() if key not in OF_DATA and value != UNKNOWN}

"""Jobs on data that are not there, known by the records of their results: a report needs no data and no training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from medpretrain3d.absolute_paths import without_absolute_paths
from medpretrain3d.documents import json_text
from medpretrain3d.study.jobs import UNKNOWN, Job
from medpretrain3d.study.record import Record

OF_DATA = ("data", "split", "excluded", "unlabeled")
"""Facts that are hashes of data, or are there only where these are."""


class UnseenData:
    """Data that jobs read and that are not there, as the records of results have them.

    Args:
        records: of results, the oldest first.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._records: dict[str, list[Record]] = {}
        for record in records:
            self._records.setdefault(_key(record["kind"], record["needs"], record["facts"]), []).insert(0, record)

    def known(self, job: Job) -> Job:
        """Return a job with the hashes of data that the newest record like it has; as it is where it lacks none.

        A record is like it that has the same place in the design, the same options, and begins from the same encoder.
        That its data were those of the study is taken at its word, so that names of data sets and arms count here:
        nothing else tells runs on two stores apart.
        """
        if UNKNOWN not in job.facts.values():
            return job
        alike = self._records.get(_key(job.kind, [one.identity for one in job.needs], job.facts), ())
        return next((_with_data_of(job, record) for record in alike if _is_place(job, record)), job)


def _with_data_of(job: Job, record: Record) -> Job:
    """Return a job with what a record knows and it lacks; its own options stay, paths in them whole."""
    lacked = {key: one for key, one in record["facts"].items() if key in OF_DATA or job.facts.get(key) == UNKNOWN}
    return replace(job, facts={**job.facts, **lacked})


def _key(kind: str, needs: list[str], facts: Mapping[str, Any]) -> str:
    options = {key: value for key, value in facts.items() if key not in OF_DATA and value != UNKNOWN}
    options = without_absolute_paths(options)  # of which kept results hold the last names
    return json_text([kind, needs, sorted(options.items())])  # as a record has them: lists where a recipe has tuples


def _is_place(job: Job, record: Record) -> bool:
    """Return whether a record is of a job's place in the design; encoders name data only where an arm has several."""
    differing = {key for key, _ in {*job.setting.items()} ^ {*record["setting"].items()}}
    return not differing or (differing == {"data"} and ("data" in job.setting) != ("data" in record["setting"]))

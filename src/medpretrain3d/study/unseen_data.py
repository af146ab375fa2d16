"""Jobs on data that are not there, known by the records of their results: a report needs no data and no training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from medpretrain3d.absolute_paths import is_absolute, last_name, without_absolute_paths
from medpretrain3d.command_line.composition import composed, flattened
from medpretrain3d.documents import json_text, read_yaml
from medpretrain3d.errors import UserError
from medpretrain3d.study.jobs import UNKNOWN, Job
from medpretrain3d.study.record import ADVICE, Record

OF_DATA = ("data", "split", "excluded", "unlabeled")
"""Facts that are hashes of data, or are there only where these are."""
PLACES = ("data.store", "data.exclude", "data.unlabeled", "data.hard_negatives", "data.views.init_args.table")
"""Options that say where data are: they change no result, and are no facts."""
Places = tuple[tuple[str, ...], ...]


class UnseenData:
    """Data that jobs read and that are not there, as the records of results have them.

    Args:
        records: of results, the oldest first.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._records: dict[str, list[Record]] = {}
        self._places: dict[str, Places | None] = {}
        for record in records:
            self._records.setdefault(_key(record["kind"], record["needs"], record["facts"]), []).insert(0, record)

    def known(self, job: Job) -> Job:
        """Return a job with the hashes of data that the newest record like it has; as it is where it lacks none.

        A record is like it that has the same options, begins from the same encoder, and stands at the same place of the
        design, on data that are called the same in its configuration. Where the study that it is of calls arm or data
        otherwise it has to have read the very same folders, told by more than their last names, and these have to have
        held the same in every such record. That the folders hold what they held then is taken at its word.
        """
        if UNKNOWN not in job.facts.values():
            return job
        alike = self._records.get(_key(job.kind, [one.identity for one in job.needs], job.facts), ())
        if not alike:
            return job
        own = _places(flattened(composed(job.layers)))
        at_place = [one for one in alike if _is_place(job, one) and _are_called_alike(own, self._read_by(one))]
        if at_place:
            return _with_data_of(job, at_place[0])
        same = [one for one in alike if _are_whole(own) and own == self._read_by(one)]
        contents = {json_text([one["facts"].get(key) for key in OF_DATA]) for one in same}
        return _with_data_of(job, same[0]) if len(contents) == 1 else job

    def _read_by(self, record: Record) -> Places | None:
        """Return where the data of a result were, by the configuration of its run; None where it has none."""
        folder = record["folder"]
        if folder not in self._places:
            self._places[folder] = None
            with suppress(UserError, OSError):
                self._places[folder] = _places(flattened(read_yaml(Path(folder) / "config.yaml", ADVICE)))
        return self._places[folder]


def _places(options: Mapping[str, Any]) -> Places:
    """Return the folders and files of each of `PLACES`."""
    found = (options.get(key) or [] for key in PLACES)
    return tuple(tuple(map(str, one if isinstance(one, list | tuple) else [one])) for one in found)


def _are_called_alike(own: Places, others: Places | None) -> bool:
    """Return whether the last names of folders are the same: a store may have been moved, and lie elsewhere here."""
    if others is None:
        return True
    ours, theirs = ([[last_name(path) for path in paths] for paths in one] for one in (own, others))
    return ours == theirs


def _are_whole(places: Places) -> bool:
    """Return whether paths tell folders apart: kept results have the last name of an absolute one, as `a` of `/x/a`."""
    return all(not is_absolute(path) and len(PurePath(path).parts) > 1 for paths in places for path in paths)


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

"""Results of a study's finished jobs, small enough to stay with a repository: no weights, no checkpoints, no pictures,
and no path of the machine.

RESULTS/<kind>-<identity>.tar.xz     record of the job, how it ended, and of its run what reports and statistics read
RESULTS/<study>.declarations.json    what was declared when, see `declaration`

A study that names such a folder (`results`) takes from it what its own folder lacks: nothing is trained twice, and a
report needs no training. An encoder whose weights are wanted by a run to come is pretrained again.
"""

from __future__ import annotations

import io
import lzma
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from medpretrain3d.absolute_paths import is_absolute, without_absolute_paths
from medpretrain3d.atomic import finished_file, finished_folder, locked_folder, write_text
from medpretrain3d.atomic.disk_errors import disk_errors
from medpretrain3d.atomic.lock import LOCK, is_locked
from medpretrain3d.documents import json_text, parse_json, parse_yaml, read_json
from medpretrain3d.documents.text import read_bytes
from medpretrain3d.errors import UserError
from medpretrain3d.study import record
from medpretrain3d.study.design import Study
from medpretrain3d.study.jobs import Job
from medpretrain3d.study.record import PRODUCTS, RECORD, RUN, RUN_FILES, Done, Record
from medpretrain3d.study.records import Records
from medpretrain3d.study.result_date import result_date

SUFFIX = ".tar.xz"
RECORD_FILE, DONE_FILE, CONFIG_FILE = "job.json", "job.done", "run/config.yaml"
STUDY = "study"
STUDY_LOCK = f".{STUDY}{LOCK}"
"""Of the study's folder, while a call writes into it."""
MAX_BYTES = 2**28
"""Of an archive, packed or not."""
ADVICE = "fetch it again, or take it away"


def keep_results(study: Study, jobs: Iterable[Job]) -> int:
    """Write the results of finished jobs into the study's folder of results, if it names one.

    Returns:
        How many were not there yet.

    Raises:
        UserError: the disk refuses.
    """
    if study.results is None:
        return 0
    records, num_new = Records(study), 0
    for job in jobs:
        path = study.results / f"{job.kind}-{job.identity}{SUFFIX}"
        if job.kind == "prepare" or path.is_file():
            continue
        run = records.run_folder(job)
        files = {RECORD_FILE: records.path(job).read_bytes(), DONE_FILE: _dated(run, job, records.path(job, "done"))}
        files |= {f"run/{name}": (run / name).read_bytes() for name in RUN_FILES if (run / name).is_file()}
        files = {name: _without_places(name, content) for name, content in files.items()}
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with finished_file(path) as new:
            _write(new, files)
        num_new += 1
    return num_new


def restore_results(study: Study) -> int:
    """Take the results that the study's own folder lacks from its folder of results, if it names one.

    A run of its own that is on its way stays as it is; one that a call took before it was killed gets its record. Hold
    the lock of the study's folder, or see `restore_beside`.

    Returns:
        How many were taken.

    Raises:
        UserError: an archive cannot be read, or is not what its name says.
    """
    records, num_taken = Records(study), 0
    for path in _lacking(study):
        stem = path.name.removesuffix(SUFFIX)
        done = records.folder / f"{stem}.done"
        files = dict(_read(path))
        known = _record(path, files)
        run = study.folder / Path(known["folder"]).name
        of_run = {name.removeprefix("run/"): content for name, content in files.items() if name.startswith("run/")}
        if not run.exists():
            with finished_folder(run) as new:
                for name, content in of_run.items():
                    place = new / name
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(content)
        elif not _holds(run, of_run):
            continue
        RECORD.write(records.folder / f"{stem}.json", {**known, "folder": str(run)}, indent=1)
        write_text(done, files[DONE_FILE].decode())
        num_taken += 1
    return num_taken


def _holds(run: Path, files: Mapping[str, bytes]) -> bool:
    """Return whether a run is the one that was kept, byte by byte but for its paths, which are not kept."""
    with suppress(OSError, UserError):
        own = {name: (run / name).read_bytes() for name in files}
        return all(files[name] in (one, _without_places(f"run/{name}", one)) for name, one in own.items())
    return False


def _without_places(name: str, content: bytes) -> bytes:
    """Return a file without absolute paths: record and configuration name some, and are kept where others read them.

    The root of the runs goes as a whole, since its last name may be that of a user. What names none keeps its bytes.

    Raises:
        UserError: one of the two cannot be read.
    """
    if name not in (RECORD_FILE, CONFIG_FILE):
        return content
    try:
        is_record = name == RECORD_FILE
        document = parse_json(content, name, dict[str, Any], ADVICE) if is_record else parse_yaml(content.decode())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{name}: is not valid YAML ({' '.join(str(error).split())}); repeat the run") from error
    kept = without_absolute_paths(document)
    if kept == document:
        return content
    if is_record:
        return json_text(kept, indent=1).encode()
    if is_absolute(str((document.get("run") or {}).get("root", ""))):
        del kept["run"]["root"]
    text: str = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)
    return text.encode()


def restore_beside(study: Study) -> int:
    """Take the same for a command that only reads; nothing where another call is at work, which took it already.

    Returns:
        How many were taken.

    Raises:
        UserError: see `restore_results`.
    """
    if not _lacking(study) or is_locked(study.folder / STUDY):
        return 0
    with locked_folder(study.folder, STUDY_LOCK, clean=False):
        return restore_results(study)


def _lacking(study: Study) -> list[Path]:
    """Return the archives whose results are not in the study's own folder as a whole."""
    archives = sorted(study.results.glob(f"*{SUFFIX}")) if study.results is not None else []
    records = Records(study)
    return [path for path in archives if not records.is_whole(path.name.removesuffix(SUFFIX))]


def lacks_weights(study: Study, job: Job) -> bool:
    """Return whether of a pretraining that is done the encoder's weights are not there, as where results were kept."""
    return job.kind == "pretrain" and record.lacks_weights(Records(study).run_folder(job), job.kind)


def clear_without_weights(study: Study, job: Job) -> None:
    """Make room for a pretraining to run again whose weights are not there; what is kept of it stays where it is kept.

    One that has its checkpoints goes on from them, and writes its encoder anew.

    Raises:
        UserError: the disk refuses.
    """
    if lacks_weights(study, job):
        folder = Records(study).run_folder(job)
        has_checkpoints = any((folder / "checkpoints").glob("*.ckpt"))
        with disk_errors(folder):
            shutil.rmtree((folder / PRODUCTS[job.kind]).parent if has_checkpoints else folder)


def _dated(run: Path, job: Job, done: Path) -> bytes:
    """Return how a job ended, with the date of its result: a copy has no other sign of it."""
    found = read_json(done, Done, ADVICE)
    date = result_date(run, job.kind, done)
    if "date" in found or date is None:
        return done.read_bytes()
    return json_text({**found, "date": date.isoformat()}).encode()


def _write(path: Path, files: dict[str, bytes]) -> None:
    """Write an archive whose bytes depend on the content of its files alone."""
    with tarfile.open(path, "w:xz", preset=9) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _read(path: Path) -> Iterator[tuple[str, bytes]]:
    """Read the files of an archive that belong into one; others are left out."""
    wanted = {RECORD_FILE, DONE_FILE, *(f"run/{name}" for name in RUN_FILES)}
    content = _unpacked(path)
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.name in wanted and member.isreg() else None
                if file is not None:
                    yield member.name, file.read()
    except tarfile.TarError as error:
        raise UserError(f"{path}: cannot be read ({error}); {ADVICE}") from error


def _unpacked(path: Path) -> bytes:
    """Unpack a whole archive, which checks it; tarfile stops before the end and its checksum."""
    unpacker = lzma.LZMADecompressor()
    try:
        content = unpacker.decompress(read_bytes(path, ADVICE, MAX_BYTES), MAX_BYTES)
    except lzma.LZMAError as error:
        raise UserError(f"{path}: cannot be read ({error}); {ADVICE}") from error
    if not unpacker.eof:
        raise UserError(f"{path}: ends too early, or holds more than {MAX_BYTES:,} bytes; {ADVICE}")
    return content


def _record(path: Path, files: dict[str, bytes]) -> Record:
    for name in (RECORD_FILE, DONE_FILE, f"run/{RUN}"):
        if name not in files:
            raise UserError(f"{path}: has no {name}, so it is no result of a study; take it away")
    found = RECORD.parse(files[RECORD_FILE], f"{path}: {RECORD_FILE}")
    names = f"{found['kind']}-{found['identity']}{SUFFIX}", Path(found["folder"]).name
    if names[0] != path.name or names[1] in ("", ".", ".."):
        raise UserError(f"{path}: is the result of {names[0]} in '{found['folder']}'; take it away, or name it so")
    return found

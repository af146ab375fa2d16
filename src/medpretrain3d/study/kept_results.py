"""Results of a study's finished jobs, small enough to stay with a repository: no weights, no checkpoints, no pictures.

RESULTS/<kind>-<identity>.tar.xz     record of the job, how it ended, and of its run what reports and statistics read

A study that names such a folder (`results`) takes from it what its own folder lacks: nothing is trained twice, and a
report needs no training. An encoder whose weights are wanted by a run to come is pretrained again.
"""

from __future__ import annotations

import io
import lzma
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from medpretrain3d.atomic import finished_file, finished_folder, write_text
from medpretrain3d.atomic.disk_errors import disk_errors
from medpretrain3d.documents.text import read_bytes
from medpretrain3d.errors import UserError
from medpretrain3d.study.design import Study
from medpretrain3d.study.jobs import Job
from medpretrain3d.study.record import PRODUCTS, RECORD, RUN, RUN_FILES, Record
from medpretrain3d.study.records import Records

SUFFIX = ".tar.xz"
RECORD_FILE, DONE_FILE = "job.json", "job.done"
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
        files = {RECORD_FILE: records.path(job), DONE_FILE: records.path(job, "done")}
        files |= {f"run/{name}": run / name for name in RUN_FILES if (run / name).is_file()}
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with finished_file(path) as new:
            _write(new, files)
        num_new += 1
    return num_new


def restore_results(study: Study) -> int:
    """Take the results that the study's own folder lacks from its folder of results, if it names one.

    A run of its own that is on its way stays as it is.

    Returns:
        How many were taken.

    Raises:
        UserError: an archive cannot be read, or is not what its name says.
    """
    if study.results is None:
        return 0
    records, num_taken = Records(study), 0
    for path in sorted(study.results.glob(f"*{SUFFIX}")):
        stem = path.name.removesuffix(SUFFIX)
        done = records.folder / f"{stem}.done"
        if done.is_file():
            continue
        files = dict(_read(path))
        record = _record(path, files)
        run = study.folder / Path(record["folder"]).name
        if run.exists():
            continue
        with finished_folder(run) as new:
            for name, content in files.items():
                if name.startswith("run/"):
                    place = new / name.removeprefix("run/")
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(content)
        RECORD.write(records.folder / f"{stem}.json", {**record, "folder": str(run)}, indent=1)
        write_text(done, files[DONE_FILE].decode())
        num_taken += 1
    return num_taken


def lacks_weights(study: Study, job: Job) -> bool:
    """Return whether of a pretraining that is done only what was kept is there, and not its encoder's weights."""
    if study.results is None or job.kind != "pretrain":
        return False
    encoder = (Records(study).run_folder(job) / PRODUCTS[job.kind]).parent
    is_kept = (study.results / f"{job.kind}-{job.identity}{SUFFIX}").is_file()
    return is_kept and encoder.is_dir() and not any(encoder.glob("*.safetensors"))


def clear_restored(study: Study, job: Job) -> None:
    """Make room for a pretraining to run again, where only its kept results are there; these stay where they are kept.

    Raises:
        UserError: the disk refuses.
    """
    if lacks_weights(study, job):
        folder = Records(study).run_folder(job)
        with disk_errors(folder):
            shutil.rmtree(folder)


def _write(path: Path, files: dict[str, Path]) -> None:
    """Write an archive whose bytes depend on the content of its files alone."""
    with tarfile.open(path, "w:xz", preset=9) as archive:
        for name, source in files.items():
            content = source.read_bytes()
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
    record = RECORD.parse(files[RECORD_FILE], f"{path}: {RECORD_FILE}")
    names = f"{record['kind']}-{record['identity']}{SUFFIX}", Path(record["folder"]).name
    if names[0] != path.name or names[1] in ("", ".", ".."):
        raise UserError(f"{path}: is the result of {names[0]} in '{record['folder']}'; take it away, or name it so")
    return record

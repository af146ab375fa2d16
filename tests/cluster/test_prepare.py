"""A corpus prepared by an array of jobs, of which one is killed."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

from medpretrain3d.ingest.prepare import prepare
from medpretrain3d.ingest.prepare_options import PrepareOptions

from .conftest import NO_GPU
from .jobs import Job, ask


def content_of(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_shard_that_was_killed_is_repeated_and_makes_the_store_of_a_single_call(submit, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    random = np.random.default_rng(0)
    for number in range(6):
        image = nibabel.Nifti1Image(random.integers(-1000, 500, (24, 24, 24)).astype(np.int16), np.eye(4))
        nibabel.save(image, raw / f"s{number}.nii.gz")
    array = ("--array=1-3", *NO_GPU)
    pause = {"PAUSE_AT": "prepare:1", "PAUSE_RANK": "2"}  # with one of its two cases done
    job = submit("prepare_array.sbatch", array, str(raw), str(tmp_path / "store"), SHARDS="3", **pause)
    tasks = [Job(f"{job.id}_{number}", job.folder) for number in (1, 2, 3)]
    tasks[1].paused()
    assert [task.end() for task in (tasks[0], tasks[2])] == [("COMPLETED", 0)] * 2
    ask("scancel", "--signal=KILL", "--full", tasks[1].id)
    assert tasks[1].end()[0] in ("FAILED", "CANCELLED")
    assert not (tmp_path / "store" / "store.json").exists()
    again = submit("prepare_array.sbatch", ("--array=2", *NO_GPU), str(raw), str(tmp_path / "store"), SHARDS="3")
    assert Job(f"{again.id}_2", again.folder).end() == ("COMPLETED", 0)
    prepare(raw, tmp_path / "single", PrepareOptions())
    assert content_of(tmp_path / "store") == content_of(tmp_path / "single")

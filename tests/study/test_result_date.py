"""When a result was there: by what is kept of it, and where nothing is by no time that is too early to be true."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from medpretrain3d.study.record import write_done
from medpretrain3d.study.result_date import result_date

TESTED = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose test ended at `TESTED`, and that began an hour earlier."""
    for name, seconds in (("config.yaml", -3600), ("test/metrics.json", 0), ("bundle/detector.safetensors", 0)):
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        time = TESTED.timestamp() + seconds
        os.utime(path, (time, time))
    return tmp_path / "run"


def test_the_date_is_that_of_the_test_and_stays_when_the_file_is_written_anew(run, tmp_path):
    done = tmp_path / "job.done"
    write_done(done, "finetune", run, 1.0)  # of a launcher that was killed, and came back today
    (run / "test" / "metrics.json").write_text("{}")
    assert result_date(run, "finetune", done) == TESTED


def test_of_an_earlier_version_the_beginning_of_a_run_stands_in_and_of_a_copy_nothing(run, tmp_path):
    done = tmp_path / "job.done"
    done.write_text('{"minutes": 1.0}')
    (run / "test" / "metrics.json").write_text("{}")
    assert result_date(run, "finetune", done) == datetime(2026, 3, 1, 11, tzinfo=UTC)
    (run / "bundle" / "detector.safetensors").unlink()
    assert result_date(run, "finetune", done) is None

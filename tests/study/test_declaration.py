from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.run_metadata import RunMetadata
from medpretrain3d.study.declaration import FILE, declaration_note, declare, read_declarations, read_designs
from medpretrain3d.study.design import Study
from medpretrain3d.study.document import read_study
from medpretrain3d.study.records import Records
from medpretrain3d.study.run import Run
from medpretrain3d.study.run_study import progress_of

from .test_progress import finish


def test_what_is_expected_is_written_down_once_and_again_when_it_changes(write_study, tmp_path):
    for _ in range(2):
        declare(read_study(write_study(delta=0.02)))
    study = read_study(write_study(delta=0.02, seeds=1))  # no matter of what is expected
    declare(study)
    assert len(read_declarations(study)) == 1
    declare(read_study(write_study(delta=0.05)))
    assert len(read_declarations(study)) == 2


def test_a_report_says_what_was_declared_after_there_were_results(write_study, tmp_path):
    study = read_study(write_study(delta=0.02))
    assert declaration_note(study, []).endswith("were not declared before this report.")
    declare(study)
    run = Run(tmp_path / "run", RunMetadata())
    assert declaration_note(study, [run]).endswith("before any result.")
    (run.folder / "test").mkdir(parents=True)
    (run.folder / "test" / "metrics.json").write_text("{}")
    file = study.folder / FILE
    document = json.loads(file.read_text())
    document["declarations"][0]["date"] = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    file.write_text(json.dumps(document))
    assert "before the first result of" in declaration_note(study, [run])
    document["declarations"][0]["date"] = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    file.write_text(json.dumps(document))
    assert "before the first result of" not in declaration_note(study, [run])


def done_run(study: Study, date: datetime | None) -> Run:
    """The run of the first job of a study, whose result was there at a date, or that is a copy of an undated one."""
    records = Records(study)
    job = progress_of(study).jobs.of_kind("finetune")[0]
    finish(records, job)
    if date is None:
        shutil.rmtree(records.run_folder(job) / "bundle")
        (records.run_folder(job) / "bundle").mkdir()
    else:
        records.path(job, "done").write_text(json.dumps({"minutes": 1, "date": date.isoformat()}))
    metrics = records.run_folder(job) / "test" / "metrics.json"
    metrics.parent.mkdir()
    metrics.write_text("{}")
    return Run(records.run_folder(job), RunMetadata())


@pytest.mark.parametrize(
    ("date", "said"),
    [
        (datetime(2026, 1, 1, tzinfo=UTC), "AFTER the first result of 2026-01-01 00:00"),  # its files are of today
        (datetime(2100, 1, 1, tzinfo=UTC), "before the first result of 2100-01-01 00:00"),
        (None, "the date of 1 of 1 result is NOT known"),
    ],
)
def test_what_came_first_is_said_by_the_date_that_is_kept_and_not_by_times_of_files(write_study, date, said):
    study = read_study(write_study())
    declare(study)
    note = declaration_note(study, [done_run(study, date)])
    assert said in note
    assert ("exploratory" in note) is ("before the first" not in note)


def test_a_report_does_not_vouch_for_what_was_not_declared(write_study):
    declared = read_study(write_study(delta=0.02))
    declare(declared)
    run = done_run(declared, datetime(2100, 1, 1, tzinfo=UTC))
    assert "before the first result" in declaration_note(declared, [run])
    for changes in ({"delta": 0.5}, {"hypotheses": ["mae < scratch"]}, {"primary": {"metric": "CPM"}}):
        note = declaration_note(read_study(write_study(**{"delta": 0.02, **changes})), [run])
        assert "were NOT declared: document or --set changed them since" in note
        assert note.endswith("all is exploratory.")


def test_a_clone_knows_what_was_declared_elsewhere_and_adds_to_it(write_study):
    study = read_study(write_study(delta=0.02, results="kept"))
    declare(study)
    first = read_declarations(study)
    shutil.rmtree(study.folder)
    assert read_declarations(study) == first
    declare(study)
    changed = read_study(write_study(delta=0.05, results="kept"))
    declare(changed)
    shutil.rmtree(study.folder)
    assert read_declarations(changed)[:1] == first
    assert len(read_declarations(changed)) == 2
    beside = read_study(write_study(name="other", results="kept"))  # which shares the folder of results
    assert read_declarations(beside) == []


def dated(study: Study, *days: int) -> None:
    """Date the designs that a study wrote down by days from now."""
    file = study.folder / FILE
    document = json.loads(file.read_text())
    for one, offset in zip(document["designs"], days, strict=True):
        one["date"] = (datetime.now(UTC) + timedelta(days=offset)).isoformat()
    file.write_text(json.dumps(document))


def test_seeds_and_arms_that_change_once_results_are_known_are_said(write_study):
    first = read_study(write_study(seeds=[0, 1]))
    declare(first)
    declare(first)
    dated(first, -2)
    run = done_run(first, datetime.now(UTC) - timedelta(days=1))
    assert declaration_note(first, [run]).endswith("seeds and folds are those that were to be run then.")
    more = read_study(write_study(seeds=[1, 2, 3]))
    for _ in range(2):  # whether it was written down once more or not
        note = declaration_note(more, [run])
        assert "CHANGED after the first result: seeds added 2, 3; seeds left out 0" in note
        assert note.endswith("are a second look, for which no interval is corrected.")
        declare(more)
    assert len(read_designs(more)) == 2
    assert len(read_declarations(more)) == 1


def test_arms_that_were_changed_before_there_were_results_are_no_change(write_study):
    for seeds in ([0], [0, 1]):
        study = read_study(write_study(seeds=seeds))
        declare(study)
    dated(study, -3, -2)
    run = done_run(study, datetime.now(UTC) - timedelta(days=1))
    assert "are those that were to be run then" in declaration_note(study, [run])


def test_a_declaration_of_an_earlier_version_does_not_vouch_for_arms_and_seeds(write_study):
    study = read_study(write_study())
    declare(study)
    file = study.folder / FILE
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "version": 1} | {"designs": []}))
    run = done_run(study, datetime.now(UTC) + timedelta(days=1))
    assert "Nothing says which arms, data sets and seeds" in declaration_note(study, [run])


def test_what_two_clones_declared_alike_was_declared_by_the_first(write_study, tmp_path):
    study = read_study(write_study(results="kept"))
    declare(study)
    (own,) = read_declarations(study)
    kept = study.results / f"toy.{FILE}"
    document = json.loads(kept.read_text())
    for date in (own.date - timedelta(days=1), own.date + timedelta(days=1)):
        document["declarations"][0]["date"] = date.isoformat()
        kept.write_text(json.dumps(document))
        assert [one.date for one in read_declarations(study)] == [min(own.date, date)]


def test_a_damaged_file_is_named(write_study):
    study = read_study(write_study())
    declare(study)
    file = study.folder / FILE
    file.write_text(file.read_text().replace("20", "xx", 1))
    with pytest.raises(UserError, match=r"declarations\.json: holds a date that is none"):
        read_declarations(study)

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.run_metadata import RunMetadata
from medpretrain3d.study.declaration import FILE, declaration_note, declare, read_declarations
from medpretrain3d.study.document import read_study
from medpretrain3d.study.run import Run


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


def test_a_damaged_file_is_named(write_study):
    study = read_study(write_study())
    declare(study)
    file = study.folder / FILE
    file.write_text(file.read_text().replace("20", "xx", 1))
    with pytest.raises(UserError, match=r"declarations\.json: holds a date that is none"):
        read_declarations(study)

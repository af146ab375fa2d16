from __future__ import annotations

import json

import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.run_metadata import RUN_DOCUMENT, RunMetadata, read_run_metadata


def test_what_is_written_is_read(tmp_path):
    known = RunMetadata(stage="finetune", fold=0, minutes=1.5, finished=True)
    RUN_DOCUMENT.write(tmp_path / "run.json", known.to_json())
    assert read_run_metadata(tmp_path / "run.json") == known
    document = json.loads((tmp_path / "run.json").read_text())
    assert (document["format"], document["version"], document["corpus"]) == ("medpretrain3d-run", 1, None)


def test_a_file_without_header_is_read_and_its_version_is_that_of_the_package(tmp_path):
    (tmp_path / "run.json").write_text('{"stage": "pretrain", "version": "0.1", "flop": NaN, "own": [1]}')
    with pytest.raises(UserError, match="flop"):
        read_run_metadata(tmp_path / "run.json")
    (tmp_path / "run.json").write_text('{"stage": "pretrain", "version": "0.1", "own": [1]}')
    assert read_run_metadata(tmp_path / "run.json") == RunMetadata(stage="pretrain", medpretrain3d_version="0.1")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"format": "medpretrain3d-run", "version": 2}, "got medpretrain3d-run version 2, wanted"),
        ({"num_train_cases": -4}, "num_train_cases"),
        ({"fold": 1.5}, "fold"),
        ({"finished": "yes"}, "finished"),
        ({"minutes": "4"}, "minutes"),
    ],
)
def test_a_value_of_another_type_is_one_error(document, message):
    with pytest.raises(UserError, match=rf"run.json: .*{message}"):
        RunMetadata.from_json(document, "run.json")


def test_later_values_win_and_unknown_ones_do_not():
    both = RunMetadata(finished=True, fold=3, corpus="a") | RunMetadata(finished=False, fold=0)
    assert both == RunMetadata(finished=False, fold=0, corpus="a")
    assert both.known() == {"finished": False, "fold": 0, "corpus": "a"}

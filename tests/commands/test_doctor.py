"""`doctor` finds what importing a library does not show; each fake library here imports without a word."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medpretrain3d import cli
from medpretrain3d.commands import doctor

OTHER_TIMM = """
import sys
sys.path = [place for place in sys.path if place != {place!r}]
del sys.modules["timm"]
import timm
create = timm.create_model
timm.create_model = lambda name, **options: create({model!r}, **{{**options, **{options!r}}})
"""
"""The installed timm, but that it builds another network."""


@pytest.fixture
def diagnose(monkeypatch, capsys, tmp_path):
    """Run some of the checks with the files in `tmp_path` before what is installed: exit code and line by name."""

    def run(*names: str) -> tuple[int, dict[str, str]]:
        monkeypatch.setattr(doctor, "CHECKS", {name: doctor.CHECKS[name] for name in names})
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
        code = cli.main(["doctor"])
        lines = capsys.readouterr().out.splitlines()
        assert ("constraints.txt" in lines[-1]) == (code == 1)
        assert len(lines) == len(names) + code
        return code, {name: line for name, line in zip(names, lines, strict=False) if line.startswith(name)}

    return run


def test_what_is_installed_here_is_whole(diagnose):
    names = ("timm", "blosc2", "cc3d", "pictures", "shared memory", "threads")  # `.ci/run` calls all of them
    code, lines = diagnose(*names)
    assert code == 0, lines
    assert len(lines) == len(names)


def test_a_version_below_its_bound_is_named(diagnose, tmp_path):
    _metadata(tmp_path, "blosc2", "1.0")
    _metadata(tmp_path, "openpyxl", "2.0")  # of an extra
    code, lines = diagnose("versions")
    assert code == 1
    assert "BROKEN" in lines["versions"]
    assert "blosc2 1.0 (wanted >=" in lines["versions"]
    assert "openpyxl 2.0 (wanted >=" in lines["versions"]


def test_a_library_that_ends_the_process_ends_its_check_alone(diagnose, tmp_path):
    (tmp_path / "blosc2.py").write_text("import os\n\n\ndef __getattr__(name):\n    os.abort()\n")
    code, lines = diagnose("blosc2", "shared memory")
    assert code == 1
    assert lines["blosc2"].split(maxsplit=1)[1] == "BROKEN  the process was ended by SIGABRT"
    assert " ok " in lines["shared memory"]


def test_a_library_that_is_wrong_is_named_with_what_is(diagnose, tmp_path):
    (tmp_path / "cc3d.py").write_text("def connected_components(mask, connectivity):\n    return mask\n")
    code, lines = diagnose("cc3d")
    assert code == 1
    assert lines["cc3d"].endswith("BROKEN  connected components are wrong")


@pytest.mark.parametrize(
    ("model", "options", "fault"),
    [
        ("convnextv2_atto", {}, "builds another ConvNeXt"),
        ("convnext_atto", {"act_layer": "relu"}, "computes other features"),
    ],
)
def test_a_timm_with_other_networks_is_named(diagnose, tmp_path, model, options, fault):
    (tmp_path / "timm.py").write_text(OTHER_TIMM.format(place=str(tmp_path), model=model, options=options))
    code, lines = diagnose("timm")
    assert code == 1
    assert "BROKEN" in lines["timm"]
    assert fault in lines["timm"]


def test_a_library_that_cannot_be_imported_or_waits_for_ever_is_named(monkeypatch, capsys):
    programs = {"broken": "raise ImportError('no such operator')", "stuck": "import time; time.sleep(60)"}
    monkeypatch.setattr(doctor, "CHECKS", programs)
    monkeypatch.setattr(doctor, "PATIENCE_S", 2)
    assert cli.main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{'broken':<22}BROKEN  ImportError: no such operator"
    assert lines[1] == f"{'stuck':<22}BROKEN  no answer in 2 s"


def _metadata(place: Path, name: str, version: str) -> None:
    folder = place / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

"""Which masks of a segmenter are those of a case."""

from __future__ import annotations

from pathlib import Path

import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.store.organ_files import organ_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("1.2.3.nii.gz", "a[1].nii.gz", "a1.nii.gz", "b.nii.gz", "b.json", "c.nii", "c.mha"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize("case", ["1.2.3", "a[1]", "b"])
def test_a_label_map_is_found_by_its_whole_name(folder: Path, case: str) -> None:
    assert [path.name for path in organ_files(folder, case)] == [f"{case}.nii.gz"]


@pytest.mark.parametrize("case", ["1.2", "1", "a?", "*"])
def test_the_mask_of_another_case_is_not_taken(folder: Path, case: str) -> None:
    with pytest.raises(UserError, match="no masks in"):
        organ_files(folder, case)


def test_several_label_maps_are_named(folder: Path) -> None:
    with pytest.raises(UserError, match=r"case c: several label maps in .*: c\.mha, c\.nii; keep one"):
        organ_files(folder, "c")


def test_a_folder_of_organs_comes_before_a_label_map(folder: Path) -> None:
    (folder / "b").mkdir()
    (folder / "b" / "liver.nii.gz").touch()
    assert organ_files(folder, "b") == [folder / "b" / "liver.nii.gz"]

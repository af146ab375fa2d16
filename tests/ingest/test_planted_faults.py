"""One fault in every raw layout: it is said, or it is an error, and never passed over with exit code 0."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest

from medpretrain3d.cli import main
from medpretrain3d.ingest.importers import layouts
from medpretrain3d.store.store import Store
from tests.ingest.miniatures import MINIATURES

CORPORA_OF_FILES = ("ct_rate", "flare", "folder")
"""Of these a missing file is one scan less, which nobody can know."""


def prepared(raw, store, capsys, *options):
    code = main(["prepare", str(raw), str(store), *options])
    told = capsys.readouterr()
    return code, told.out + told.err


@pytest.mark.parametrize("name", MINIATURES)
def test_the_table_names_layout_cases_and_objects(name, tmp_path, capsys):
    MINIATURES[name].write(tmp_path / "raw")
    code, told = prepared(tmp_path / "raw", tmp_path / "store", capsys)
    assert code == 0, told
    assert f"raw: layout {name}, " in told
    report = json.loads((tmp_path / "store/report.json").read_text())
    store = Store(tmp_path / "store")
    assert sum(report["cases"].values()) == len(store)
    assert [source["layout"] for source in report["sources"]] == [name]
    if store.classes:
        num_objects = sum(entry["num_objects"] for entry in store.entries.values())
        assert num_objects >= 3
        assert sum(sum(counts.values()) for counts in report["objects"].values()) == num_objects
        assert "longest edge, 5 / 50 / 95 % in mm" in told
    assert not report["skipped"]
    assert "left out" not in told


def test_every_layout_has_a_miniature_here_or_of_dicom():
    elsewhere = {"lidc_idri", "duke_breast_mri", "dicom", "totalsegmentator_examples"}
    assert set(MINIATURES) | elsewhere == set(layouts())


def _said(name, raw, store, capsys, *words):
    """What was said of a fault: the words, or the exit code is not 0 and the message names one of them."""
    code, told = prepared(raw, store, capsys)
    assert any(word in told for word in words), f"{name}: exit code {code}: {told}"
    return code, told


@pytest.mark.parametrize("name", [name for name in MINIATURES if name not in CORPORA_OF_FILES])
def test_a_missing_image_is_said(name, tmp_path, capsys):
    mini, raw = MINIATURES[name], tmp_path / "raw"
    mini.write(raw)
    (raw / mini.image).unlink()
    stem = (raw / mini.image).name.split(".nii")[0].removesuffix(".mhd").removesuffix("_0000").removesuffix("_zoom.npy")
    stem = stem.removesuffix("-image").removesuffix("_ct")
    stem = (raw / mini.image).parent.name if stem in ("ct", "imaging") else stem
    _said(name, raw, tmp_path / "store", capsys, stem, stem.replace("volume", "segmentation"))


@pytest.mark.parametrize("name", MINIATURES)
def test_a_link_that_leads_nowhere_costs_its_case_a_note(name, tmp_path, capsys):
    mini, raw = MINIATURES[name], tmp_path / "raw"
    mini.write(raw)
    (raw / mini.image).unlink()
    (raw / mini.image).symlink_to(tmp_path / "gone.nii.gz")
    code, told = prepared(raw, tmp_path / "store", capsys)
    assert code == 1
    assert "1 skipped" in told
    assert any(word in told for word in ("a link that leads nowhere", "is not there", "is missing", "has no ct.nii.gz"))


@pytest.mark.parametrize("name", MINIATURES)
def test_a_misspelled_id_is_said(name, tmp_path, capsys):
    mini, raw = MINIATURES[name], tmp_path / "raw"
    mini.write(raw)
    old, new = mini.misspelled
    (raw / new).parent.mkdir(exist_ok=True)
    (raw / old).rename(raw / new)
    told_of = {"boxes_csv": "left out", "totalsegmentator": "s0001", "abdomenatlas": "BDMAP_00000002"}
    name_of = (raw / new).name
    _said(name, raw, tmp_path / "store", capsys, told_of.get(name, name_of.removesuffix(".mhd")), name_of.split(".")[0])


@pytest.mark.parametrize("name", [name for name, mini in MINIATURES.items() if mini.other_class])
def test_a_class_of_another_name_is_said(name, tmp_path, capsys):
    mini, raw = MINIATURES[name], tmp_path / "raw"
    mini.write(raw)
    file, *texts = mini.other_class
    if texts:
        content = (raw / file).read_text()
        assert texts[0] in content
        (raw / file).write_text(content.replace(*texts))
    else:
        image = nibabel.load(raw / file)
        values = np.asarray(image.dataobj).copy()
        values[5, 5, 5] = 14
        nibabel.save(nibabel.Nifti1Image(values, image.affine), raw / file)
    code, told = prepared(raw, tmp_path / "store", capsys)
    if name.startswith("msd"):  # read by what dataset.json says then
        assert code == 0
        assert "layout nnunet, " in told
        assert f"{name}: dataset.json names the labels" in told
    elif name == "pn9":
        assert (code, "rows of train_anno.csv that meet no scan: 1 (20)" in told) == (0, True)
    else:
        assert code != 0, told

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from medpretrain3d import cli
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation.masks import detection_map_scans, instance_scans


def write(path, values, affine=None):
    path.parent.mkdir(exist_ok=True)
    voxels = np.array(values).reshape(1, 1, -1)
    dtype = np.float32 if voxels.dtype.kind == "f" else np.int16
    nibabel.save(nibabel.Nifti1Image(voxels.astype(dtype), np.eye(4) if affine is None else affine), path)


@pytest.fixture
def fractures(tmp_path):
    """Two scans: one fracture found and a false positive, and nothing found where nothing is."""
    write(tmp_path / "found" / "RibFrac1.nii.gz", [1, 1, 0, 0, 2, 2])
    write(tmp_path / "found" / "RibFrac2.nii.gz", [0, 0, 0, 0, 0, 0])
    write(tmp_path / "wanted" / "RibFrac1-label.nii.gz", [0, 1, 0, 0, 0, 0])
    write(tmp_path / "wanted" / "RibFrac2-label.nii.gz", [0, 0, 0, 0, 0, 0])
    (tmp_path / "scores.csv").write_text(
        "public_id,label_id,confidence,label_code\nRibFrac1,0,1,0\nRibFrac1,1,0.9,1\nRibFrac1,2,0.4,1\n"
    )
    return tmp_path


def test_instances_and_their_scores_are_paired_by_case(fractures):
    first, second = instance_scans(fractures / "found", fractures / "wanted", fractures / "scores.csv")
    assert (first.case, second.case) == ("RibFrac1", "RibFrac2")
    assert first.scores.tolist() == [0.9, 0.4]
    assert first.iou[:, 0].tolist() == [0.5, 0]
    assert second.iou.shape == (0, 0)


def test_ribfrac_from_masks_on_the_command_line(fractures, capsys):
    folders = ["--predictions", str(fractures / "found"), "--targets", str(fractures / "wanted"), "--bootstrap", "0"]
    assert cli.main(["evaluate", "--protocol", "ribfrac", *folders]) == 2
    assert "needs --instance-scores" in capsys.readouterr().err
    scores = ["--instance-scores", str(fractures / "scores.csv")]
    assert cli.main(["evaluate", "--protocol", "ribfrac", *folders, *scores]) == 0
    assert "FROC at IoU > 0.2 of masks              1.000" in capsys.readouterr().out


def test_picai_from_detection_maps_on_the_command_line(tmp_path, capsys):
    write(tmp_path / "found" / "a.nii.gz", [0.8, 0.8, 0.0, 0.3])
    write(tmp_path / "found" / "b.nii.gz", [0.0, 0.5, 0.0, 0.0])
    write(tmp_path / "wanted" / "a.nii.gz", [1, 1, 0, 0])
    write(tmp_path / "wanted" / "b.nii.gz", [0, 0, 0, 0])
    first, _ = detection_map_scans(tmp_path / "found", tmp_path / "wanted")
    assert first.scores.tolist() == pytest.approx([0.8, 0.3])
    folders = ["--predictions", str(tmp_path / "found"), "--targets", str(tmp_path / "wanted"), "--bootstrap", "0"]
    assert cli.main(["evaluate", "--protocol", "picai", *folders]) == 0
    assert "score           1.000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("public_id,label_id\nRibFrac1,1\n", "lacks the column confidence"),
        ("public_id,label_id,confidence\nRibFrac1,1,high\n", "without whole label_id"),
        ("public_id,label_id,confidence\nRibFrac1,1,0.5\nRibFrac1,1,0.6\n", "instance 1 .* is listed twice"),
        ("public_id,label_id,confidence\nRibFrac1,1,0.5\n", "instance 2 of the mask has no score"),
        ("public_id,label_id,confidence\nRibFrac1,1,1\nRibFrac1,2,1\nX,1,1\n", "case 'X', which has no mask"),
    ],
)
def test_scores_that_do_not_fit_are_refused(fractures, text, said):
    (fractures / "scores.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        instance_scans(fractures / "found", fractures / "wanted", fractures / "scores.csv")


def test_masks_without_a_partner_or_on_another_grid_are_refused(fractures):
    arguments = fractures / "found", fractures / "wanted", fractures / "scores.csv"
    write(fractures / "found" / "RibFrac3.nii.gz", [0, 1])
    with pytest.raises(UserError, match="wanted: no mask of case 'RibFrac3'"):
        instance_scans(*arguments)
    (fractures / "found" / "RibFrac3.nii.gz").unlink()
    write(fractures / "found" / "RibFrac2.nii.gz", [0, 0, 0, 0, 0, 0], np.diag([2.0, 1, 1, 1]))
    with pytest.raises(UserError, match="lies elsewhere in the world"):
        instance_scans(*arguments)
    (fractures / "found" / "RibFrac2.nii.gz").unlink()
    with pytest.raises(UserError, match="found: no mask of case 'RibFrac2'"):
        instance_scans(*arguments)
    with pytest.raises(UserError, match="no such folder"):
        instance_scans(fractures / "nowhere", *arguments[1:])


@pytest.mark.parametrize(
    ("row", "column", "by", "is_same"), [(0, 3, 0.002, True), (2, 3, 0.09, True), (2, 2, 0.09, False)]
)
def test_masks_lie_together_by_their_corners_in_voxels(fractures, row, column, by, is_same):
    """0.09 mm more per voxel are half a voxel behind the last of six."""
    affine = np.eye(4)
    affine[row, column] += by
    write(fractures / "found" / "RibFrac2.nii.gz", [0, 0, 0, 0, 0, 0], affine)
    arguments = fractures / "found", fractures / "wanted", fractures / "scores.csv"
    if is_same:
        assert len(instance_scans(*arguments)) == 2
        return
    with pytest.raises(UserError, match=r"corners are up to 0.495 voxels apart"):
        instance_scans(*arguments)


def picai_files(found, wanted, found_suffix, wanted_suffix, ending=".nii.gz"):
    for case, map_, lesion in (("10000_1000000", [0, 0.5, 0.5], [0, 1, 1]), ("10001_1000001", [0, 0, 0], [0, 0, 0])):
        write(found / f"{case}{found_suffix}{ending}", np.array(map_, np.float32))
        write(wanted / f"{case}{wanted_suffix}{ending}", lesion)


@pytest.mark.parametrize("suffixes", [("_detection_map", "_label"), ("_detection_map", ""), ("", "_label"), ("", "")])
def test_files_may_be_called_as_in_picai(tmp_path, suffixes):
    (tmp_path / "maps").mkdir()
    (tmp_path / "labels").mkdir()
    picai_files(tmp_path / "maps", tmp_path / "labels", *suffixes)
    scans = detection_map_scans(tmp_path / "maps", tmp_path / "labels")
    assert [one.case for one in scans] == ["10000_1000000", "10001_1000001"]
    assert scans[0].iou.tolist() == [[1.0]]


def test_maps_and_labels_of_picai_may_share_a_folder(tmp_path):
    picai_files(tmp_path, tmp_path, "_detection_map", "_label")
    scans = detection_map_scans(tmp_path, tmp_path)
    assert [(one.case, one.num_targets) for one in scans] == [("10000_1000000", 1), ("10001_1000001", 0)]
    for path in tmp_path.glob("*_label.nii.gz"):
        path.unlink()
    with pytest.raises(UserError, match="holds no volume '<case>_label'"):
        detection_map_scans(tmp_path, tmp_path)


def test_masks_of_one_place_are_compared_whatever_order_their_files_store_them_in(tmp_path):
    random = np.random.default_rng(0)
    found, wanted = (random.integers(0, 3, (5, 5, 5)).astype(np.int16) for _ in range(2))
    affine = np.diag([1.0, 2, 3, 1])
    turned = np.flip(wanted, 0).transpose(2, 0, 1)
    turned_affine = affine @ np.array([[0, -1, 0, 4], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    (tmp_path / "scores.csv").write_text("public_id,label_id,confidence\na,1,0.9\na,2,0.4\n")
    ious = []
    for name, voxels, its_affine in (("same", wanted, affine), ("turned", turned, turned_affine)):
        for folder, mask, of_mask in (("found", found, affine), (name, voxels, its_affine)):
            (tmp_path / folder).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(mask, of_mask), tmp_path / folder / "a.nii.gz")
        ious.append(instance_scans(tmp_path / "found", tmp_path / name, tmp_path / "scores.csv")[0].iou)
    np.testing.assert_array_equal(*ious)
    affine_moved = np.eye(4) + np.outer([0.5, 0, 0, 0], [0, 0, 0, 1])  # by half a voxel
    nibabel.save(nibabel.Nifti1Image(turned, affine_moved @ turned_affine), tmp_path / "turned" / "a.nii.gz")
    with pytest.raises(UserError, match=r"lies elsewhere in the world than .*: corners are up to 0.5 voxels apart"):
        instance_scans(tmp_path / "found", tmp_path / "turned", tmp_path / "scores.csv")


def test_a_mask_of_several_channels_is_refused_and_not_its_first_one_taken(fractures):
    two = np.zeros((1, 1, 6, 2), np.int16)
    two[0, 0, 1, 1] = 1  # in the second one
    nibabel.save(nibabel.Nifti1Image(two, np.eye(4)), fractures / "wanted" / "RibFrac1-label.nii.gz")
    with pytest.raises(UserError, match=r"RibFrac1-label.nii.gz: a mask of 2 channels, wanted one"):
        instance_scans(fractures / "found", fractures / "wanted", fractures / "scores.csv")

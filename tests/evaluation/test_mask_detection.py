"""Instance masks by the overlap of their voxels."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from medpretrain3d import cli
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import PredictedCase, TargetCase, evaluate
from medpretrain3d.evaluation.bootstrap import Resampling
from medpretrain3d.evaluation.mask_detection import MaskedScan, mask_detection
from medpretrain3d.evaluation.overlap import mask_iou
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.nifti_file import write_nifti

EDGE = 24


def painted(boxes: np.ndarray) -> np.ndarray:
    """Return the instance map of boxes in whole voxels that do not touch each other."""
    voxels = np.zeros((EDGE, EDGE, EDGE), dtype=np.int16)
    for value, (z0, y0, x0, z1, y1, x1) in enumerate(boxes.astype(int), 1):
        voxels[z0:z1, y0:y1, x0:x1] = value
    return voxels


def boxes_of(random: np.random.Generator, num: int) -> np.ndarray:
    """Return boxes (num, 6), each in a cell of its own of 8 voxels."""
    cells = random.permutation(27)[:num]
    low = np.stack(np.unravel_index(cells, (3, 3, 3)), axis=1) * 8 + random.integers(0, 3, (num, 3))
    return np.concatenate([low, low + random.integers(2, 6, (num, 3))], axis=1).astype(float)


def test_masks_of_boxes_are_scored_as_the_boxes_are():
    random = np.random.default_rng(0)
    found, wanted, scans = [], [], []
    for number in range(12):
        everything = boxes_of(random, 10)
        boxes, objects = np.delete(everything, 4, axis=0), everything[:5]
        boxes[:4, 3:] += random.integers(-1, 2, (4, 3))
        labels, target_labels = random.integers(0, 2, 9), random.integers(0, 2, 5)
        case, scores = f"case_{number}", random.random(9)
        found.append(PredictedCase(case, boxes, scores, labels))
        wanted.append(TargetCase(case, objects, target_labels))
        iou = mask_iou(painted(boxes), painted(objects))
        scans.append(MaskedScan(case, scores, labels, target_labels, iou))
    result = mask_detection(scans, ("a", "b"), Resampling())
    of_boxes = evaluate(found, wanted, ["a", "b"])
    for key in ("mAP_IoU_0.10_0.50_0.05_MaxDet_100", "AP_IoU_0.10_MaxDet_100", "b_AP_IoU_0.50_MaxDet_100"):
        assert 0 < result[key] < 1
        assert result[key] == pytest.approx(of_boxes[key], abs=1e-6)
        assert result["intervals"][key] == pytest.approx(of_boxes["intervals"][key], abs=1e-6)
    assert [one["score"] for one in result["per_case"]] == pytest.approx([one["score"] for one in of_boxes["per_case"]])


def test_dice_is_of_the_hits_and_what_has_no_voxel_is_a_false_positive():
    found, wanted = np.zeros((2, 4, 4)), np.zeros((2, 4, 4))
    found[0, :2], wanted[0, 1:3], wanted[1, 0] = 2, 7, 9  # the first box has no voxel; 4 of 8 voxels are shared
    iou = np.zeros((2, 2))
    iou[[1]] = mask_iou(found, wanted)
    scan = MaskedScan("a", np.array([0.9, 0.8]), np.zeros(2, int), np.zeros(2, int), iou)
    result = mask_detection([scan], ("lesion",), Resampling(0))
    assert (result["num_hits"], result["Dice_IoU_0.10"]) == (1, pytest.approx(0.5))  # IoU 4 / 12
    # Precision 1/2 up to a recall of 1/2: 51 of 101 levels.
    assert result["AP_IoU_0.30_MaxDet_100"] == pytest.approx(0.5 * 51 / 101)
    assert result["AP_IoU_0.40_MaxDet_100"] == 0


@pytest.fixture
def masks(tmp_path):
    """What `predict --format json masks` writes of two scans, and instance maps of two classes."""
    grid = Grid((EDGE, EDGE, EDGE), np.eye(4))
    objects = np.array([[2.0, 2, 2, 6, 6, 6], [10, 10, 10, 14, 14, 16]])
    predictions = []
    for case, scores in (("a", [0.9, 0.6]), ("b", [])):
        write_nifti(tmp_path / "found" / "masks" / f"{case}.nii.gz", painted(objects[: len(scores)]), grid)
        write_nifti(tmp_path / "wanted" / f"{case}.nii.gz", painted(objects[: len(scores)]), grid)
        of_value = {str(value): value - 1 for value in range(1, len(scores) + 1)}
        (tmp_path / "wanted" / f"{case}.json").write_text(json.dumps({"instances": of_value}))
        boxes = objects[: len(scores)].tolist()
        predictions.append({"case": case, "boxes": boxes, "scores": scores, "labels": list(range(len(scores)))})
    document = {"format": "medpretrain3d-predictions", "version": 1, "classes": ["kidney", "tumor"], "frame": "lps_mm"}
    document |= {"axes": "x0,y0,z0,x1,y1,z1", "predictions": predictions}
    (tmp_path / "found" / "predictions.json").write_text(json.dumps(document))
    return tmp_path


def test_masks_on_the_command_line(masks, capsys):
    (masks / "wanted" / "b.json").unlink()  # its map is empty: there is no value whose class could be named
    words = ["--predictions", str(masks / "found"), "--targets", str(masks / "wanted"), "-o", str(masks / "out.json")]
    assert cli.main(["evaluate", "--protocol", "masks", *words, "--plots", str(masks / "plots")]) == 0
    said = capsys.readouterr().out
    assert "mAP 1.000 of masks" in said
    assert "Dice of the 2 hits at IoU 0.1: 1.000" in said
    result = json.loads((masks / "out.json").read_text())
    assert result["num_targets"] == {"kidney": 1, "tumor": 1}
    assert list((masks / "plots").glob("*.svg"))


def test_masks_that_do_not_fit_their_boxes_are_refused(masks, capsys):
    def refused() -> str:
        words = ["--predictions", str(masks / "found"), "--targets", str(masks / "wanted")]
        assert cli.main(["evaluate", "--protocol", "masks", *words]) == 2
        return capsys.readouterr().err

    table = masks / "wanted" / "a.json"
    table.write_text('{"instances": {"1": 0, "2": 2}}')
    assert "a.json: instance 2 is of class 2, wanted 0 to 1, a place among the classes of the predictions" in refused()
    table.write_text('{"instances": {"1": 0}}')
    assert "instance 2 is of class None" in refused()
    table.unlink()
    assert 'name the class of each instance: {"instances": {"1": 0}}' in refused()
    path = masks / "found" / "predictions.json"
    document = json.loads(path.read_text())
    document["predictions"][0] |= {"boxes": [[2, 2, 2, 6, 6, 6]], "scores": [0.9], "labels": [0]}
    path.write_text(json.dumps(document))
    assert "case 'a': instance 2 of the mask, but 1 boxes" in refused()
    path.write_text(json.dumps(document | {"predictions": document["predictions"][1:]}))
    assert "holds no case 'a', of which there is a mask" in refused()
    (masks / "found" / "masks" / "a.nii.gz").unlink()
    assert "no mask of case 'a'" in refused()


def test_masks_of_another_call_are_refused(masks, capsys):
    """predictions.json says which file numbers the boxes of each case; of older files nobody knows."""
    words = ["--predictions", str(masks / "found"), "--targets", str(masks / "wanted")]
    path = masks / "found" / "predictions.json"
    document = json.loads(path.read_text())

    def scored(*digests: str | None) -> tuple[int, str]:
        for entry, digest in zip(document["predictions"], digests, strict=True):
            entry.pop("mask_sha256", None)
            entry |= {} if digest is None else {"mask_sha256": digest}
        path.write_text(json.dumps(document))
        return cli.main(["evaluate", "--protocol", "masks", *words]), capsys.readouterr().err

    own = [hashlib.sha256((masks / "found" / "masks" / f"{case}.nii.gz").read_bytes()).hexdigest() for case in "ab"]
    assert scored(None, None) == (0, "")
    assert scored(*own) == (0, "")
    assert scored(own[0], None) == (0, "")  # nothing was found in the second scan
    code, said = scored(own[1], own[1])
    assert code == 2
    assert (
        f"a.nii.gz: is not the mask of the boxes in predictions.json, which names the one of SHA-256 {own[1][:12]}"
        in said
    )
    code, said = scored(None, own[1])
    assert code == 2
    assert "which names none for case 'a'" in said


def test_masks_of_scans_that_are_named_by_numbers_are_compared_too(masks, capsys):
    for folder in (masks / "found" / "masks", masks / "wanted"):
        for number, case in enumerate("ab"):
            for path in [*folder.glob(f"{case}.*")]:
                path.rename(folder / path.name.replace(case, str(number), 1))
    path = masks / "found" / "predictions.json"
    document = json.loads(path.read_text())
    for number, entry in enumerate(document["predictions"]):
        entry |= {"case": number, "mask_sha256": "0" * 64}
    path.write_text(json.dumps(document))
    words = ["--predictions", str(masks / "found"), "--targets", str(masks / "wanted")]
    assert cli.main(["evaluate", "--protocol", "masks", *words]) == 2
    assert "0.nii.gz: is not the mask of the boxes in predictions.json" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(EDGE, EDGE, EDGE + 1), (EDGE // 2, EDGE * 2, EDGE)])  # the other holds as many
def test_masks_of_another_shape_are_refused(masks, capsys, shape):
    write_nifti(masks / "wanted" / "a.nii.gz", np.zeros(shape, np.uint8), Grid(shape, np.eye(4)))
    words = ["--predictions", str(masks / "found"), "--targets", str(masks / "wanted")]
    assert cli.main(["evaluate", "--protocol", "masks", *words]) == 2
    assert "case 'a': mask of what was found has shape (24, 24, 24), mask of the objects (" in capsys.readouterr().err


def test_scans_without_an_object_have_no_score():
    scan = MaskedScan("a", np.array([0.9]), np.zeros(1, int), np.zeros(0, int), np.zeros((1, 0)))
    with pytest.raises(UserError, match="none of the 1 scans has an object to find"):
        mask_detection([scan], ("lesion",), Resampling(0))

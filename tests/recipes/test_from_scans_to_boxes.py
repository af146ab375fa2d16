"""From files of scans and label maps to boxes in other files, through the programs that a user calls."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

from finetune import __main__ as finetune
from medpretrain3d import cli
from medpretrain3d.data.intensity import ZScore
from medpretrain3d.data.store import Store
from medpretrain3d.inference import load_bundle

from .conftest import TINY_FINETUNE


def lesion_in_a_brain(seed):
    """A scan of arbitrary units (24, 40, 40), air outside of a cylinder, and the label map of the brightest block."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:40, :40] - 19.5
    tissue = np.broadcast_to(np.hypot(y, x) < 18, (24, 40, 40))
    labels = np.zeros((24, 40, 40), np.uint8)
    d, h, w = random.integers([3, 10, 10], [15, 22, 22])
    labels[d : d + 6, h : h + 8, w : w + 8] = 1
    image = np.where(tissue, random.normal(300, 40, labels.shape) + 400.0 * labels, 0)
    return np.clip(np.rint(image), 0, None).astype(np.int16), labels


def write(path, array, in_plane_mm=1.0):
    volume = sitk.GetImageFromArray(array)
    volume.SetSpacing((in_plane_mm, in_plane_mm, 2.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(volume, path)
    return path


@pytest.fixture(scope="module")
def of_mr(tmp_path_factory):
    """A bundle that was trained on z-scored scans, and the store of these."""
    root = tmp_path_factory.mktemp("mr")
    for number in range(6):
        image, labels = lesion_in_a_brain(number)
        write(root / f"raw/p{number}_t1.nii.gz", image * (1 + number % 3))  # every scanner has units of its own
        write(root / f"raw/p{number}_seg.nii.gz", labels)
    assert cli.main(["prepare", str(root / "raw"), str(root / "store"), "--spacing-mm", "2", "2", "2"]) == 0
    place = ["--data.store", str(root / "store"), "--run.root", str(root), "--run.group", "g", "--run.name", "mr"]
    finetune.main(["fit", *TINY_FINETUNE, *place, "--data.fold", "0", "--trainer.max_steps", "3"])
    return root / "g/mr/bundle", Store(root / "store")


def predicted(bundle, out, *scans):
    """Boxes in LPS mm with their scores, by case."""
    assert cli.main(["predict", str(bundle), *map(str, scans), "-o", str(out), "--device", "cpu"]) == 0
    document = json.loads((out / "predictions.json").read_text(encoding="utf-8"))
    return {one["case"]: np.column_stack([one["boxes"], one["scores"]]) for one in document["predictions"]}


def test_a_z_scored_detector_sees_the_same_whatever_the_units_of_a_scan(of_mr, tmp_path):
    bundle, _ = of_mr
    preprocessing = load_bundle(bundle).preprocessing
    assert (preprocessing.unit, type(preprocessing.window)) == ("any", ZScore)  # the default where values have no unit
    image, _ = lesion_in_a_brain(9)
    # In the detector's spacing: voxels are whole numbers, so resampling rounds and the unit decides how much.
    found = predicted(
        bundle,
        tmp_path / "out",
        write(tmp_path / "plain.nii.gz", image, in_plane_mm=2.0),
        write(tmp_path / "shifted.nii.gz", 7 * image - 500, in_plane_mm=2.0),
        write(tmp_path / "fractions.nii.gz", (image * 1e-3 + 2).astype(np.float32), in_plane_mm=2.0),
        write(tmp_path / "curved.nii.gz", (image / 20.0).astype(np.int16) ** 2, in_plane_mm=2.0),
    )
    assert len(found["plain"]) > 0
    np.testing.assert_allclose(found["shifted"], found["plain"], atol=1e-3)
    np.testing.assert_allclose(found["fractions"], found["plain"], atol=1e-2)
    assert not np.allclose(found["curved"][:5], found["plain"][:5], atol=1e-2)


def test_a_scan_and_its_case_in_a_store_are_normalised_alike(of_mr, tmp_path):
    bundle, store = of_mr
    of_cases = predicted(bundle, tmp_path / "cases", store.path)
    of_file = predicted(bundle, tmp_path / "file", store.path.parent / "raw" / "p1_t1.nii.gz")
    np.testing.assert_allclose(of_file["p1_t1"], of_cases["p1_t1"], atol=1e-3)

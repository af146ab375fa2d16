"""From files of scans and label maps to boxes in other files, through the programs that a user calls."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

from finetune import __main__ as finetune
from medpretrain3d import cli
from medpretrain3d.inference import ScanTiles, load_bundle
from medpretrain3d.store.intensity import ZScore
from medpretrain3d.store.store import Store
from medpretrain3d.store.volume import read_volume

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
    scans = {
        "plain": image,
        "shifted": 7 * image - 500,
        "fractions": (image * 1e-3 + 2).astype(np.float32),
        "curved": (image / 20.0).astype(np.int16) ** 2,
    }
    paths = {name: write(tmp_path / f"{name}.nii.gz", scan, in_plane_mm=2.0) for name, scan in scans.items()}
    # Tiles rather than boxes: a detector of three steps scores hundreds of boxes nearly alike, so a last digit decides
    # which of two overlapping ones stays.
    tiles = {
        name: ScanTiles(read_volume(path, unit="any"), preprocessing).read((4, 12, 12), preprocessing.patch)
        for name, path in paths.items()
    }
    np.testing.assert_allclose(tiles["shifted"], tiles["plain"], atol=1e-4)
    np.testing.assert_allclose(tiles["fractions"], tiles["plain"], atol=1e-3)
    assert not np.allclose(tiles["curved"], tiles["plain"], atol=0.1)
    assert all(len(boxes) > 0 for boxes in predicted(bundle, tmp_path / "out", *paths.values()).values())


def test_a_scan_and_its_case_in_a_store_are_normalised_alike(of_mr, tmp_path):
    bundle, store = of_mr
    of_cases = predicted(bundle, tmp_path / "cases", store.path)
    of_file = predicted(bundle, tmp_path / "file", store.path.parent / "raw" / "p1_t1.nii.gz")
    np.testing.assert_allclose(of_file["p1_t1"], of_cases["p1_t1"], atol=1e-3)

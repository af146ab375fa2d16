"""What every test shares."""

from __future__ import annotations

import gc
import json
import locale
import os

# Before torch is imported: several processes on few cores must sleep while they wait, not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the suite runs in several processes already; programs it calls obey it
os.environ.setdefault("WANDB_MODE", "disabled")
# Many tests compare numbers to more digits than bf16 has, which is what some CPUs would choose.
os.environ.setdefault("MEDPRETRAIN3D_PRECISION", "32-true")

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import settings

from tests.oracles import write_nnssl_checkpoints

settings.register_profile("shared_cores", deadline=None)  # a first call may take seconds where cores are shared
settings.load_profile("shared_cores")

torch.set_num_threads(1)


def pytest_collection() -> None:
    """What is imported and collected stays; looking through it for garbage is a sixth of the time of imports."""
    gc.disable()


def pytest_collection_finish() -> None:
    """From here on there is garbage, and only there."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def same_random_numbers():
    """Weights and images of a test that sets no seed are those of every other time: a bound holds always or never."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def same_locale():
    """SimpleITK's codecs leave the locale "C" behind, in which later tests could not read a progress bar."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.fixture(scope="session")
def nnssl_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint in each layout of the nnssl family; `reference.json` has their features."""
    folder = tmp_path_factory.mktemp("nnssl_checkpoints")
    write_nnssl_checkpoints(folder / "all")
    return folder / "all"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real scans with annotations, which lie beside the repository or nowhere."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real scans are not in this repository, and there is no folder ../shared/data beside it")
    return folder


@pytest.fixture
def write_nifti(tmp_path):
    """Writes an array (i, j, k) with a RAS affine; returns the path."""

    def write(array, name="scan.nii.gz", affine=None, folder=tmp_path):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
        return path

    return write


@pytest.fixture
def make_dataset(tmp_path, write_nifti):
    """Writes an nnU-Net data set whose cases hold two cubes of class 1 (3^3 and 2^3 voxels) and a bar of class 2."""

    def make(case_ids, root=tmp_path / "raw", **dataset):
        for number, case_id in enumerate(case_ids):
            mask = np.zeros((12, 10, 8), np.uint8)
            mask[1:4, 1:4, 1:4] = 1
            mask[8:10, 6:8, 5:7] = 1
            mask[6, 2:9, 1] = 2
            image = np.where(mask > 0, 60, -900).astype(np.int16) + np.int16(number)
            write_nifti(image, f"imagesTr/{case_id}_0000.nii.gz", folder=root)
            write_nifti(mask, f"labelsTr/{case_id}.nii.gz", folder=root)
        document = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "nodule": 1, "vessel": 2}, **dataset}
        (root / "dataset.json").write_text(json.dumps(document))
        return root

    return make

"""Which scans an encoder file lists as seen with their labels."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from medpretrain3d.backbones import ResEnc
from medpretrain3d.detection import FCOS
from medpretrain3d.loading.sampling import CropSampler
from medpretrain3d.objectives import MAE, DetectorPretraining
from pretrain.module import PretrainModule


def case(number: int, num_objects: int, is_pseudo: bool = False) -> SimpleNamespace:
    return SimpleNamespace(
        voxels=f"{number:064x}", counts=[0, num_objects], store=SimpleNamespace(has_pseudo_objects=is_pseudo)
    )


CASES = [case(1, 3), case(2, 0), case(3, 5, is_pseudo=True)]


def module(objective, **sampling):
    one = PretrainModule(objective)
    data = SimpleNamespace(train_cases=CASES, crop_sampler=CropSampler(**sampling))
    one._trainer = SimpleNamespace(datamodule=data)
    return one


@pytest.mark.parametrize(
    ("sampling", "with_labels"),
    [({}, []), ({"foreground_share": 1.0}, []), ({"object_share": 0.1}, ["1"]), ({"object_share": 1.0}, ["1"])],
)
def test_labels_that_place_crops_are_seen_and_pseudo_objects_are_none(sampling, with_labels):
    seen = module(MAE(ResEnc("XXS"), mask_block=(4, 4, 4)), **sampling).volumes_seen()
    voxels = {str(number): one.voxels for number, one in enumerate(CASES, 1)}
    assert seen.among(voxels, with_labels=True) == with_labels
    assert seen.among(voxels) == ["1", "2", "3"]


def test_a_detector_sees_labels_wherever_crops_are():
    seen = module(DetectorPretraining(FCOS(ResEnc("XXS"), 1, fpn_channels=16))).volumes_seen()
    voxels = {str(number): one.voxels for number, one in enumerate(CASES, 1)}
    assert seen.among(voxels, with_labels=True) == ["1", "2"]

"""MedicalNet (Chen et al., 2019): 3D residual networks trained to segment 23 data sets."""

from __future__ import annotations

from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.backbones.checkpoints.resnet_layout import (
    PARTS,
    is_of_monai,
    resnet_architecture,
    resnet_prefix,
)
from medpretrain3d.backbones.checkpoints.selection import select

CITATION = "Chen, S., Ma, K., & Zheng, Y. (2019). Med3D: transfer learning for 3D image analysis. arXiv:1904.00625."


def read_medicalnet(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Return the network of a MedicalNet checkpoint; None for other files.

    Raises:
        UserError: blocks per stage of no depth that is known here.
    """
    if resnet_prefix(raw.weights, (7, 7, 7)) != "":
        return None
    own, unused = select(raw.weights, "", PARTS)
    if is_of_monai(own, unused):
        return None
    architecture = resnet_architecture(str(raw.path), own, is_dilated=True)
    card = {
        "preprocessing": {"normalisation": "z-score of the voxels that are not zero, per volume"},
        "pretraining": {"paradigm": "supervised segmentation", "corpus": "23 data sets"},
        "licence": raw.licence or "MIT, as its repository states",
        "citations": [CITATION],
    }
    notes = (
        "trained with the last two stages dilated instead of strided (is_dilated: true)",
        "trained on z-scored volumes, where this package gives a HU window in [-1, 1]",
    )
    return EncoderFile(architecture, own, card, raw.sha256, "MedicalNet checkpoint", unused, notes)

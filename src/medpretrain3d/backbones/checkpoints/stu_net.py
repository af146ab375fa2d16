"""STU-Net (Huang et al., 2023): supervised segmentation of TotalSegmentator's 104 organs, in four sizes."""

from __future__ import annotations

import re

from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.backbones.checkpoints.release import Release
from medpretrain3d.backbones.checkpoints.selection import select
from medpretrain3d.backbones.stunet import GROWTH, PRESETS, Size
from medpretrain3d.errors import UserError

PART = "conv_blocks_context"
FIRST = f"{PART}.0.0.conv1.weight"

STU_NET = Release(
    name="STU-Net",
    summary="residual encoder of six stages, instance norm, trained to segment 104 organs; sizes S, B, L and H",
    where="github.com/uni-medical/STU-Net (links to {small,base,large,huge}_ep4k.model)",
    architecture={"class_path": "medpretrain3d.backbones.stunet.STUNet", "init_args": {"preset": "L"}},
    paradigm="supervised segmentation",
    corpus="1,204 CTs of TotalSegmentator",
    overlap="TotalSegmentator with its labels",
    code_licence="Apache-2.0; other versions of its repository say MIT and CC BY-NC 4.0",
    weights_licence="Apache-2.0 by its author's hub page",
    citation="Huang, Z., et al. (2023). STU-Net: scalable and transferable medical image segmentation models. "
    "arXiv:2304.06716.",
    orientation=None,
    spacing_mm=(1.5, 1.5, 1.5),
    normalisation="CTNormalization of nnU-Net, with numbers of its plans",
)
WINDOW_NOTE = (
    "trained on nnU-Net's normalization of CT, whose four numbers stand in the plans.pkl beside the weights, which is "
    "not read: give them as ForegroundZScore in data.window"
)


def read_stu_net(raw: RawCheckpoint, options: ReadOptions) -> EncoderFile | None:
    """Return the encoder of an STU-Net; None for other files.

    Raises:
        UserError: not six stages of doubling width.
    """
    if FIRST not in raw.weights:
        return None
    own, unused = select(raw.weights, "", (PART,))
    stages = sorted({int(name.split(".")[1]) for name in own})
    blocks = {len({name.split(".")[2] for name in own if name.startswith(f"{PART}.{stage}.")}) for stage in stages}
    if stages != list(range(len(GROWTH))) or len(blocks) != 1:
        raise UserError(
            f"{raw.path}: stages {stages} with {sorted(blocks)} blocks, wanted {len(GROWTH)} stages of as many blocks "
            "each; the file is incomplete or a variant"
        )
    width, in_channels = own[FIRST].shape[:2]
    size = Size(width, blocks.pop())
    preset = next((name for name, known in PRESETS.items() if known == size), None)
    arguments = {"preset": preset, "in_channels": in_channels, **({} if preset else size._asdict())}
    architecture = {"class_path": "medpretrain3d.backbones.stunet.STUNet", "init_args": arguments}
    notes = (
        "strides of 1 in the first stage and 2 in all others assumed, as in its plans for 1.5 mm",
        "trained with mirroring along all axes, in the frame that nnU-Net read: no axis is turned",
        WINDOW_NOTE,
    )
    own = {name: value for name, value in own.items() if not re.search(r"\.act\d", name)}
    return EncoderFile(architecture, own, STU_NET.card(raw), raw.sha256, "STU-Net checkpoint", unused, notes)

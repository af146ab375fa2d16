"""Reading encoders: our own files, and the checkpoints of others, each format in a file of its own.

A reader is a function from an opened checkpoint to an `EncoderFile`, or None when the file is not of its kind. A new
format is a new file and a line below, or a function that a plugin registers in `READERS`; those of plugins look first.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

from medpretrain3d.backbones.checkpoints.amaes import AMAES, read_amaes
from medpretrain3d.backbones.checkpoints.brainiac import BRAINIAC, read_brainiac
from medpretrain3d.backbones.checkpoints.bundle import read_bundle_backbone
from medpretrain3d.backbones.checkpoints.class_token_vit import read_class_token_vit
from medpretrain3d.backbones.checkpoints.colipri import COLIPRI, read_colipri
from medpretrain3d.backbones.checkpoints.completeness import check_complete
from medpretrain3d.backbones.checkpoints.ct_fm import CT_FM, read_ct_fm
from medpretrain3d.backbones.checkpoints.encoder_file import (
    DetectorPart,
    EncoderFile,
    provenance_of,
    read_encoder_folder,
    save_encoder,
    write_encoder,
)
from medpretrain3d.backbones.checkpoints.flexict import FLEXICT, read_flexict
from medpretrain3d.backbones.checkpoints.formats import EXPORTS, READERS
from medpretrain3d.backbones.checkpoints.genesis import read_genesis
from medpretrain3d.backbones.checkpoints.loading import LoadReport, load_encoder
from medpretrain3d.backbones.checkpoints.medicalnet import read_medicalnet
from medpretrain3d.backbones.checkpoints.mednext import read_mednext
from medpretrain3d.backbones.checkpoints.merlin import MERLIN, read_merlin
from medpretrain3d.backbones.checkpoints.monai_resnet import read_monai_resnet
from medpretrain3d.backbones.checkpoints.monai_vit import SEGVOL, read_monai_vit
from medpretrain3d.backbones.checkpoints.nnssl import read_nnssl
from medpretrain3d.backbones.checkpoints.nnunet import read_nnunet
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions, open_checkpoint
from medpretrain3d.backbones.checkpoints.release import Release
from medpretrain3d.backbones.checkpoints.run_checkpoint import encoder_entry, read_run_checkpoint
from medpretrain3d.backbones.checkpoints.source import locate
from medpretrain3d.backbones.checkpoints.spectre import SPECTRE, read_spectre
from medpretrain3d.backbones.checkpoints.stu_net import STU_NET, read_stu_net
from medpretrain3d.backbones.checkpoints.suprem import read_suprem
from medpretrain3d.backbones.checkpoints.swin_unetr import BRAIN_SEG_FOUNDER, read_swin_unetr
from medpretrain3d.backbones.checkpoints.tap_ct import TAP_CT, read_tap_ct
from medpretrain3d.backbones.checkpoints.three_dino import THREE_DINO, read_three_dino
from medpretrain3d.backbones.checkpoints.timm_network import read_timm
from medpretrain3d.backbones.checkpoints.vista3d import VISTA3D, read_vista3d
from medpretrain3d.backbones.checkpoints.volumes_seen import VolumesSeen
from medpretrain3d.backbones.checkpoints.voxelfm import VOXELFM, read_voxelfm
from medpretrain3d.errors import UserError
from medpretrain3d.registry import import_modules

__all__ = [
    "EXPORTS",
    "READERS",
    "RELEASES",
    "DetectorPart",
    "EncoderFile",
    "LoadReport",
    "RawCheckpoint",
    "ReadOptions",
    "Release",
    "VolumesSeen",
    "encoder_entry",
    "load_encoder",
    "provenance_of",
    "read_encoder",
    "save_encoder",
    "write_encoder",
]

# In the order in which they look at a file: the first that knows it reads it, so strict ones come first.
for _reader in (
    read_run_checkpoint,
    read_nnssl,
    read_nnunet,
    read_suprem,
    read_vista3d,
    read_ct_fm,
    read_colipri,
    read_flexict,
    read_spectre,
    read_voxelfm,
    read_three_dino,
    read_tap_ct,
    read_class_token_vit,
    read_merlin,
    read_stu_net,
    read_monai_vit,
    read_mednext,
    read_amaes,
    read_swin_unetr,
    read_genesis,
    read_medicalnet,
    read_brainiac,
    read_monai_resnet,
    read_timm,
):
    READERS.add(_reader.__name__.removeprefix("read_"), _reader, __name__)

RELEASES: tuple[Release, ...] = (
    *(CT_FM, VISTA3D, COLIPRI, FLEXICT, SPECTRE, VOXELFM, THREE_DINO, TAP_CT),
    *(MERLIN, STU_NET, SEGVOL, BRAINIAC, BRAIN_SEG_FOUNDER, AMAES),
)
"""Published weights of which more is known than their files say, in the order of docs/checkpoints.md."""

import_modules(__name__, __path__)  # what is here is known by name


def read_encoder(source: str | Path, options: ReadOptions = ReadOptions()) -> EncoderFile:  # noqa: B008  frozen
    """Find out what a checkpoint is and read the encoder in it.

    Args:
        source: an encoder file, detector bundle or run of this package, a checkpoint of any format in `READERS`, a
            folder that holds one, or `owner/name[/file]` of a hub.
        options: choices that a format leaves open.

    Raises:
        UserError: nothing there, unreadable without running its code, of no known format, or not what it says it is; or
            an option that it does not leave open.
    """
    path = locate(source)
    if path.is_dir():
        ours = read_bundle_backbone(path) if (path / "bundle.json").is_file() else read_encoder_folder(path)
        check_complete(path, ours)
        _check_heeded(path, ours, options, ())
        return ours
    raw = open_checkpoint(path)
    for name, reader in READERS.parts().items():
        try:
            encoder = reader(raw, options)
        except UserError:
            raise
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"{path}: looks like a checkpoint of {name}, but its plan or tensors are not of that form ({error!r}); "
                "the file is damaged or of another version"
            ) from error
        if encoder is not None:
            check_complete(path, encoder)
            stated = (encoder.card.get("preprocessing") or {}).get("orientation")
            turned = ("orientation",) if stated == options.orientation else ()
            _check_heeded(path, encoder, options, (*encoder.heeded, *turned))
            return encoder
    tensors = sorted(raw.weights)
    held = (
        f"{len(tensors)} tensors ({', '.join(tensors[:3])}, ...)"
        if tensors
        else f"no tensors ({', '.join(raw.content)})"
    )
    known = ", ".join(READERS.names())
    raise UserError(
        f"{path}: of no known format: holds {held}; known are {known} and our own encoder files; where its "
        "architecture is one of medpretrain3d.backbones, load the weights in Python and write them with save_encoder"
    )


_WHY_NOT = {
    "stem": "it has one stem, or none that could be chosen",
    "token_order": "it is no Primus, or one whose order is known",
    "orientation": "its frame is known or its weights cannot be turned",
    "norm": "its tensors or its format tell its norm",
}


def _check_heeded(path: Path, encoder: EncoderFile, options: ReadOptions, heeded: Collection[str]) -> None:
    """Refuse options that had no influence on what was read."""
    given = {name: value for name, value in asdict(options).items() if value is not None and name not in heeded}
    if given:
        got = " and ".join(f"{name} {value}" for name, value in given.items())
        why = "; ".join(f"{name}: {_WHY_NOT[name]}" for name in given)
        raise UserError(
            f"{path}: got {got}, but a {encoder.format} leaves no such choice ({why}); leave "
            f"{'the option' if len(given) == 1 else 'these options'} out"
        )

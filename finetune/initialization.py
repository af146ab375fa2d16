"""The weights that a detector begins with: of an encoder file, a bundle, or a checkpoint of another project."""

from __future__ import annotations

from dataclasses import replace

from finetune.provenance import paradigm_of
from medpretrain3d.backbones import EncoderFile, load_encoder
from medpretrain3d.backbones.checkpoints.source import locate
from medpretrain3d.backbones.checkpoints.topology import Topology
from medpretrain3d.detection import Detector
from medpretrain3d.detection.transfer import Init, chosen_init, load_detector
from medpretrain3d.engine.distributed import rank_zero_print
from medpretrain3d.errors import UserError
from medpretrain3d.inference import load_bundle


def initialize(
    detector: Detector,
    encoder: EncoderFile | None,
    init_from: str | None,
    init: Init | None,
    init_fpn: bool,
    topology: Topology,
    num_groups: int | None = None,
) -> tuple[str, ...]:
    """Put what a file holds into a detector, and say what fitted.

    Args:
        detector: receives the weights.
        encoder: what was read, or None for random weights.
        init_from: where it was read.
        init: how much of it is taken; see `FinetuneModule`.
        init_fpn: whether the whole feature pyramid of a bundle is taken.
        topology: whether kernels and patches of the encoder are adapted.
        num_groups: depth groups of the encoder that are taken, from its input; None takes all.

    Returns:
        Names of the tensors beside the encoder that were taken.

    Raises:
        UserError: the encoder is of another architecture, or the file does not hold what shall be taken, or nothing of
            that fits, or a part of the encoder is to be taken of no file or together with what reads all of it.
    """
    if init is not None and init_fpn:
        raise UserError(f"model.init {init} and model.init_fpn: give one of them; init neck takes what fits of it")
    if num_groups is not None:
        if encoder is None:
            raise UserError(f"model.init_groups {num_groups}: no model.init_from; name an encoder, or leave it out")
        if init_fpn or init not in (None, "encoder"):
            raise UserError(
                f"model.init_groups {num_groups}: neck and heads were trained upon the whole encoder; "
                "set model.init to encoder and leave init_fpn out, or leave init_groups out"
            )
        init = "encoder"
    taken = _take_detector(detector, encoder, init_from, init)
    if encoder is not None:
        rest = replace(encoder, unused={}) if taken else encoder  # what of neck and heads is unused was said
        rank_zero_print(f"{init_from}: {load_encoder(detector.backbone, rest, detector, taken, topology, num_groups)}")
    if init_fpn:
        names = _load_fpn(detector, init_from)
        rank_zero_print(f"{init_from}: {len(names)} tensors of its feature pyramid taken too")
        return names
    return taken


def _take_detector(
    detector: Detector, encoder: EncoderFile | None, init_from: str | None, init: Init | None
) -> tuple[str, ...]:
    part = None if encoder is None else encoder.detector
    is_pretrained = encoder is not None and paradigm_of(encoder) == "detector"
    chosen = chosen_init(init, part, is_pretrained, init_from)
    if part is None or chosen == "encoder":
        return ()
    report = load_detector(detector, part, chosen, str(init_from))
    rank_zero_print(f"{init_from}: {report}")
    if init is not None and not report.taken:
        raise UserError(
            f"model.init {init}: nothing of {init_from} beside the encoder fits this detector "
            f"({'; '.join(report.notes)}); give both the same levels and channels, or set model.init to encoder"
        )
    return report.taken


def _load_fpn(detector: Detector, bundle: str | None) -> tuple[str, ...]:
    """Put the feature pyramid of a bundle's detector into another; returns names of its tensors.

    Raises:
        UserError: no bundle, no feature pyramid in one of the two, or one of another shape.
    """
    folder = None if bundle is None else locate(bundle)
    if folder is None or not (folder / "bundle.json").is_file():
        raise UserError(f"init_fpn: init_from is {bundle}, wanted a detector bundle; an encoder holds no pyramid")
    theirs, ours = (getattr(one, "fpn", None) for one in (load_bundle(folder).detector, detector))
    if theirs is None or ours is None:
        raise UserError(f"init_fpn: a detector has no feature pyramid ({bundle} or the recipe's); leave init_fpn out")
    state = theirs.state_dict()
    shapes = [{name: tuple(tensor.shape) for name, tensor in fpn.state_dict().items()} for fpn in (theirs, ours)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"init_fpn: the pyramid of {bundle} has other tensors than the recipe's; give both detectors the same "
            "fpn_channels and first_level, or leave init_fpn out"
        )
    ours.load_state_dict(state)
    return tuple(f"fpn.{name}" for name in state)

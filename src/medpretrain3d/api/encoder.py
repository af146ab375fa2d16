"""A pretrained encoder in a program: its network, and the features that it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medpretrain3d.api.scans import ScanLike, as_volume
from medpretrain3d.backbones import Backbone
from medpretrain3d.backbones.checkpoints import ReadOptions, read_encoder
from medpretrain3d.backbones.checkpoints import load_encoder as load_into
from medpretrain3d.configurable import from_config
from medpretrain3d.errors import UserError
from medpretrain3d.store.intensity import PerUnit
from medpretrain3d.store.preprocessing import Preprocessing, PreprocessingDocument
from medpretrain3d.store.volume import resample


@dataclass(frozen=True, eq=False)
class Encoder:
    """A pretrained backbone with what it was trained on.

    Args:
        backbone: a `torch.nn.Module` in evaluation mode: (B, C, D, H, W) to one tensor per level, finest first.
        preprocessing: patch, spacing and window of its training; None where the file does not say.
        report: which weights were loaded, their source and licence.

    Example:
        >>> import medpretrain3d as mp
        >>> from medpretrain3d.backbones import ResEnc, save_encoder
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = save_encoder(f"{folder}/encoder", ResEnc("XXS"), card={})
        ...     encoder = mp.load_encoder(f"{folder}/encoder")
        >>> [level.stride for level in encoder.backbone.levels][:2]
        [(1, 1, 1), (2, 2, 2)]
        >>> import numpy as np
        >>> features = encoder.features(np.zeros((32, 32, 32), np.int16), spacing_mm=(1, 1, 1))
        >>> features[1].shape[2:]
        torch.Size([16, 16, 16])
    """

    backbone: Backbone
    preprocessing: Preprocessing | None
    report: str

    @torch.inference_mode()
    def features(
        self,
        scan: ScanLike,
        affine_lps: np.ndarray | Sequence[Sequence[float]] | None = None,
        spacing_mm: Sequence[float] | None = None,
    ) -> list[Tensor]:
        """Return the features (1, C, D, H, W) of each level for a whole scan, at the spacing and window of training.

        A scan is padded at its far ends to a multiple of the coarsest stride. It is seen at once: crop a large one.

        Raises:
            UserError: what `as_volume` refuses, or a scan of other channels than in training.
        """
        return list(self.backbone(self.prepare(scan, affine_lps, spacing_mm)))

    def prepare(
        self,
        scan: ScanLike,
        affine_lps: np.ndarray | Sequence[Sequence[float]] | None = None,
        spacing_mm: Sequence[float] | None = None,
    ) -> Tensor:
        """Return a scan as the network sees one: (1, C, D, H, W) float32, axes superior, posterior, left."""
        wanted = self.preprocessing
        volume = as_volume(scan, affine_lps, spacing_mm, wanted.unit if wanted else "hu")
        if volume.num_channels != self.backbone.in_channels:
            raise UserError(
                f"has {volume.num_channels} channels, the encoder was trained on {self.backbone.in_channels}"
            )
        window = (wanted.window if wanted else PerUnit()).fitted_to(volume)  # to the scan as it is, as in training
        if wanted and wanted.spacing_mm:
            volume = resample(volume, wanted.spacing_mm)
        image = torch.from_numpy(np.ascontiguousarray(window(volume.array), dtype=np.float32))
        coarsest = self.backbone.levels[-1].stride
        lacks = [-size % stride for size, stride in zip(image.shape[1:], coarsest, strict=True)]
        ends = [end for lack in reversed(lacks) for end in (0, lack)]
        padded: Tensor = torch.nn.functional.pad(image[None], ends, value=float(image.min()))
        return padded


def load_encoder(source: str | Path, device: str = "cpu", **options: Any) -> Encoder:
    """Load a pretrained encoder of any known format.

    Args:
        source: an encoder file, a bundle or a run of this package, a checkpoint of a format in `docs/checkpoints.md`, a
            folder that holds one, or `owner/name[/file]` of a hub.
        device: where its weights go.
        options: choices that a format leaves open, see `ReadOptions`.

    Raises:
        UserError: nothing there, unreadable, of no known format, or not what it says it is.
    """
    file = read_encoder(source, ReadOptions(**options))
    backbone = from_config(file.architecture, Backbone)
    report = load_into(backbone, file)
    return Encoder(backbone.to(device).eval(), _preprocessing(file.card.get("preprocessing"), backbone), str(report))


def _preprocessing(stated: Mapping[str, Any] | None, backbone: Backbone) -> Preprocessing | None:
    """What a card says; those of others state a part of it, and a patch is only of ours."""
    if not stated:
        return None
    known = {name: stated[name] for name in PreprocessingDocument.__annotations__ if stated.get(name) is not None}
    return Preprocessing.from_json({"patch": list(backbone.levels[-1].stride), **known})

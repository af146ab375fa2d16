"""A pretrained encoder in a program: its network, and the features that it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medpretrain3d.api.scans import ScanLike, as_volume
from medpretrain3d.backbones import Backbone
from medpretrain3d.backbones.checkpoints import ReadOptions, read_encoder
from medpretrain3d.backbones.checkpoints import load_encoder as load_into
from medpretrain3d.command_line.suggestions import did_you_mean
from medpretrain3d.configurable import from_config, to_config
from medpretrain3d.errors import UserError
from medpretrain3d.inference.predictor import device_named
from medpretrain3d.store.intensity import PerUnit
from medpretrain3d.store.normalization import Normalization
from medpretrain3d.store.preprocessing import Preprocessing, PreprocessingDocument, stated_window
from medpretrain3d.store.unit import Unit
from medpretrain3d.store.volume import Volume, resample


@dataclass(frozen=True, eq=False)
class Encoder:
    """A pretrained backbone with what it was trained on.

    Args:
        backbone: a `torch.nn.Module` in evaluation mode: (B, C, D, H, W) to one tensor per level, finest first.
        preprocessing: patch, spacing and window of its training; None where the file does not say. Where it states no
            window, that of fine-tuning: HU in a window, other scans by their z-score.
        report: which weights were loaded, their source and licence, and what the file leaves open.
        stated: preprocessing as the file states it.

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
        >>> features = encoder.features(np.zeros((32, 32, 32), np.int16), spacing_mm=(1, 1, 1), unit="hu")
        >>> features[1].shape[2:]
        torch.Size([16, 16, 16])
    """

    backbone: Backbone
    preprocessing: Preprocessing | None
    report: str
    stated: Mapping[str, Any] = field(default_factory=dict)

    @property
    def unit(self) -> Unit | None:
        """Intensity unit of the scans to give: the file's, or what its window tells; None where neither does."""
        return _unit(self.stated)

    @torch.inference_mode()
    def features(
        self,
        scan: ScanLike,
        affine_lps: np.ndarray | Sequence[Sequence[float]] | None = None,
        spacing_mm: Sequence[float] | None = None,
        unit: Unit | None = None,
    ) -> list[Tensor]:
        """Return the features (1, C, D, H, W) of each level for a whole scan, at the spacing and window of training.

        A scan is padded at its far ends to a multiple of the coarsest stride. It is seen at once: crop a large one. The
        features are where the weights are, as on a GPU.

        Raises:
            UserError: see `prepare`, or a scan so small that the norm of the coarsest level has one voxel to work on.
        """
        place = next(self.backbone.parameters()).device
        return list(self.backbone(self.prepare(scan, affine_lps, spacing_mm, unit).to(place)))

    def prepare(
        self,
        scan: ScanLike,
        affine_lps: np.ndarray | Sequence[Sequence[float]] | None = None,
        spacing_mm: Sequence[float] | None = None,
        unit: Unit | None = None,
    ) -> Tensor:
        """Return a scan as the network sees one: (1, C, D, H, W) float32, axes superior, posterior, left.

        Args:
            scan: see `as_volume`, as `affine_lps` and `spacing_mm`.
            affine_lps: of an array.
            spacing_mm: of an array.
            unit: of its values, `hu` or `any`; None is that of training, or of a `Volume` its own. In one that training
                knew no scans of, they are mapped as fine-tuning does, if it is named.

        Raises:
            UserError: what `as_volume` refuses, a scan of other channels than in training, or in another unit, or a
                unit that neither the file nor the caller states.
        """
        wanted = self.preprocessing
        volume = self._volume(scan, affine_lps, spacing_mm, unit)
        if volume.num_channels != self.backbone.in_channels:
            raise UserError(
                f"has {volume.num_channels} channels, the encoder was trained on {self.backbone.in_channels}"
            )
        window = self._window(volume.unit, unit is not None).fitted_to(volume)  # the scan as it is, as in training
        if wanted and wanted.spacing_mm:
            volume = resample(volume, wanted.spacing_mm)
        image = torch.from_numpy(np.ascontiguousarray(window(volume.array), dtype=np.float32))
        coarsest = self.backbone.levels[-1].stride
        lacks = [-size % stride for size, stride in zip(image.shape[1:], coarsest, strict=True)]
        ends = [end for lack in reversed(lacks) for end in (0, lack)]
        padded: Tensor = torch.nn.functional.pad(image[None], ends, value=float(image.min()))
        return padded

    def _volume(
        self,
        scan: ScanLike,
        affine_lps: np.ndarray | Sequence[Sequence[float]] | None,
        spacing_mm: Sequence[float] | None,
        unit: Unit | None,
    ) -> Volume:
        wanted = unit if unit is not None else scan.unit if isinstance(scan, Volume) else self.unit
        if wanted is None:
            raise UserError(
                "unit: the encoder's file does not say what the values of its training images were; give unit='hu' for "
                "Hounsfield units, unit='any' for others"
            )
        volume = as_volume(scan, affine_lps, spacing_mm, wanted)
        if volume.unit != wanted:
            raise UserError(f"unit='{wanted}': the Volume is of unit '{volume.unit}'; leave it out, or read it again")
        return volume

    def _window(self, unit: Unit, is_asked_for: bool) -> Normalization:
        """Return what maps scans in a unit: as in training, or as in fine-tuning where training knew none."""
        window = stated_window(self.stated, unit)
        if window is None and self.stated.get("window") and not is_asked_for:
            raise UserError(
                f"scan: is of unit '{unit}', and the encoder was trained on none; give unit='{unit}' if it shall be "
                f"mapped by {PerUnit().of_unit(unit)} all the same"
            )
        return window or PerUnit().of_unit(unit)


def load_encoder(source: str | Path, device: str = "cpu", **options: Any) -> Encoder:
    """Load a pretrained encoder of any known format.

    Args:
        source: an encoder file, a bundle or a run of this package, a checkpoint of a format in `docs/checkpoints.md`, a
            folder that holds one, or `owner/name[/file]` of a hub.
        device: where its weights go: `cpu`, `auto` (a GPU if there is one), `cuda`, `cuda:1`, ...
        options: choices that a format leaves open, see `ReadOptions`.

    Raises:
        UserError: nothing there, unreadable, of no known format, or not what it says it is; a device that does not
            exist here, or another option.
    """
    known = [one.name for one in fields(ReadOptions)]
    if unknown := [name for name in options if name not in known]:
        raise UserError(
            f"load_encoder: got {', '.join(unknown)}, wanted options out of device, {', '.join(known)}"
            f"{did_you_mean(unknown[0], known)}"
        )
    place = device_named(device)
    file = read_encoder(source, ReadOptions(**options))
    backbone = from_config(file.architecture, Backbone)
    report = str(load_into(backbone, file))
    stated = file.card.get("preprocessing") or {}
    if not stated.get("window"):
        words = f" but in words ({stated['normalisation']})" if stated.get("normalisation") else ""
        report += (
            f"\n  note: no window is stated{words}: HU are mapped by {PerUnit().hu}, other values by {PerUnit().other}"
        )
    return Encoder(backbone.to(place).eval(), _preprocessing(stated, backbone), report, stated)


def _preprocessing(stated: Mapping[str, Any], backbone: Backbone) -> Preprocessing | None:
    """What a card says; those of others state a part of it, and a patch is only of ours."""
    if not stated:
        return None
    known = {name: stated[name] for name in PreprocessingDocument.__annotations__ if stated.get(name) is not None}
    left_open = {"patch": list(backbone.levels[-1].stride), "window": to_config(PerUnit()), "unit": "any"}
    unit = _unit(stated)
    return Preprocessing.from_json({**left_open, **known, **({} if unit is None else {"unit": unit})})


def _unit(stated: Mapping[str, Any]) -> Unit | None:
    """Return the unit that a card states, or the one that its window is made for.

    Of a window that maps scans of any unit alike, as a z-score does, it is `any`: nothing is read into their values.
    """
    if stated.get("unit"):
        unit: Unit = stated["unit"]
        return unit
    if not stated.get("window"):
        return None
    window: Normalization = from_config(stated["window"])
    if not window.suits("any"):
        return "hu"
    return "any" if to_config(window.of_unit("hu")) == to_config(window.of_unit("any")) else None

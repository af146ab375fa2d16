"""Formats of checkpoints and encoders by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medpretrain3d.backbones.checkpoints.encoder_file import EncoderFile
from medpretrain3d.backbones.checkpoints.raw import RawCheckpoint, ReadOptions
from medpretrain3d.registry import Registry

Reader = Callable[[RawCheckpoint, ReadOptions], EncoderFile | None]
"""From an opened checkpoint to the encoder in it; None when the file is not of its kind."""
Export = Callable[[Path, EncoderFile], None]
"""Writes an encoder's files into an empty folder, which gets its name once they are complete."""

READERS: Registry[Reader] = Registry("checkpoint format")
EXPORTS: Registry[Export] = Registry("encoder format")

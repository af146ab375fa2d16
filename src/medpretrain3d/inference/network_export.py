"""The network of a bundle without this package: as an ONNX graph or a `torch.export` program, checked against eager.

Exported is one tile in, raw head outputs out: `image` (B, C, D, H, W) float32, windowed to [-1, 1], gives `logits`
(B, A, K) and `deltas` (B, A, 6). The batch size is free, the tile's size is the bundle's patch. What the numbers mean
is written beside it: `anchors.npy` (A, 6) and `export.json`. docs/prediction.md tells how boxes are decoded from them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from medpretrain3d.atomic import finished_folder
from medpretrain3d.description import describe
from medpretrain3d.detection import RetinaNet, RetinaUNet
from medpretrain3d.errors import UserError
from medpretrain3d.inference.bundle import Bundle

ExportFormat = Literal["onnx", "torch"]
EXPORTED = (RetinaNet, RetinaUNet)
"""Detectors whose outputs docs/prediction.md tells how to decode; not what is derived from them."""
FILES = {"onnx": "network.onnx", "torch": "network.pt2"}
TOLERANCE = 1e-3
"""Largest difference to eager, relative to the largest output: other runtimes sum in another order."""


class DenseHeads(nn.Module):
    """A detector over anchors up to its heads, with one output per head.

    Args:
        detector: in evaluation mode.
    """

    def __init__(self, detector: RetinaNet) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Image (B, C, D, H, W) -> logits (B, A, K), deltas (B, A, 6)."""
        return self.detector.outputs(image)


def export_network(bundle: Bundle, folder: Path, export_format: ExportFormat) -> float:
    """Write the network of a bundle, once its outputs are known to be those of eager execution.

    Args:
        bundle: its detector must be one of `EXPORTED`.
        folder: receives the network, `anchors.npy` and `export.json`; complete or not at all.
        export_format: `onnx`, or `torch` for a file that `torch.export.load` reads.

    Returns:
        The largest difference to eager on a random tile, relative to the largest output.

    Raises:
        UserError: another kind of detector, the libraries of ONNX are missing, the outputs differ, or `folder` exists.
    """
    detector = bundle.detector
    if not isinstance(detector, RetinaNet) or type(detector) not in EXPORTED:
        names = " and ".join(one.__name__ for one in EXPORTED)
        raise UserError(f"{type(detector).__name__} cannot be exported, {names} can; predict with the bundle itself")
    how = bundle.preprocessing
    network = DenseHeads(detector.cpu()).eval()
    tile = torch.rand(1, how.num_channels, *how.patch, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad(), finished_folder(folder) as unfinished:
        wanted = network(tile)
        run = {"onnx": _to_onnx, "torch": _to_torch}[export_format](network, tile, unfinished / FILES[export_format])
        scale = max(float(output.abs().max()) for output in wanted)
        difference = max(float((a - b).abs().max()) for a, b in zip(run(tile), wanted, strict=True)) / max(scale, 1e-12)
        if not difference <= TOLERANCE:
            raise UserError(
                f"{folder}: outputs differ from eager by {difference:.2g} of the largest, allowed is {TOLERANCE:g}; "
                "nothing was written, try the other format"
            )
        np.save(unfinished / "anchors.npy", detector.anchors_of(tile).numpy())
        about = _about(bundle, wanted, difference)
        (unfinished / "export.json").write_text(json.dumps(about, indent=2) + "\n")
    return difference


def _about(bundle: Bundle, outputs: tuple[Tensor, Tensor], difference: float) -> dict[str, Any]:
    return {
        "format": "medpretrain3d-network",
        "version": 1,
        "bundle_sha256": bundle.sha256,
        "classes": list(bundle.classes),
        "image": ["B", bundle.preprocessing.num_channels, *bundle.preprocessing.patch],
        "logits": ["B", *outputs[0].shape[1:]],
        "deltas": ["B", *outputs[1].shape[1:]],
        "detector": describe(bundle.detector),
        "preprocessing": bundle.preprocessing.to_json(),
        "inference": asdict(bundle.inference),
        "difference_to_eager": difference,
        "torch": torch.__version__,
    }


Run = Callable[[Tensor], tuple[Tensor, ...]]


def _program(network: nn.Module, tile: Tensor) -> torch.export.ExportedProgram:
    # Traced with two tiles: a batch of one would be taken for a constant.
    batch = {"image": {0: torch.export.Dim("batch")}}
    return torch.export.export(network, (tile.repeat(2, 1, 1, 1, 1),), dynamic_shapes=batch)


def _to_torch(network: nn.Module, tile: Tensor, path: Path) -> Run:
    torch.export.save(_program(network, tile), path)
    return torch.export.load(path).module()


def _to_onnx(network: nn.Module, tile: Tensor, path: Path) -> Run:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  what torch.onnx needs
    except ImportError as error:
        raise UserError(f"ONNX needs '{error.name}'; install medpretrain3d[onnx], or export to torch") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        names = {"input_names": ["image"], "output_names": ["logits", "deltas"]}
        graph = torch.onnx.export(_program(network, tile), dynamo=True, verbose=False, **names)  # type: ignore[arg-type]
    assert graph is not None  # None is returned only where a file was asked for
    graph.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: tuple(map(torch.from_numpy, session.run(None, {"image": image.numpy()})))

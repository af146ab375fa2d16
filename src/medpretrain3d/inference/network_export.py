"""The network of a bundle without this package: as an ONNX graph or a `torch.export` program, checked against eager.

Exported is one tile in, raw outputs out: `image` (B, C, D, H, W) float32, windowed to [-1, 1], gives `logits` (B, A, K)
and `deltas` (B, A, 6 or 7; of a heat map 3, 6 or none), of a Deformable DETR `logits` (B, Q, K) and `boxes` (B, Q, 6).
The batch size is free, the tile's size is the bundle's patch. What the numbers mean is written beside it:
`export.json`, and `anchors.npy` (A, 6) where there are anchors or cells. docs/prediction.md tells how they
are decoded.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from medpretrain3d.atomic import finished_folder
from medpretrain3d.configurable import plugins_in, to_config
from medpretrain3d.detection import FCOS, DeformableDETR, Detector, HeatMap, RetinaNet, RetinaUNet
from medpretrain3d.detection.dense import DenseDetector
from medpretrain3d.documents import json_text
from medpretrain3d.errors import UserError
from medpretrain3d.inference.bundle import Bundle

FORMAT, VERSION = "medpretrain3d-network", 1
ExportFormat = Literal["onnx", "torch"]
OUTPUTS: dict[type[Detector], tuple[str, ...]] = {
    RetinaNet: ("logits", "deltas"),
    RetinaUNet: ("logits", "deltas"),
    FCOS: ("logits", "deltas"),
    DeformableDETR: ("logits", "boxes"),
    HeatMap: ("logits", "deltas"),
}
"""The outputs of each detector whose decoding docs/prediction.md tells; not of what is derived from one."""
FILES = {"onnx": "network.onnx", "torch": "network.pt2"}
TOLERANCE = 1e-3
"""Largest difference to eager, relative to the largest value of an output: other runtimes sum in another order."""
OPSET = 20
"""Of ONNX, the first whose `GridSample` reads volumes: what deformable attention is made of."""


class Network(nn.Module):
    """A detector up to its raw outputs.

    Args:
        detector: one of `OUTPUTS`, in evaluation mode.
    """

    def __init__(self, detector: DenseDetector | HeatMap | DeformableDETR) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return image (B, C, D, H, W) -> what the detector calls its outputs."""
        return self.detector.outputs(image)


def export_network(bundle: Bundle, folder: Path, export_format: ExportFormat) -> float:
    """Write the network of a bundle, once its outputs are known to be those of eager execution.

    Args:
        bundle: its detector must be one of `OUTPUTS`.
        folder: receives the network, `export.json` and what else the outputs need; complete or not at all.
        export_format: `onnx`, or `torch` for a file that `torch.export.load` reads.

    Returns:
        The largest difference to eager on a random tile, relative to the largest value of each output.

    Raises:
        UserError: another kind of detector, the libraries of ONNX are missing, the outputs differ, or `folder` exists.
    """
    detector = bundle.detector
    if not isinstance(detector, DenseDetector | HeatMap | DeformableDETR) or type(detector) not in OUTPUTS:
        known = ", ".join(one.__name__ for one in OUTPUTS)
        raise UserError(
            f"{type(detector).__name__} cannot be exported, only {known} can; predict with the bundle itself"
        )
    how = bundle.preprocessing
    network, names = Network(detector.cpu()).eval(), OUTPUTS[type(detector)]
    tile = torch.rand(1, how.num_channels, *how.patch, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad(), finished_folder(folder) as unfinished:
        wanted = network(tile)
        names = names[: len(wanted)]  # a heat map may learn nothing but its values
        path = unfinished / FILES[export_format]
        run = _to_onnx(network, tile, path, names) if export_format == "onnx" else _to_torch(network, tile, path)
        difference = _difference(run(tile), wanted, is_ordered=not isinstance(detector, DeformableDETR))
        if not difference <= TOLERANCE:
            raise UserError(
                f"{folder}: outputs differ from eager by {difference:.2g} of the largest, allowed is {TOLERANCE:g}; "
                "nothing was written, try the other format"
            )
        if not isinstance(detector, DeformableDETR):
            np.save(unfinished / "anchors.npy", detector.anchors_of(tile).numpy())
        shapes = {name: ["B", *output.shape[1:]] for name, output in zip(names, wanted, strict=True)}
        about = _about(bundle, shapes, difference)
        (unfinished / "export.json").write_text(json_text(about, indent=2), encoding="utf-8")
    return difference


def _difference(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...], is_ordered: bool) -> float:
    """Return largest difference of outputs (B, N, ...), each relative to its largest value.

    Compared are equal rows or, without an order, the rows most alike: proposals that are good alike to seven digits may
    become queries in another order.
    """
    scales = [max(float(output.abs().max()), 1e-12) for output in wanted]
    ours, theirs = (torch.cat([a / b for a, b in zip(one, scales, strict=True)], dim=2) for one in (found, wanted))
    if is_ordered:
        return float((ours - theirs).abs().max())
    apart = torch.cdist(ours, theirs, p=torch.inf)
    return max(float(apart.amin(dim=axis).max()) for axis in (1, 2))


def _about(bundle: Bundle, shapes: dict[str, list[Any]], difference: float) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "bundle_sha256": bundle.sha256,
        "classes": list(bundle.classes),
        "image": ["B", bundle.preprocessing.num_channels, *bundle.preprocessing.patch],
        **shapes,
        "detector": to_config(bundle.detector),
        "plugins": plugins_in(to_config(bundle.detector)),
        "preprocessing": bundle.preprocessing.to_json(),
        "inference": asdict(bundle.inference),
        **({"encoder": bundle.provenance["encoder"]} if bundle.provenance.get("encoder") else {}),
        "difference_to_eager": difference,
        "torch": torch.__version__,
    }


Run = Callable[[Tensor], tuple[Tensor, ...]]


def _program(network: nn.Module, tile: Tensor) -> torch.export.ExportedProgram:
    # Traced with two tiles: a batch of one would be taken for a constant.
    batch = {"image": {0: torch.export.Dim("batch")}}
    program = torch.export.export(network, (tile.repeat(2, 1, 1, 1, 1),), dynamic_shapes=batch)
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # names the files of this machine, and is written into either format
    return program


def _to_torch(network: nn.Module, tile: Tensor, path: Path) -> Run:
    payload = io.BytesIO()  # writing to a full disk itself, torch ends the process (terminate in a destructor)
    torch.export.save(_program(network, tile), payload)
    path.write_bytes(payload.getbuffer())
    return torch.export.load(path).module()


def _to_onnx(network: nn.Module, tile: Tensor, path: Path, names: tuple[str, ...]) -> Run:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  what torch.onnx needs
    except ImportError as error:
        raise UserError(f"ONNX needs '{error.name}'; install medpretrain3d[onnx], or export to torch") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        program = _program(network, tile)
        graph = torch.onnx.export(
            program, dynamo=True, verbose=False, opset_version=OPSET, input_names=["image"], output_names=names
        )
    assert graph is not None  # None is returned only where a file was asked for
    graph.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: tuple(map(torch.from_numpy, session.run(None, {"image": image.numpy()})))

"""One check per library: it is used as this package uses it, on something small whose result is known.

Each function prints a version and raises where the library does not do what is asked of it. `doctor` calls each in a
process of its own, since a library that does not fit may end the process.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any

import numpy as np

CONVNEXT_LAYOUT = "ec9bf1621a50"
"""Of the names and shapes of the weights of `InflatedCNN("convnext_atto")`."""
CONVNEXT_FEATURES = (0.868758, 6.47152, 54.7668, 75.1895)
"""Mean magnitude of its maps, finest first, for weights and an image that `timm` below sets."""

OF_TIMM = ("wandb",)
OF_MONAI = (
    *("huggingface_hub", "ignite", "matplotlib", "mlflow", "nibabel", "optuna", "pandas", "pydicom", "requests"),
    *("scipy", "skimage", "tensorboard", "transformers"),
)
"""Libraries that MONAI imports where they are installed, and that SwinUNETR does without."""


def versions() -> None:
    """Compare what is installed with the bounds of this package, which are the lowest versions it is tested with.

    An extra (`onnx`, `tables`, `dicom`) may be missing, but not too old.
    """
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(one) for one in requires("medpretrain3d") or ()]
    except PackageNotFoundError:
        print("not compared: medpretrain3d itself is not installed")
        return
    extras = metadata("medpretrain3d").get_all("Provides-Extra") or []
    faults, count = [], 0
    for one in requirements:
        is_needed = one.marker is None or one.marker.evaluate({"extra": ""})
        is_optional = not is_needed and any(one.marker.evaluate({"extra": extra}) for extra in extras if one.marker)
        try:
            found = version(one.name)
        except PackageNotFoundError:
            found = None
        if found is None and is_needed:
            faults.append(f"{one.name} is missing (wanted {one.specifier})")
        elif found is not None and (is_needed or is_optional):
            count += 1
            if not one.specifier.contains(found, prereleases=True):
                faults.append(f"{one.name} {found} (wanted {one.specifier})")
    _require(not faults, "; ".join(faults))
    print(f"{count} libraries within their bounds")


def torch() -> None:
    """A 3D convolution with ones is a sum, forward and backward."""
    import torch

    image = torch.arange(125.0).reshape(1, 1, 5, 5, 5).requires_grad_()
    found = torch.nn.functional.conv3d(image, torch.ones(1, 1, 3, 3, 3))
    _require(torch.allclose(found, torch.nn.functional.avg_pool3d(image, 3, 1) * 27), "3D convolutions are wrong")
    found.sum().backward()
    _require(image.grad is not None and bool(image.grad.sum() == 27 * 27), "gradients of 3D convolutions are wrong")
    print(torch.__version__)


def timm() -> None:
    """A ConvNeXt has the weights and gives the features that it had when this package was tested."""
    _leave_out(OF_TIMM)
    import timm
    import torch

    from medpretrain3d.backbones import InflatedCNN

    with torch.device("meta"):  # as when a checkpoint is read
        InflatedCNN("convnext_atto")
    encoder = InflatedCNN("convnext_atto").eval()
    weights = sorted((name, tuple(value.shape)) for name, value in encoder.state_dict().items())
    layout = hashlib.sha256(repr(weights).encode()).hexdigest()[:12]
    _require(
        layout == CONVNEXT_LAYOUT,
        f"timm {timm.__version__} builds another ConvNeXt than this package knows: encoder files would not fit",
    )
    with torch.no_grad():
        for value in encoder.parameters():
            value.copy_(torch.linspace(-0.1, 0.2, value.numel()).view_as(value))
        maps = encoder(torch.linspace(-1, 1, 32**3).view(1, 1, 32, 32, 32))
    found = [float(one.abs().mean()) for one in maps]
    _require(
        np.allclose(found, CONVNEXT_FEATURES, rtol=1e-3),
        f"timm {timm.__version__} computes other features of a ConvNeXt than this package was tested with",
    )
    print(timm.__version__)


def monai() -> None:
    """The blocks that SwinUNETR is made of."""
    _leave_out(OF_MONAI)
    import monai
    import torch

    from medpretrain3d.backbones import SwinUNETR

    with torch.no_grad():
        maps = SwinUNETR(feature_size=12).eval()(torch.zeros(1, 1, 32, 32, 32))
    _require(all(bool(one.isfinite().all()) for one in maps), "SwinUNETR's features are not finite")
    print(monai.__version__)


def blosc2() -> None:
    """Arrays of twelve sizes come back as they were written."""
    import blosc2

    from medpretrain3d.store.arrays import read_crop, write_array

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.b2nd"
        for edge in range(20, 140, 10):
            array = np.arange(edge**3, dtype=np.int16).reshape(1, edge, edge, edge)
            write_array(path, array)
            crop = read_crop(path, (3, 4, 5), (9, 9, 9), (0,))
            _require(bool((crop == array[:, 3:12, 4:13, 5:14]).all()), "an array was read otherwise than written")
            path.unlink()
    print(blosc2.__version__)


def numba() -> None:
    """Cubes shifted by half their edge overlap by 1/15, whichever loop computes it."""
    import numba
    import torch

    from medpretrain3d.boxes import box_iou

    cubes = torch.arange(2000.0)[:, None] * 10 + torch.tensor([[0.0, 0, 0, 2, 2, 2]])
    _require(torch.allclose(box_iou(cubes, cubes + 1).diagonal(), torch.tensor(1 / 15)), "overlaps of boxes are wrong")
    print(numba.__version__)


def scipy() -> None:
    """An assignment and a filter of known results."""
    import scipy
    from scipy.ndimage import gaussian_filter1d, map_coordinates
    from scipy.optimize import linear_sum_assignment

    _require(linear_sum_assignment(np.array([[2, 1], [1, 2]]))[1].tolist() == [1, 0], "assignments are wrong")
    _require(bool(np.allclose(gaussian_filter1d(np.ones(9), 1.0), 1)), "filters are wrong")
    _require(map_coordinates(np.array([0.0, 2.0]), [[0.5]], order=1)[0] == 1, "interpolation is wrong")
    print(scipy.__version__)


def nibabel() -> None:
    """A scan comes back as it was written."""
    import nibabel

    with tempfile.TemporaryDirectory() as folder:
        voxels = np.arange(8, dtype=np.int16).reshape(2, 2, 2)
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1, 2, 3, 1])), f"{folder}/scan.nii.gz")
        scan: Any = nibabel.load(f"{folder}/scan.nii.gz")
        _require(bool((np.asarray(scan.dataobj) == voxels).all()), "a scan was read otherwise than written")
        _require(scan.header.get_zooms() == (1, 2, 3), "a spacing was read otherwise than written")
    print(nibabel.__version__)


def safetensors() -> None:
    """Weights come back as they were written."""
    import safetensors
    import torch
    from safetensors.torch import load_file, save_file

    with tempfile.TemporaryDirectory() as folder:
        save_file({"weight": torch.arange(3.0)}, f"{folder}/weights.safetensors", {"note": "x"})
        read = load_file(f"{folder}/weights.safetensors")["weight"]
        _require(read.tolist() == [0, 1, 2], "weights were read otherwise than written")
    print(safetensors.__version__)


def cc3d() -> None:
    """Two voxels that touch by a corner are one object of 26 neighbors and two of 6."""
    import cc3d

    mask = np.zeros((2, 2, 2), dtype=np.uint8)
    mask[0, 0, 0] = mask[1, 1, 1] = 1
    found = [int(cc3d.connected_components(mask, connectivity=one).max()) for one in (6, 26)]
    _require(found == [2, 1], "connected components are wrong")
    print(version("connected-components-3d"))


def pictures() -> None:
    """A plot and a text become files."""
    import matplotlib

    matplotlib.use("Agg")
    import PIL
    from matplotlib import pyplot
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("L", (40, 20))
    ImageDraw.Draw(picture).text((1, 1), "CT", fill=255, font=ImageFont.load_default(12))
    _require(np.asarray(picture).max() > 100, "Pillow draws no text")
    with tempfile.TemporaryDirectory() as folder:
        pyplot.figure()
        pyplot.plot([0, 1])
        pyplot.savefig(f"{folder}/plot.svg")
        _require("</svg>" in Path(folder, "plot.svg").read_text(encoding="utf-8"), "matplotlib writes no SVG")
    print(f"matplotlib {matplotlib.__version__}, Pillow {PIL.__version__}")


def threads() -> None:
    """How many this machine gives to one process."""
    import torch

    from medpretrain3d.threads import use_threads

    message = use_threads()
    _require(torch.ones(64, 64).mm(torch.ones(64, 64)).sum().item() == 64.0**3, "torch multiplies wrongly")
    print(message)


def cuda() -> None:
    """Which GPU there is."""
    import torch

    print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU; training runs on the CPU")


def cudnn() -> None:
    """A version whose 3D convolutions are right."""
    import torch

    found = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    _require(
        found is None or found >= 91600,
        f"{found}: 3D convolutions in bf16 and TF32 are broken before 9.16; update cuDNN",
    )
    print("not used" if found is None else found)


def precision() -> None:
    """The precision that networks run in here, and why."""
    import torch

    from medpretrain3d.precision.choice import choose_precision

    choice = choose_precision("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{choice.precision}: {choice.reason}; others by --trainer.precision and --precision")


def _leave_out(libraries: Sequence[str]) -> None:
    """Let a library be imported without others that it can do without: three quarters of the CPU time of MONAI."""
    for name in libraries:
        sys.modules[name] = None  # type: ignore[assignment]  # Python's own way: an import of it fails


def _require(is_right: bool, fault: str) -> None:
    if not is_right:
        raise SystemExit(fault)

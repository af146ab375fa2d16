"""A figure per objective: what it shows the network and what it asks of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from _generate.figures import (
    CANDIDATE,
    CASES,
    OBJECT,
    OTHER,
    PATCH,
    SPACING_MM,
    batch,
    outline,
    panels,
    phantom_crop,
)
from medpretrain3d.backbones import ResEnc, ViT
from medpretrain3d.loading.views import shared_volume
from medpretrain3d.objectives import (
    MAE,
    ModelsGenesis,
    Objective,
    SimMIM,
    SliceWise,
    SparK,
    SwinMultiTask,
    VolumeFusion,
)
from medpretrain3d.phantom import make_case
from medpretrain3d.pseudo import find_pseudo_objects
from medpretrain3d.store import Window


def _tiny() -> ResEnc:
    torch.manual_seed(0)
    return ResEnc("XXS")


def _vit() -> ViT:
    torch.manual_seed(0)
    return ViT("XXS", patch_size=(8, 8, 8), position_grid=(4, 8, 8))


def _preview(make: Callable[[], Objective], titles: dict[str, str], is_pair: bool = False) -> Callable[[], Figure]:
    """Draw some of the preview that an objective gives of its first step, under titles of their own."""

    def draw() -> Figure:
        fed = batch()
        if is_pair:
            fed = {"image": fed["image"][None], "seed": fed["seed"][:1]}
        with torch.no_grad():
            preview = make()(fed).preview
        return panels({title: preview[name] for name, title in titles.items()}, phantom_crop().slice)

    return draw


MASKED = {"input": "the crop: the target", "masked": "what is left: the input"}


def _two_views() -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
    """A slice, and two overlapping crops of it of which the second is mirrored; where the second lies."""
    crop = phantom_crop()
    whole = crop.image[crop.slice]
    edge, shift = 44, (14, 18)
    first, second = whole[:edge, :edge], whole[shift[0] : shift[0] + edge, shift[1] : shift[1] + edge]
    return whole, first, second.flip(1), shift


def draw_two_views() -> Figure:
    """Two crops of a volume, and where they lie."""
    whole, first, second, (down, right) = _two_views()
    figure = panels({"two crops of one volume": whole, "view 1": first, "view 2, mirrored": second})
    edge = first.shape[0]
    outline(figure.axes[0], (0, 0, 0, 0, edge, edge), OBJECT, 2)
    outline(figure.axes[0], (0, down, right, 0, down + edge, right + edge), CANDIDATE, 2)
    return figure


def draw_multi_crop() -> Figure:
    """Two global crops, of which one has hidden tokens, and where local ones lie."""
    whole, first, second, (down, right) = _two_views()
    hidden = np.kron(np.pad(np.ones((3, 4), bool), ((2, 6), (5, 2))), np.ones((4, 4), bool))
    student = first.masked_fill(torch.from_numpy(hidden), 0.0)
    figure = panels({"two global crops, local ones": whole, "student: hidden tokens": student, "teacher": second})
    edge = first.shape[0]
    outline(figure.axes[0], (0, 0, 0, 0, edge, edge), OBJECT, 2)
    outline(figure.axes[0], (0, down, right, 0, down + edge, right + edge), CANDIDATE, 2)
    for h, w in ((6, 8), (24, 30), (34, 12)):
        outline(figure.axes[0], (0, h, w, 0, h + 16, w + 16), OTHER, 1.5)
    return figure


def draw_consistent_views() -> Figure:
    """Two views, of which the student sees the first in part."""
    whole, first, second, (down, right) = _two_views()
    hidden = np.kron(np.random.default_rng(3).random((11, 11)) < 0.75, np.ones((4, 4), bool))
    student = first.masked_fill(torch.from_numpy(hidden), 0.0)
    figure = panels({"two crops of one volume": whole, "student: view 1, hidden": student, "teacher: view 2": second})
    edge = first.shape[0]
    outline(figure.axes[0], (0, 0, 0, 0, edge, edge), OBJECT, 2)
    outline(figure.axes[0], (0, down, right, 0, down + edge, right + edge), CANDIDATE, 2)
    outline(figure.axes[1], (0, down, right, 0, edge - 0.5, edge - 0.5), CANDIDATE, 1.5)
    return figure


def draw_grid() -> Figure:
    """Base crops, a random crop, and the share of it in each of them."""
    crop = phantom_crop()
    edge = 32
    bases = np.array([[0, h, w] for h in (0, edge) for w in (0, edge)])
    target = np.array([[0, 10, 22]])
    shares = shared_volume(target, bases, (PATCH[0], edge, edge))[0]
    figure = panels({"base crops and a target": crop.image[crop.slice]}, width=4.2)
    ax = figure.axes[0]
    for (_, h, w), share in zip(bases, shares, strict=True):
        outline(ax, (0, h, w, 0, h + edge - 0.5, w + edge - 0.5), CANDIDATE, 1.5)
        box = {"facecolor": "black", "alpha": 0.6, "edgecolor": "none"}
        ax.text(w + 2, h + 4, f"{share:.2f}", color=CANDIDATE, fontsize=11, bbox=box)
    outline(ax, (0, *target[0, 1:], 0, *(target[0, 1:] + edge)), OBJECT, 2.5)
    return figure


def draw_labels() -> Figure:
    """One crop as two data sets label it."""
    crop = phantom_crop()
    tissue = (crop.image > -0.4).long()
    nodules = (crop.instances > 0).long()
    return panels(
        {"the crop": crop.image, "outputs of set 1: nodule": nodules, "outputs of set 2: tissue": tissue}, crop.slice
    )


def draw_case_label() -> Figure:
    """A crop and the label of its case."""
    crop = phantom_crop()
    figure = panels({'label of the case: "nodule"': crop.image[crop.slice]}, width=3.6)
    return figure


def draw_pseudo_objects() -> Figure:
    """A slice of a scan with the boxes of its pseudo-objects, a color a kind."""
    image = make_case(seed=0, index=CASES[0], spacing_mm=SPACING_MM).image
    found = find_pseudo_objects(image, (SPACING_MM,) * 3)
    middle = image.shape[0] // 2
    figure = panels({"found without labels, here ribs": Window(-1000, 400)(image)}, middle, width=4.2)
    colors = {"bone": OBJECT, "air": CANDIDATE, "tissue": OTHER}
    for region in found.regions:
        if region.box_vox[0] <= middle < region.box_vox[3]:
            outline(figure.axes[0], np.array(region.box_vox) - 0.5, colors[region.kind], 1.5)
    return figure


VIEWS = "Two crops of one volume that overlap; in training the second is augmented differently as well. "
FIGURES: dict[str, tuple[Callable[[], Figure], str]] = {
    "MAE": (
        _preview(lambda: MAE(_tiny(), 0.75, mask_block=(8, 8, 8)), MASKED),
        "Three quarters of the blocks are hidden; the network restores them from the others.",
    ),
    "SimMIM": (
        _preview(lambda: SimMIM(_vit(), 0.5), MASKED),
        "Hidden patches are replaced by a learned token, and all tokens pass through the encoder.",
    ),
    "SparK": (
        _preview(lambda: SparK(_tiny(), 0.6), MASKED),
        "Hidden blocks are not read at all: convolutions and norms see what is visible at every stage.",
    ),
    "SliceWise": (
        _preview(lambda: SliceWise(_tiny(), 0.75, slab=4, orientation="coronal"), MASKED),
        "Whole slabs are hidden, here of coronal slices, and restored from those between which they lie.",
    ),
    "ModelsGenesis": (
        _preview(
            lambda: ModelsGenesis(_tiny(), flip_p=0.0, shuffle_p=1.0, curve_p=1.0, paint_p=1.0, in_paint_share=1.0),
            {"input": "the crop: the target", "distorted": "distorted: the input"},
        ),
        "Voxels shuffled in small blocks, an intensity curve, and painting over: all of it is to be undone.",
    ),
    "VolumeFusion": (
        _preview(
            lambda: VolumeFusion(_tiny(), num_boxes=(6, 10), box_edge=(8, 28)),
            {"fused": "two volumes fused: the input", "coefficient": "share of the first: the target"},
            is_pair=True,
        ),
        "In random boxes one volume is mixed into another; the share is to be told at every voxel.",
    ),
    "SwinMultiTask": (
        _preview(
            lambda: SwinMultiTask(_tiny(), contrast_channels=16),
            {"input": "a rotated view: the target", "masked": "boxes cut out: the input"},
        ),
        "A view is turned by a multiple of 90 degrees, boxes are cut out: tell the turn, restore, know the other view.",
    ),
    "SimCLR": (draw_two_views, VIEWS + "Each is to be known as the other's pair among all crops of the batch."),
    "DINO": (draw_two_views, VIEWS + "The student puts each into the class that the slow teacher gives the other."),
    "DINOv2": (
        draw_multi_crop,
        "The student gives global and small local crops the class that the slow teacher gives another global crop, and "
        "hidden tokens the one that the teacher, who sees them, gives them.",
    ),
    "ConsistentViews": (
        draw_consistent_views,
        "The student sees a part of its view, restores the rest, and says what the teacher sees where both overlap.",
    ),
    "VoCo": (
        draw_grid,
        "Base crops tile a region (cyan); the share of a random crop (yellow) in each of them is to be predicted.",
    ),
    "MultiTalent": (
        draw_labels,
        "Each data set has outputs of its own: what one calls background may be an object of another.",
    ),
    "DetectorPretraining": (
        draw_pseudo_objects,
        "A whole detector learns to find what nobody labelled: bone, air inside the body, basins of soft tissue.",
    ),
    "CaseClassification": (draw_case_label, "The label of a whole case is to be told from a crop of it."),
}

"""MONAI's RetinaNet detector as its tutorial on LUNA16 builds it, for crops and strides of another data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.apps.detection.networks.retinanet_network import RetinaNet
from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape
from monai.networks.blocks.backbone_fpn_utils import BackboneWithFPN
from monai.networks.blocks.feature_pyramid_network import LastLevelMaxPool
from monai.networks.nets import resnet

from benchmarks.same_minutes.adapter import BOX, LABEL
from benchmarks.same_minutes.task import Size

RETURNED_LAYERS = (1, 2)
NUM_LEVELS = len(RETURNED_LAYERS) + 1
"""The pyramid pools its last level once more."""
WHOLE_VOLUME_SCALE = 2.6
"""Edge of the tutorial's validation patch in edges of its training patch: what is smaller is looked at whole."""


@dataclass(frozen=True)
class MonaiOptions:
    """What is tuned of MONAI's recipe.

    `lr` is the peak learning rate of SGD, `width` the channels of pyramid and heads, 256 in the tutorial. A step sees
    `crops` of one scan. `finest_stride` is that of the first level in voxels.
    """

    finest_stride: int
    lr: float = 1e-2
    width: int = 256
    crops: int = 4


def build_detector(
    num_channels: int,
    num_classes: int,
    anchor_sizes: Sequence[Sequence[Size]],
    finest_stride: int,
    patch: Sequence[int],
    width: int,
) -> RetinaNetDetector:
    """Return ResNet-50 with a pyramid, ATSS, hard negatives, and the selection of boxes of the tutorial.

    Args:
        num_channels: of the image.
        num_classes: without background.
        anchor_sizes: extents (d, h, w) in voxels, the same number on each of `NUM_LEVELS` levels.
        finest_stride: of the first level in voxels, at least 2: half of it is the stride of the first convolution.
        patch: crop (D, H, W) of the training, in voxels.
        width: channels of pyramid and heads.
    """
    first_stride = finest_stride // 2  # a pooling by 2 follows
    backbone = resnet.ResNet(
        block=resnet.ResNetBottleneck,
        layers=[3, 4, 6, 3],
        block_inplanes=resnet.get_inplanes(),
        n_input_channels=num_channels,
        conv1_t_stride=first_stride,
        conv1_t_size=max(7, 2 * first_stride + 1),
    )
    second = backbone.in_planes // 8
    # What resnet_fpn_feature_extractor makes, whose width is 256.
    features = BackboneWithFPN(
        backbone,
        {f"layer{layer}": str(place) for place, layer in enumerate(RETURNED_LAYERS)},
        [second * 2 ** (layer - 1) for layer in RETURNED_LAYERS],
        width,
        extra_blocks=LastLevelMaxPool(3),
        spatial_dims=3,
    )
    anchors = AnchorGeneratorWithAnchorShape([2**level for level in range(NUM_LEVELS)], anchor_sizes[0])
    anchors.cell_anchors = [anchors.generate_anchors_using_shape(torch.tensor(sizes)) for sizes in anchor_sizes]
    network = RetinaNet(3, num_classes, len(anchor_sizes[0]), features, finest_stride * 2 ** max(RETURNED_LAYERS))
    detector = RetinaNetDetector(network, anchors)
    detector.set_atss_matcher(num_candidates=4, center_in_gt=False)
    detector.set_hard_negative_sampler(batch_size_per_image=64, positive_fraction=0.3, pool_size=20, min_neg=16)
    detector.set_target_keys(box_key=BOX, label_key=LABEL)
    detector.set_box_selector_parameters(
        score_thresh=0.02, topk_candidates_per_level=1000, nms_thresh=0.22, detections_per_img=100
    )
    detector.set_sliding_window_inferer(
        roi_size=[round(WHOLE_VOLUME_SCALE * edge / 16) * 16 for edge in patch],
        overlap=0.25,
        sw_batch_size=1,
        mode="constant",
        device="cpu",
    )
    return detector

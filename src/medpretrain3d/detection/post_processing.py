"""From what dense heads say of an image to its detections."""

from __future__ import annotations

import torch
from torch import Tensor

from medpretrain3d.boxes import Detections, classwise_nms, clip_boxes, has_extent
from medpretrain3d.configurable import Configurable
from medpretrain3d.detection.box_grid import Shape
from medpretrain3d.detection.coder import BoxCoder
from medpretrain3d.values import Rows, Share


class PostProcessing(Configurable):
    """The best anchor-class pairs, decoded, clipped to the image and suppressed within classes.

    A head that says more than six deltas has a subclass, which reads them.

    Args:
        score_threshold: detections below it are not returned.
        nms_iou: overlap within a class above which the lower score goes.
        candidates_per_image: best anchor-class pairs that are decoded and compared.
        detections_per_image: detections returned at most.

    Example:
        >>> import torch
        >>> from medpretrain3d.detection import BoxCoder, PostProcessing
        >>> anchors = torch.tensor([[0.0, 0, 0, 4, 4, 4], [0, 0, 1, 4, 4, 5], [4, 4, 4, 9, 9, 9]])
        >>> logits, deltas, finite = torch.tensor([[2.0], [1.0], [0.0]]), torch.zeros(3, 6), torch.ones(3).bool()
        >>> found = PostProcessing(
        ...     score_threshold=0.1, nms_iou=0.5, candidates_per_image=10, detections_per_image=10
        ... )(logits, deltas, finite, anchors, BoxCoder(), (8, 8, 8))
        >>> found.boxes  # the second overlaps the first by 0.6, the third is cut
        tensor([[0., 0., 0., 4., 4., 4.],
                [4., 4., 4., 8., 8., 8.]])
    """

    def __init__(
        self, score_threshold: Share, nms_iou: Share, candidates_per_image: Rows, detections_per_image: Rows
    ) -> None:
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        self.candidates_per_image = candidates_per_image
        self.detections_per_image = detections_per_image

    def scores(self, logits: Tensor, outputs: Tensor) -> Tensor:
        """Compute the score of each class at each anchor (A, K), of the heads' outputs (A, K) and (A, V)."""
        return logits.sigmoid()

    def boxes(self, outputs: Tensor, anchors: Tensor, coder: BoxCoder) -> Tensor:
        """Decode boxes (N, 6) of some anchors (N, 6), of the box head's outputs (N, V)."""
        return coder.decode(outputs, anchors)

    def __call__(
        self, logits: Tensor, outputs: Tensor, finite: Tensor, anchors: Tensor, coder: BoxCoder, image_shape: Shape
    ) -> Detections:
        """Return detections of an image, best score first.

        Args:
            logits: (A, K) float32.
            outputs: (A, V) float32 of the box head.
            finite: (A,) bool, anchors whose predictions are.
            anchors: (A, 6).
            coder: deltas to boxes.
            image_shape: (D, H, W).
        """
        scores = self.scores(logits, outputs).masked_fill(~finite[:, None], -1.0)
        # Top-k before decoding: most anchors are background, and decoding is what costs.
        best = scores.flatten().topk(min(self.candidates_per_image, scores.numel()))
        num_classes = logits.shape[1]
        anchor, label = best.indices // num_classes, best.indices % num_classes
        boxes = clip_boxes(self.boxes(outputs[anchor], anchors[anchor], coder), image_shape)
        keep = (best.values >= max(0.0, self.score_threshold)) & has_extent(boxes)
        found = Detections(boxes, best.values, label)[torch.nonzero(keep)[:, 0]]
        return classwise_nms(found, self.nms_iou)[: self.detections_per_image]

"""From what dense heads say of an image to its detections."""

from __future__ import annotations

import torch
from torch import Tensor

from medpretrain3d.boxes import Detections, batched_nms, clip_boxes, has_extent
from medpretrain3d.configurable import Configurable
from medpretrain3d.detection.box_grid import Shape
from medpretrain3d.detection.coder import BoxCoder
from medpretrain3d.transfer import to_host
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
        """Return detections of an image, best score first, on the CPU.

        Args:
            logits: (A, K) float32.
            outputs: (A, V) float32 of the box head.
            finite: (A,) bool, anchors whose predictions are.
            anchors: (A, 6).
            coder: deltas to boxes.
            image_shape: (D, H, W).
        """
        candidates = self.candidates(logits[None], outputs[None], finite[None], anchors, coder, image_shape)
        return self.suppress(*to_host(candidates))[0]

    def candidates(
        self, logits: Tensor, outputs: Tensor, finite: Tensor, anchors: Tensor, coder: BoxCoder, image_shape: Shape
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the best anchor-class pairs of each image, best first, on the device of the predictions.

        Args:
            logits: (B, A, K) float32.
            outputs: (B, A, V) float32 of the box head.
            finite: (B, A) bool, anchors whose predictions are.
            anchors: (A, 6).
            coder: deltas to boxes.
            image_shape: (D, H, W).

        Returns:
            Clipped boxes (B, N, 6), scores (B, N), and labels (B, N) int64.
        """
        num_images, num_classes = len(logits), logits.shape[2]
        scores = self.scores(logits.flatten(0, 1), outputs.flatten(0, 1))
        scores = scores.masked_fill(~finite.flatten()[:, None], -1.0).view(num_images, -1)
        # Top-k before decoding: most anchors are background, and decoding is what costs.
        best = scores.topk(min(self.candidates_per_image, scores.shape[1]), dim=1)
        anchor, label = best.indices // num_classes, best.indices % num_classes
        of_anchor = outputs.gather(1, anchor[:, :, None].expand(-1, -1, outputs.shape[2])).flatten(0, 1)
        boxes = clip_boxes(self.boxes(of_anchor, anchors[anchor.flatten()], coder), image_shape)
        return boxes.view(num_images, -1, 6), best.values, label

    def suppress(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> list[Detections]:
        """Return the detections of each image, best score first, of its candidates; all on the CPU.

        The classes of all images are suppressed in one call, by the compiled kernel: a few thousand boxes an image are
        one copy of some hundred kilobytes, where a GPU needs a dozen waits for each class.

        Args:
            boxes: (B, N, 6).
            scores: (B, N).
            labels: (B, N).
        """
        keep = (scores >= max(0.0, self.score_threshold)) & has_extent(boxes)
        image = torch.nonzero(keep)[:, 0]
        found = Detections(boxes[keep], scores[keep], labels[keep])
        groups = image * (1 + int(labels.max())) + found.labels if len(image) else image
        kept = batched_nms(found.boxes, found.scores, groups, self.nms_iou)  # by image, class, and score
        found, image = found[kept], image[kept]
        order = found.scores.argsort(descending=True, stable=True)
        order = order[image[order].argsort(stable=True)]
        counts = torch.bincount(image, minlength=len(boxes)).tolist()
        return [found[of_image[: self.detections_per_image]] for of_image in order.split(counts)]

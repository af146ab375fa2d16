"""Masked autoencoding whose features agree with those of another view, place by place."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from einops import rearrange
from torch import Tensor, nn

from medpretrain3d.backbones import Backbone, TokenBackbone
from medpretrain3d.backbones.tokens import keep_tokens, tokens_to_map
from medpretrain3d.objectives.alignment import carry, cell_centers, sample_at, view_pictures
from medpretrain3d.objectives.base import Batch, ObjectiveOutput, seeds_of_views
from medpretrain3d.objectives.mae import MAE
from medpretrain3d.objectives.masked import hidden_tokens, visible_index
from medpretrain3d.objectives.masking import Triple, expand_blocks
from medpretrain3d.objectives.nt_xent import nt_xent
from medpretrain3d.objectives.projector import Projector, refuse_branches
from medpretrain3d.objectives.teacher import Teacher
from medpretrain3d.processes import mean_over_samples
from medpretrain3d.randomness import sample_seeds
from medpretrain3d.values import Channels, LayersOrNone, NonNegative, OpenShare, OpenShares, Positive, Share, Sizes


class ConsistentViews(MAE):
    """A student sees part of a view, restores the rest, and says what a teacher sees there in the other view.

    The recipe that won the transformer track of the SSL3D challenge: 5 x Huber on hidden voxels + 1 x cosine distance
    of features at places that both views show + 0.1 x NT-Xent of their means. The teacher is a moving average of the
    student and sees its view whole. Start from an encoder that was pretrained with MAE (`init_from`). Wants
    `data.views` TwoViews.

    Args:
        backbone: the encoder to train; features are those of its coarsest level, of visible tokens in a transformer.
        mask_ratio: share of blocks that are hidden; of a pair (a, b) a share is drawn for each batch of all processes.
        mask_block: block (D, H, W) in voxels; by default 16^3, for a transformer its patch.
        decoder_depth: transformer blocks of a transformer's decoder.
        projector_channels: outputs of the projector's linear maps; the predictor has as many.
        weights: of restoring, aligning and contrasting.
        momentum: of the teacher.
        temperature: of NT-Xent.

    Raises:
        UserError: as MAE, or a backbone with branches for detection; in `forward`, one sample over all processes.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.objectives import ConsistentViews
        >>> objective = ConsistentViews(ResEnc("XXS"), 0.5, mask_block=(4, 4, 4), projector_channels=(32, 16))
        >>> batch = {"image": torch.rand(2, 2, 1, 16, 16, 16), "seed": torch.tensor([0, 1])}
        >>> batch["affine"] = torch.eye(3, 4).expand(2, 2, 3, 4)  # from a view's voxels to those of the volume
        >>> output = objective(batch)
        >>> output.loss.backward()
        >>> output.loss.shape, sorted(output.logs)
        (torch.Size([]), ['align', 'contrast', 'restore', 'shared_places'])
    """

    paradigm = "contrastive"
    views = ("TwoViews",)

    def __init__(
        self,
        backbone: Backbone,
        mask_ratio: OpenShare | OpenShares = 0.75,
        mask_block: Sizes | None = None,
        decoder_depth: LayersOrNone = 2,
        projector_channels: Annotated[tuple[Channels, ...], MinLen(1)] = (2048, 256),
        weights: tuple[NonNegative, NonNegative, NonNegative] = (5.0, 1.0, 0.1),
        momentum: Share = 0.995,
        temperature: Positive = 0.5,
    ) -> None:
        refuse_branches("ConsistentViews", backbone)
        super().__init__(backbone, mask_ratio, mask_block, decoder_depth=decoder_depth)
        self.weights = weights
        self.temperature = temperature
        self.projector = Projector(backbone.levels[-1].channels, projector_channels, with_norm=True)
        # Only the student predicts: what keeps both from becoming the same constant (Grill et al., 2020).
        self.predictor = Projector(projector_channels[-1], projector_channels, with_norm=True)
        self.teacher = Teacher(self._student(), momentum)

    def _student(self) -> nn.Module:
        return nn.Sequential(self.backbone, _Cells(), self.projector)

    def after_load(self) -> None:
        """The teacher begins as the student."""
        self.teacher.start_from(self._student())

    def after_step(self) -> None:
        """The teacher follows."""
        self.teacher.follow(self._student())

    def mask_seeds(self, seed: Tensor) -> Tensor:
        """Two seeds of each sample: its views hide different blocks."""
        return seeds_of_views(seed, 2)

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """Return `image` (B, 2, C, D, H, W), `affine` (B, 2, 3, 4), `seed` (B,) to the loss and its three parts."""
        image = rearrange(batch["image"], "b v c d h w -> (v b) c d h w")
        d, h, w = image.shape[2:]
        patch = (d, h, w)
        hidden_blocks = self.draw_mask(batch, patch, self.mask_block)
        hidden = expand_blocks(hidden_blocks.to(image.device, non_blocking=True), self.mask_block)  # (2 B, 1, D, H, W)
        with sample_seeds(seeds_of_views(batch["seed"], 2)):
            restored, cells, places = self._see(image, hidden_blocks, hidden)
        seen = self.projector(cells)  # (2 B, N, C)
        message = self.teacher(image)  # (2 B, M, C)

        own = rearrange(batch["affine"], "b v i j -> (v b) i j").float()
        other = torch.cat(own.chunk(2)[::-1])
        # What the teacher sees of the other view, in the order of the student's views.
        other_told = torch.cat(message.chunk(2)[::-1])
        grid = self._grid(patch)
        target, inside = sample_at(tokens_to_map(other_told, grid), carry(places, own, other), patch)
        restore = hidden_huber(restored, image, hidden)
        align = cosine_distance(self.predictor(seen), target, inside)
        means = [rows.float().mean(dim=1).chunk(2) for rows in (seen, other_told)]
        # One loss per direction: in one for both, the two views of a sample would be told apart.
        directions = [nt_xent(student, teacher, self.temperature) for student, teacher in zip(*means, strict=True)]
        contrast = torch.stack(directions).mean()
        loss = self.weights[0] * restore + self.weights[1] * align + self.weights[2] * contrast
        logs = {"restore": restore, "align": align, "contrast": contrast, "shared_places": inside.float().mean()}
        return ObjectiveOutput(
            loss,
            {name: value.detach() for name, value in logs.items()},
            {} if self.training else view_pictures(batch) | _restoration(image, restored, hidden),
        )

    def _see(self, image: Tensor, hidden_blocks: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the restored image, features (2 B, N, C), and their places (2 B, N, 3) in voxels."""
        patch = (image.shape[2], image.shape[3], image.shape[4])
        grid = self._grid(patch)
        places = cell_centers(grid, patch, image.device).expand(len(image), -1, -1)
        if not isinstance(self.backbone, TokenBackbone):
            features = self.backbone(image.masked_fill(hidden, 0.0))
            return self.decoder(features), _Cells()(features), places
        tokens = hidden_tokens(hidden_blocks, self.mask_block, self.backbone.patch_size)
        keep_index = visible_index(tokens, image.device)
        visible = self.backbone.encode(self.backbone.embed(image), grid, keep_index)
        return (
            self.decoder(visible, grid, keep_index),
            visible,
            keep_tokens(places, keep_index),
        )

    def _grid(self, patch: Triple) -> Triple:
        """Return cells of the coarsest level along each axis."""
        d, h, w = (size // step for size, step in zip(patch, self.backbone.levels[-1].stride, strict=True))
        return (d, h, w)


class _Cells(nn.Module):
    """The coarsest of some maps as rows (B, N, C), W fastest."""

    def forward(self, features: list[Tensor]) -> Tensor:
        return rearrange(features[-1], "b c d h w -> b (d h w) c")


def hidden_huber(restored: Tensor, image: Tensor, hidden: Tensor) -> Tensor:
    """Return mean Huber loss, with a bend at 1, over hidden voxels; shapes as in `masked_mse`."""
    error = F.huber_loss(restored.float(), image.float(), reduction="none")
    hidden = hidden.expand_as(error)
    return mean_over_samples((error * hidden).sum(), hidden.sum())


def cosine_distance(predicted: Tensor, target: Tensor, inside: Tensor) -> Tensor:
    """Return mean of 1 - cosine over places that both views show, then over views; a view that shares no place has 0.

    `predicted` and `target` are (B, N, C), `inside` is (B, N) bool.
    """
    distance = (1 - F.cosine_similarity(predicted.float(), target.float(), dim=2)) * inside
    return (distance.sum(dim=1) / inside.sum(dim=1).clamp(min=1)).mean()


@torch.no_grad()
def _restoration(image: Tensor, restored: Tensor, hidden: Tensor) -> dict[str, Tensor]:
    """View 1 as `input`, with its hidden blocks blanked, and with what was restored there."""
    first, blocks = image[0, 0].float(), hidden[0, 0]
    return {
        "input": first,
        "masked": first.masked_fill(blocks, 0.0),
        "restored": restored[0, 0].float().where(blocks, first),
    }

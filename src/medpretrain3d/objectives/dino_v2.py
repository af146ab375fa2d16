"""Self-distillation of class tokens and of masked patch tokens at once."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import MinLen
from einops import rearrange
from torch import Tensor, nn

from medpretrain3d.backbones import Backbone, TokenBackbone
from medpretrain3d.backbones.transformer import initialize
from medpretrain3d.errors import UserError
from medpretrain3d.graph_compilation import network_parts
from medpretrain3d.objectives.alignment import view_pictures
from medpretrain3d.objectives.base import Batch, Objective, ObjectiveOutput, on_host, seeds_of_views
from medpretrain3d.objectives.gram_anchoring import GramAnchoring, gram_distance
from medpretrain3d.objectives.koleo import koleo
from medpretrain3d.objectives.masked import require_own_patches
from medpretrain3d.objectives.masking import expand_blocks
from medpretrain3d.objectives.projector import refuse_branches
from medpretrain3d.objectives.prototypes import (
    MovingCenter,
    PrototypeHead,
    SinkhornKnopp,
    cross_entropies,
    distillation,
    entropy,
)
from medpretrain3d.objectives.teacher import Teacher
from medpretrain3d.objectives.token_masks import MaskShape, draw_token_masks
from medpretrain3d.randomness import derived_seeds, sample_seeds
from medpretrain3d.schedules import cosine, linear
from medpretrain3d.values import Channels, NonNegative, OpenShares, Positive, Positives, Rows, Share, Shares, Whole

Centering = Literal["sinkhorn", "mean"]
NUM_GLOBAL = 2
"""Views that a teacher sees of a sample."""


class DINOv2(Objective):
    """Say what a slow teacher makes of an image from a part of it, and of hidden tokens (Oquab et al., 2024).

    DINO (Caron et al., 2021): every view, small local crops too, gives the image the class that the teacher gives it in
    each other global view; the mean over such pairs. iBOT (Zhou et al., 2022): tokens of some global views are
    replaced by a mask token, and given the class that the teacher, who sees them, gives them; the mean over the hidden
    tokens of a view, then over all global views, of which those without a mask count as 0. KoLeo: class tokens of the
    samples spread out; the sum over both global views. The encoder file holds the weights of the teacher. Wants
    `data.views` MultiCrop.

    Args:
        backbone: a transformer over patches; one without a class token has the mean of its tokens in its place.
        num_prototypes: K, of either head.
        head_channels: outputs of the heads' linear maps, up to the bottleneck.
        shares_head: whether class and patch tokens have one head.
        centering: what keeps the teacher from giving one class alone: `sinkhorn`, or the moving average of its `mean`.
        student_temperature: divides the student's outputs.
        teacher_temperature: divides the teacher's outputs, at first and after the warm-up.
        temperature_warmup_steps: from the first to the second of these, in a straight line; 30 published epochs.
        momentum: of the teacher's weights at the first and at the last step, along a cosine.
        center_momentum: of a center by `mean`.
        mask_probability: that tokens of a global view are hidden.
        mask_ratio: between which shares of its tokens are hidden then.
        mask_shape: `blocks` of tokens, or single `tokens`.
        weights: of DINO, iBOT and KoLeo.
        gram: keeps similarities of tokens late in a run; published for runs of hundreds of thousands of steps.

    Raises:
        UserError: a backbone without tokens, with branches for detection, or with an embedding that mixes patches; in
            `forward`, one sample over all processes where KoLeo has a weight.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import DinoViT
        >>> from medpretrain3d.objectives import DINOv2
        >>> backbone = DinoViT(width=48, depth=2, heads=2, patch_size=(8, 8, 8))
        >>> objective = DINOv2(backbone, num_prototypes=32, head_channels=(32, 16))
        >>> batch = {"image": torch.rand(2, 2, 1, 16, 16, 16), "local": torch.rand(2, 4, 1, 8, 8, 8)}
        >>> batch["seed"] = torch.tensor([0, 1])
        >>> output = objective(batch)
        >>> output.loss.backward()
        >>> sorted(output.logs)
        ['dino', 'ibot', 'koleo', 'mean_target_entropy', 'target_entropy']
    """

    paradigm = "contrastive"
    views = ("MultiCrop",)
    encoder_prefix = "teacher.network.backbone."

    def __init__(
        self,
        backbone: Backbone,
        num_prototypes: Rows = 65_536,
        head_channels: Annotated[tuple[Channels, ...], MinLen(1)] = (2048, 2048, 256),
        shares_head: bool = False,
        centering: Centering = "sinkhorn",
        student_temperature: Positive = 0.1,
        teacher_temperature: Positives = (0.04, 0.07),
        temperature_warmup_steps: Whole = 37_500,
        momentum: Shares = (0.992, 1.0),
        center_momentum: Share = 0.9,
        mask_probability: Share = 0.5,
        mask_ratio: OpenShares = (0.1, 0.5),
        mask_shape: MaskShape = "blocks",
        weights: tuple[NonNegative, NonNegative, NonNegative] = (1.0, 1.0, 0.1),
        gram: GramAnchoring | None = None,
    ) -> None:
        super().__init__()
        refuse_branches("DINOv2", backbone)
        if not isinstance(backbone, TokenBackbone):
            raise UserError(
                f"DINOv2: got {type(backbone).__name__}, wanted a transformer over patches (DinoViT, ViT, Primus), "
                "whose tokens can be hidden; use DINO for any other"
            )
        require_own_patches("DINOv2", backbone)
        self.backbone: TokenBackbone = backbone
        self.student_temperature = student_temperature
        self.teacher_temperatures = teacher_temperature
        self.temperature_warmup_steps = temperature_warmup_steps
        self.momentum = momentum
        self.mask_probability = mask_probability
        self.mask_ratio = mask_ratio
        self.mask_shape: MaskShape = mask_shape
        self.weights = weights
        self.gram = gram
        self.patch_stride = backbone.levels[-1].stride
        self.head = PrototypeHead(backbone.width, head_channels, num_prototypes)
        self.patch_head = None if shares_head else PrototypeHead(backbone.width, head_channels, num_prototypes)
        for head in filter(None, (self.head, self.patch_head)):
            head.projector.apply(initialize)
        self.mask_token = nn.Parameter(torch.zeros(backbone.width))
        self.teacher = Teacher(self._student(), momentum[0])
        self.kept_teacher = None if gram is None else Teacher(backbone, 1.0)
        self.center = _centering(centering, num_prototypes, center_momentum)
        self.patch_center = _centering(centering, num_prototypes, center_momentum)
        self.at_step(0, 1)

    def _student(self) -> Distilled:
        return Distilled(self.backbone, self.head, self.patch_head)

    def compiled_parts(self) -> dict[str, nn.Module]:
        """Return heads and blocks of both networks, which are called in parts."""
        parts: dict[str, nn.Module] = {}
        for prefix, network in (("", self._student()), ("teacher.network.", self.taught)):
            inside = {f"backbone.{name}": part for name, part in network_parts(network.backbone).items()}
            heads = {name: part for name, part in network_parts(network).items() if part is not network.backbone}
            parts |= {f"{prefix}{name}": part for name, part in (inside | heads).items()}
        return parts

    @property
    def taught(self) -> Distilled:
        """The teacher's network."""
        assert isinstance(self.teacher.network, Distilled)
        return self.teacher.network

    def at_step(self, step: int, num_steps: int) -> None:
        """Set temperature and momentum of the teacher, and keep it where that is due."""
        first, last = self.teacher_temperatures
        warmed = (step / self.temperature_warmup_steps) if self.temperature_warmup_steps else 1.0
        self.teacher_temperature = linear(first, last, warmed)
        self.teacher.momentum = self._momentum_at(step, num_steps)
        self.anchors = self.gram is not None and self.gram.is_on(step, num_steps)
        if self.gram is not None and self.kept_teacher is not None and self.gram.is_due(step, num_steps):
            self.kept_teacher.start_from(self.taught.backbone)

    def schedules(self, step: int, num_steps: int) -> dict[str, float]:
        """Return the teacher's momentum and the weight of Gram anchoring; the temperature counts steps alone."""
        found = {"momentum of the teacher": self._momentum_at(step, num_steps)}
        if self.gram is not None:
            found["weight of Gram anchoring"] = self.gram.weight * self.gram.is_on(step, num_steps)
        return found

    def _momentum_at(self, step: int, num_steps: int) -> float:
        return cosine(*self.momentum, step / num_steps)

    def after_load(self) -> None:
        """The teacher begins as the student."""
        self.teacher.start_from(self._student())

    def after_step(self) -> None:
        """The teacher and the centers of its outputs follow."""
        self.teacher.follow(self._student())
        self.center.after_step()
        self.patch_center.after_step()

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """Return `image` (B, 2, C, D, H, W), `local` (B, V, C, d, h, w), `seed` (B,) to the loss and its parts."""
        views = rearrange(batch["image"], "b v c d h w -> (v b) c d h w")
        small = rearrange(batch["local"], "b v c d h w -> (v b) c d h w")
        num_local = batch["local"].shape[1]
        grid = self.backbone.grid(tuple(views.shape[2:]))
        hidden = self._draw_masks(batch, grid)  # (2 B, N), on the CPU
        places, shares = _hidden_tokens(hidden, views.device)  # (M,) each
        is_hidden = torch.from_numpy(hidden).to(views.device, non_blocking=True)

        seeds = seeds_of_views(batch["seed"], NUM_GLOBAL + num_local)
        with sample_seeds(seeds[: len(views)]):
            image, patches = _see(self.backbone, views, is_hidden, self.mask_token)
        with sample_seeds(seeds[len(views) :]):
            local_image, _ = _see(self.backbone, small)
        targets, patch_targets = self._targets(views, places)
        # The other global view for a global one, and each of both for a local one: the mean of both weighs twice.
        classes = self.head(torch.cat([image, local_image])) / self.student_temperature
        other = torch.cat(targets.chunk(NUM_GLOBAL)[::-1])
        both = torch.stack(targets.chunk(NUM_GLOBAL)).mean(dim=0).repeat(num_local, 1)
        dino = distillation(classes[: len(views)], other) + num_local * distillation(classes[len(views) :], both)
        dino = dino / (1 + num_local)

        hidden_classes = self._student().of_patches(patches.flatten(0, 1)[places]) / self.student_temperature
        ibot = (cross_entropies(hidden_classes, patch_targets) * shares).sum() / len(views)
        parts = {"dino": dino, "ibot": ibot}
        losses = [self.weights[0] * dino, self.weights[1] * ibot]
        if self.weights[2]:
            parts["koleo"] = torch.stack([koleo(of_view) for of_view in image.chunk(NUM_GLOBAL)]).sum()
            losses.append(self.weights[2] * parts["koleo"])
        if self.anchors and self.gram is not None and self.kept_teacher is not None:
            kept = self.kept_teacher.network
            assert isinstance(kept, TokenBackbone)
            parts["gram"] = gram_distance(patches, self.gram.target(kept, views))
            losses.append(self.gram.weight * parts["gram"])
        logs = {name: value.detach() for name, value in parts.items()}
        logs |= {"target_entropy": entropy(targets).mean(), "mean_target_entropy": entropy(targets.mean(dim=0))}
        preview = {} if self.training else view_pictures(batch) | self._masked_picture(views, is_hidden)
        return ObjectiveOutput(torch.stack(losses).sum(), logs, preview)

    @torch.no_grad()
    def _targets(self, views: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return the teacher's shares of the views (2 B, K), and of their tokens at some places (M, K)."""
        image, patches = _see(self.taught.backbone, views)
        targets: Tensor = self.center(self.taught.head(image), self.teacher_temperature)
        hidden_classes = self.taught.of_patches(patches.flatten(0, 1)[places])
        patch_targets: Tensor = self.patch_center(hidden_classes, self.teacher_temperature)
        return targets, patch_targets

    def _draw_masks(self, batch: Batch, grid: tuple[int, int, int]) -> np.ndarray:
        seeds: list[int] = derived_seeds(on_host(batch, "seed"), "token masks").tolist()
        return draw_token_masks(seeds, NUM_GLOBAL, grid, self.mask_probability, self.mask_ratio, self.mask_shape)

    @torch.no_grad()
    def _masked_picture(self, views: Tensor, is_hidden: Tensor) -> dict[str, Tensor]:
        """Both views of the first sample with their hidden tokens blanked; one of them has none, where half have."""
        grid = self.backbone.grid(tuple(views.shape[2:]))
        blocks = expand_blocks(is_hidden.unflatten(1, grid), self.backbone.patch_size)  # (2 B, 1, D, H, W)
        first = slice(0, None, len(views) // NUM_GLOBAL)
        blanked = views[first, 0].float().masked_fill(blocks[first, 0], 0.0)
        return {f"view {index} masked": one for index, one in enumerate(blanked, start=1)}


class Distilled(nn.Module):
    """What a student shares with its teacher: a transformer, and the heads of its class and patch tokens.

    Args:
        backbone: the transformer.
        head: of the class token, or of all.
        patch_head: of patch tokens; None for the same.
    """

    def __init__(self, backbone: TokenBackbone, head: PrototypeHead, patch_head: PrototypeHead | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.patch_head = patch_head

    def of_patches(self, patches: Tensor) -> Tensor:
        """Map patch tokens (N, C) to their cosines with the prototypes (N, K)."""
        result: Tensor = (self.patch_head or self.head)(patches)
        return result


def _centering(kind: Centering, num_prototypes: int, momentum: float) -> SinkhornKnopp | MovingCenter:
    return SinkhornKnopp() if kind == "sinkhorn" else MovingCenter(num_prototypes, momentum)


def _see(
    backbone: TokenBackbone, image: Tensor, is_hidden: Tensor | None = None, mask_token: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return class tokens (B, width) and patch tokens (B, N, width) of images, some of whose tokens are replaced."""
    backbone.check_input(image)
    tokens = backbone.embed(image)
    if is_hidden is not None and mask_token is not None:
        tokens = torch.where(is_hidden[..., None], mask_token.to(tokens.dtype), tokens)
    return backbone.encode_with_class(tokens, backbone.grid(tuple(image.shape[2:])))


def _hidden_tokens(hidden: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the places (M,) of hidden tokens in the rows of all (2 B N,), and one over how many their view hides."""
    share = (1.0 / hidden.sum(axis=1).clip(min=1)).astype(np.float32)
    shares = np.broadcast_to(share[:, None], hidden.shape)[hidden]
    places, weights = torch.from_numpy(np.flatnonzero(hidden)), torch.from_numpy(shares)
    return places.to(device, non_blocking=True), weights.to(device, non_blocking=True)

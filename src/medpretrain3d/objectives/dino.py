"""Self-distillation without labels."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_types import MinLen
from einops import rearrange
from torch import Tensor, nn

from medpretrain3d.backbones import Backbone
from medpretrain3d.objectives.alignment import view_pictures
from medpretrain3d.objectives.base import Batch, Objective, ObjectiveOutput, seeds_of_views
from medpretrain3d.objectives.projector import pool, refuse_branches
from medpretrain3d.objectives.prototypes import MovingCenter, PrototypeHead, distillation, entropy
from medpretrain3d.objectives.teacher import Teacher
from medpretrain3d.randomness import sample_seeds
from medpretrain3d.schedules import cosine
from medpretrain3d.values import Channels, Positive, Rows, Share, Shares


class DINO(Objective):
    """Put a view into the class that a slow teacher gives the other view (Caron et al., 2021).

    Classes are prototypes that nobody named. The teacher's outputs are centred, so that no class takes all, and
    sharpened, so that not all classes are alike; it has no negatives and works with any batch. Wants `data.views`
    TwoViews: both are global views; smaller local crops are not drawn.

    Args:
        backbone: the encoder to train; its coarsest level, or all tokens, are averaged over space.
        num_prototypes: K; the published 65,536 suit a million images.
        head_channels: outputs of the head's linear maps, up to the bottleneck.
        student_temperature: divides the student's outputs.
        teacher_temperature: divides the teacher's centred outputs; lower is sharper.
        momentum: of the teacher's weights at the first and at the last step, along a cosine; or one for the whole run.
        center_momentum: of the centre, the mean of the teacher's outputs.

    Raises:
        UserError: a backbone with branches for detection.

    Example:
        >>> import torch
        >>> from medpretrain3d.backbones import ResEnc
        >>> from medpretrain3d.objectives import DINO
        >>> objective = DINO(ResEnc("XXS"), num_prototypes=32, head_channels=(32, 16))
        >>> batch = {"image": torch.rand(2, 2, 1, 16, 16, 16), "seed": torch.tensor([0, 1])}
        >>> output = objective(batch)
        >>> output.loss.backward()
        >>> output.loss.shape, sorted(output.logs)
        (torch.Size([]), ['mean_target_entropy', 'target_entropy'])
    """

    paradigm = "contrastive"
    views = ("TwoViews",)

    def __init__(
        self,
        backbone: Backbone,
        num_prototypes: Rows = 65_536,
        head_channels: Annotated[tuple[Channels, ...], MinLen(1)] = (2048, 2048, 256),
        student_temperature: Positive = 0.1,
        teacher_temperature: Positive = 0.04,
        momentum: Share | Shares = (0.996, 1.0),
        center_momentum: Share = 0.9,
    ) -> None:
        super().__init__()
        refuse_branches("DINO", backbone)
        self.backbone = backbone
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature
        self.patch_stride = backbone.levels[-1].stride
        self.head = _PooledHead(backbone.levels[-1].channels, head_channels, num_prototypes)
        first, last = momentum if isinstance(momentum, tuple | list) else (momentum, momentum)
        self.momentum = (first, last)
        self.teacher = Teacher(self._student(), first)
        self.center = MovingCenter(num_prototypes, center_momentum)

    def _student(self) -> nn.Module:
        return nn.Sequential(self.backbone, self.head)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for earlier in ("centre", "center"):  # as checkpoints of 0.1.0, and of before it was a module, call it
            if f"{prefix}{earlier}" in state_dict:
                state_dict[f"{prefix}center.mean"] = state_dict.pop(f"{prefix}{earlier}")
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def at_step(self, step: int, num_steps: int) -> None:
        """Set the momentum of the teacher."""
        self.teacher.momentum = self._momentum_at(step, num_steps)

    def schedules(self, step: int, num_steps: int) -> dict[str, float]:
        """Return the momentum of the teacher."""
        return {"momentum of the teacher": self._momentum_at(step, num_steps)}

    def _momentum_at(self, step: int, num_steps: int) -> float:
        return cosine(*self.momentum, step / num_steps)

    def after_load(self) -> None:
        """The teacher begins as the student."""
        self.teacher.start_from(self._student())

    def after_step(self) -> None:
        """The teacher and the centre of its outputs follow."""
        self.teacher.follow(self._student())
        self.center.after_step()

    def forward(self, batch: Batch) -> ObjectiveOutput:
        """`image` (B, 2, C, D, H, W), `affine` (B, 2, 3, 4) to the loss; in validation, pictures of both views."""
        views = rearrange(batch["image"], "b v c d h w -> (v b) c d h w")
        with sample_seeds(seeds_of_views(batch["seed"], 2)):
            student = self.head(self.backbone(views))  # (2 B, K)
        teacher = self.teacher(views)
        target = self.center(teacher, self.teacher_temperature)
        other_view = torch.cat(target.chunk(2)[::-1])
        loss = distillation(student / self.student_temperature, other_view)
        mean = target.mean(dim=0)
        logs = {"target_entropy": entropy(target).mean(), "mean_target_entropy": entropy(mean)}
        return ObjectiveOutput(loss, logs, {} if self.training else view_pictures(batch))


class _PooledHead(PrototypeHead):
    """The same of the coarsest of some maps, averaged over space."""

    def forward(self, features: list[Tensor]) -> Tensor:  # type: ignore[override]  # what a backbone gives
        return super().forward(pool(features[-1]))

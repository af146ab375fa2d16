"""Classes that nobody named: cosines with learned prototypes, and the shares that a teacher gives to each of them.

A teacher that is only sharpened would put everything into one class. Two remedies, of one signature: `MovingCenter`
takes the mean of the outputs off (DINO), `SinkhornKnopp` has every class be given alike (SwAV, DINOv2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medpretrain3d.objectives.projector import Projector
from medpretrain3d.precision.mixed import in_fp32
from medpretrain3d.processes import largest, total, world_size


class PrototypeHead(nn.Module):
    """Vectors to their cosines with K prototypes, which are rows of length 1, in fp32; DINO's head and DINOv2's.

    Args:
        in_channels: of the vectors.
        channels: outputs of the linear maps up to the bottleneck, with GELU between them.
        num_prototypes: K.
    """

    def __init__(self, in_channels: int, channels: tuple[int, ...], num_prototypes: int) -> None:
        super().__init__()
        self.projector = Projector(in_channels, channels, activation=nn.GELU)
        self.prototypes = nn.Parameter(torch.empty(num_prototypes, channels[-1]))
        nn.init.trunc_normal_(self.prototypes, std=0.02)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map (N, C) to (N, K)."""
        bottleneck = self.projector(vectors)
        with in_fp32(bottleneck.device):
            return F.normalize(bottleneck.float(), dim=1) @ F.normalize(self.prototypes, dim=1).T


class MovingCenter(nn.Module):
    """Shares of the outputs less their center, the moving average of their mean (Caron et al., 2021, eq. 4).

    Args:
        num_prototypes: K.
        momentum: share of the center that stays in each step.
    """

    mean: Tensor

    def __init__(self, num_prototypes: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(num_prototypes))
        self._seen: list[
            tuple[Tensor, int]
        ] = []  # sums of the outputs since the last step of the optimiser, of how many
        self._has_mean: bool | None = False  # None until somebody looks at one that was loaded

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._has_mean = None
        super()._load_from_state_dict(*args, **kwargs)

    def forward(self, outputs: Tensor, temperature: float) -> Tensor:
        """Turn the teacher's outputs (N, K) into shares (N, K)."""
        seen = (outputs.sum(dim=0), len(outputs))
        if self.training:
            self._seen.append(seen)
        # Before the first step there is no center yet; without one, all samples would begin in one class.
        center = self.mean if self.has_mean() else _mean_of_all([seen])[0]
        return F.softmax((outputs - center) / temperature, dim=1)

    def after_step(self) -> None:
        """Let the center follow what was seen; it stays where no process saw a row, as where no token is hidden."""
        if self._seen:
            mean, count = _mean_of_all(self._seen)
            mean = torch.where(count > 0, mean, self.mean)
            self.mean.lerp_(mean, 1 - self.momentum if self.has_mean() else 1.0)
            if any(rows for _, rows in self._seen):
                self._has_mean = True
            elif not self._has_mean and world_size() > 1:
                self._has_mean = None  # another process may have seen rows
            self._seen.clear()

    def has_mean(self) -> bool:
        """Return whether there was a step before; noted, since asking the device for it would be waiting for it."""
        if self._has_mean is None:
            self._has_mean = bool(self.mean.any())
        return self._has_mean


def _mean_of_all(seen: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Return the mean (K,) over the rows of all processes, of which each has sums (K,) and their counts, and how many.

    Where there are none, the mean is 0.
    """
    sums, counts = zip(*seen, strict=True)
    summed = torch.stack(sums).sum(dim=0)
    of_all = total(torch.cat([summed, summed.new_full((1,), sum(counts))]))
    return of_all[:-1] / of_all[-1].clamp(min=1), of_all[-1]


class SinkhornKnopp(nn.Module):
    """Shares of the outputs, scaled so that over the samples of all processes every class gets as much (Cuturi, 2013).

    Each iteration of Caron et al. (2020) divides exp(outputs / temperature) by the sum of each class, then by that of
    each sample. Here in logarithms, in which a low temperature neither overflows nor leaves a class without anything.

    Args:
        iterations: three, as published.
    """

    def __init__(self, iterations: int = 3) -> None:
        super().__init__()
        self.iterations = iterations

    def forward(self, outputs: Tensor, temperature: float) -> Tensor:
        """Turn the teacher's outputs (N, K) into shares (N, K); processes may have different N."""
        logits = outputs.float() / temperature
        shares = logits
        given = torch.zeros_like(logits[:1]).sum(dim=0)  # (K,) the logarithm of what each class was divided by
        for _ in range(self.iterations):
            given = given + log_sum_over_samples(shares)
            shares = F.log_softmax(logits - given, dim=1)
        return shares.exp()

    def after_step(self) -> None:
        """Keep nothing: the shares are of one batch."""


def log_sum_over_samples(logits: Tensor) -> Tensor:
    """Return the logarithm (K,) of the sum of exp(logits) over the rows (N, K) of all processes, without gradient."""
    own = torch.logsumexp(logits.detach(), dim=0)
    most = largest(own)
    return total((own - most).exp()).log() + most


def distillation(student: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of the student's logits (B, K) under the teacher's shares (B, K) (Caron et al., 2021, eq. 2)."""
    return cross_entropies(student, target).mean()


def cross_entropies(student: Tensor, target: Tensor) -> Tensor:
    """Return the cross entropy (N,) of each row of logits (N, K) under its shares (N, K)."""
    return -(target * F.log_softmax(student.float(), dim=1)).sum(dim=1)


def entropy(share: Tensor) -> Tensor:
    """Compute the entropy in nats over the last axis; ln K where all are alike."""
    result: Tensor = torch.special.entr(share).sum(dim=-1)
    return result

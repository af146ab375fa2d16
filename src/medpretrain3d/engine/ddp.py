"""DDP whose processes have time for whole volumes."""

from __future__ import annotations

from datetime import timedelta

from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.distributed_c10d import set_timeout

PATIENCE = timedelta(hours=6)
"""Lightning waits for 30 minutes; the validation of a large data set on whole volumes takes longer."""


class PatientDDP(DDPStrategy):
    """DDP whose processes wait for each other as long as the longest validation of one of them may take.

    They meet within PyTorch's time or not at all; from then on a process that is lost is noticed by its line
    (`engine/peers.py`), so that a long wait costs nothing: the others are about their own volumes.
    """

    def setup_distributed(self) -> None:
        """Meet the other processes."""
        super().setup_distributed()
        set_timeout(PATIENCE)

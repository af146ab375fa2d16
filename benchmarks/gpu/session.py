"""What every section of the GPU benchmark shares: the device, the time that is left, and rows of one table."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from medpretrain3d.precision.mixed import DTYPES, autocast
from medpretrain3d.precision.names import PRECISIONS

PRECISION_OF = {DTYPES.get(name, torch.float32): name for name in PRECISIONS}


class Skipped(Exception):
    """Why a row holds no number; its text stands in the table."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    section: str
    work: str
    setting: str
    result: str
    note: str = ""
    is_failure: bool = False
    """Whether something is wrong, and not only slow or missing here."""

    def __str__(self) -> str:
        cells = (self.section, self.work, self.setting, self.result, self.note)
        return f"| {' | '.join(' '.join(cell.split()).replace('|', '/') for cell in cells)} |"


HEADER = "| section | work | setting | result | note |\n|---|---|---|---|---|"


@dataclass(frozen=True)
class Session:
    """One call of the benchmark.

    Args:
        device: that is measured.
        is_toy: whether everything is small and most is left out, to see that it runs.
        deadline_s: of `time.monotonic`, after which nothing is begun.
        folder: for what is written on the way.
    """

    device: torch.device
    is_toy: bool
    deadline_s: float
    folder: Path

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def half(self) -> torch.dtype:
        """What mixed precision computes in: bfloat16 where the GPU has it."""
        return torch.bfloat16 if not self.is_gpu or torch.cuda.is_bf16_supported() else torch.float16

    @property
    def rounds(self) -> int:
        """Steps that are timed."""
        return 1 if self.is_toy else 5

    def left_s(self, share: float = 1.0) -> float:
        """Seconds until the deadline, of which one piece of work shall take a share at most."""
        return share * (self.deadline_s - time.monotonic())

    def row(self, section: str, work: str, setting: str, measure: Callable[[], tuple[str, str] | str]) -> Row:
        """Measure one thing: the row, whatever happens.

        Args:
            section: of the table.
            work: what is done.
            setting: and how.
            measure: returns the result, and a note if there is one.
        """
        if self.left_s() <= 0:
            return Row(section, work, setting, "skipped", "the time is used up; more of it: --minutes")
        try:
            found = measure()
        except Skipped as reason:
            return Row(section, work, setting, "skipped", str(reason))
        except torch.OutOfMemoryError:
            return Row(section, work, setting, "skipped", "out of memory")
        except Exception as error:
            message = f"{type(error).__name__}: {error}"[:300]
            return Row(section, work, setting, "failed", message, is_failure=True)
        finally:
            self._clear()
        result, note = (found, "") if isinstance(found, str) else found
        return Row(section, work, setting, result, note, is_failure=result.startswith("DIFFERS"))

    def autocast(self, dtype: torch.dtype) -> AbstractContextManager[object]:
        return autocast(self.device, PRECISION_OF[dtype])

    def seconds(self, run: Callable[[], object], warm_up: int = 2) -> float:
        """Seconds that one call takes, on average over `rounds`, once it is warm."""
        for _ in range(1 if self.is_toy else warm_up):
            run()
        self.synchronize()
        start = time.perf_counter()
        for _ in range(self.rounds):
            run()
        self.synchronize()
        return (time.perf_counter() - start) / self.rounds

    def synchronize(self) -> None:
        if self.is_gpu:
            torch.cuda.synchronize(self.device)

    @contextmanager
    def peak(self) -> Iterator[Callable[[], str]]:
        """Within: the peak of the device's memory, once it is asked for."""
        if self.is_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        yield lambda: f"{torch.cuda.max_memory_allocated(self.device) / 2**30:.1f} GiB" if self.is_gpu else "-"

    def _clear(self) -> None:
        """Leave no weights and no graph to the next row."""
        if "torch._dynamo" in sys.modules:  # whose import takes seconds
            torch.compiler.reset()
        gc.collect()
        if self.is_gpu:
            torch.cuda.empty_cache()

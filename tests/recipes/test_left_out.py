"""What detectors leave out is counted over all processes, also where a run is continued."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from finetune.module import FinetuneModule
from medpretrain3d.detection import RetinaNet
from tests.tiny_detectors import tiny_detector


class Module(FinetuneModule):
    """One whose data are not there."""

    data = SimpleNamespace(  # type: ignore[assignment]
        corpus=SimpleNamespace(name="c", fingerprint="0"),
        train_cases=(),
        unlabeled=None,
        classes=("x", "y"),
        preprocessing=lambda: SimpleNamespace(to_json=dict),
    )


def counted(module: Module, boxes: int, predictions: int) -> list[int]:
    """What a checkpoint says after so many more were left out by this process."""
    module.detector.num_invalid_boxes += boxes
    module.detector.num_invalid_predictions += predictions
    module.on_before_save()
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    return checkpoint["num_invalid"]


def process(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    first = Module(tiny_detector(RetinaNet))
    kept = [counted(first, rank + 1, 10 * rank), counted(first, 0, 5)]
    continued = Module(tiny_detector(RetinaNet))
    continued.trainer = SimpleNamespace(is_global_zero=rank == 0)
    continued.on_load_checkpoint({"num_invalid": kept[-1]})
    kept.append(counted(continued, 100 * rank, 0))
    torch.save(kept, f"{folder}/{rank}")
    dist.destroy_process_group()


def test_a_checkpoint_counts_what_all_processes_left_out(tmp_path: Path) -> None:
    mp.start_processes(process, (str(tmp_path),), nprocs=2, start_method="fork")
    # 1 and 2 boxes, 0 and 10 predictions; 5 and 5 predictions more; in the next sitting 100 boxes of the second one.
    assert torch.load(tmp_path / "0") == torch.load(tmp_path / "1") == [[3, 10], [3, 20], [103, 20]]


def test_after_a_failure_nobody_is_waited_for() -> None:
    module = Module(tiny_detector(RetinaNet))
    counted(module, 2, 0)
    module.detector.num_invalid_boxes += 1
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    assert checkpoint["num_invalid"] == [3, 0]

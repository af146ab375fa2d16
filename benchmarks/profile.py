"""Where the time of a training step goes: `python -m benchmarks profile`.

Self times of the kernels of a step, by kind, for the recipes that train longest on a CPU, and the time of the crops of
its batch. One thread, so that times of kernels add up.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.recipe_steps import RecipeStep, recipe_step
from benchmarks.timing import one_thread
from medpretrain3d.loading.augment import SpatialAugment
from medpretrain3d.loading.batches import generator_at
from medpretrain3d.loading.crops import DeferredCrop
from medpretrain3d.memory import keep_freed_memory
from medpretrain3d.store.intensity import Window

RECIPES = {
    "MAE, ResEnc-XS": "pretrain/openkbp.yaml",
    "SparK, ResEnc-XS": "pretrain/openkbp_spark.yaml",
    "Retina U-Net, ResEnc-XS": "finetune/openkbp.yaml",
    "Retina U-Net, ResEnc-XXS": "finetune/phantom_retina_unet.yaml",
}
KINDS = {  # the first that fits
    "convolution": "conv",
    "norm": r"(group|layer|batch|instance)_?norm",
    "optimizer and clipping": r"Optimizer|_fused_|_foreach|vector_norm",
    "loss": r"loss|softmax|cross_entropy|sigmoid",
    "activation and pooling": r"relu|gelu|pool|threshold",
    "copies": r"copy|cat|clone|fill|index|gather|scatter|pad|slice|zero|contiguous|_to\b",
    "rest": "",
}
NUM_STEPS = 3


def report() -> None:
    """Print a table of shares and the ten longest kernels of each recipe."""
    keep_freed_memory()  # as both stages do
    with one_thread():
        for name, recipe in RECIPES.items():
            step = recipe_step(recipe)
            kernels, crops_ms = kernel_times_ms(step), crop_time_ms(step)
            kinds: dict[str, float] = defaultdict(float)
            for kernel, milliseconds in kernels.items():
                kinds[kind_of(kernel)] += milliseconds
            kinds["crops of the batch (a loader's)"] = crops_ms
            total = sum(kinds.values())
            print(f"\n{name} (configs/{recipe}): {total:.0f} ms a step")
            for kind in (*KINDS, "crops of the batch (a loader's)"):
                print(f"  {kind:<34}{kinds[kind]:>10.1f} ms{kinds[kind] / total:>8.1%}")
            for kernel, milliseconds in sorted(kernels.items(), key=lambda item: -item[1])[:10]:
                print(f"    {kernel:<50}{milliseconds:>10.1f} ms")


def kind_of(kernel: str) -> str:
    """Return the kind of work that a kernel of this name does."""
    return next(kind for kind, pattern in KINDS.items() if re.search(pattern, kernel, re.IGNORECASE))


def kernel_times_ms(step: RecipeStep) -> dict[str, float]:
    """Measure the self time of each kernel of a step, mean of a few."""
    step.run()
    with profile(activities=[ProfilerActivity.CPU]) as measured:
        for _ in range(NUM_STEPS):
            step.run()
    return {event.key: event.self_cpu_time_total / 1e3 / NUM_STEPS for event in measured.key_averages()}


def crop_time_ms(step: RecipeStep) -> float:
    """Measure what the crops of a batch take a loader, with the recipe's spatial augmentation."""
    augment = SpatialAugment(**step.augment)

    def crop(position: int) -> None:
        transform = augment.draw(generator_at(0, position))
        source = torch.zeros((1, *transform.source_size(step.patch)), dtype=torch.int16)
        DeferredCrop(source, transform, step.patch, Window()).apply()

    crop(0)  # everything is imported and compiled
    start = time.perf_counter()
    for position in range(1, 1 + NUM_STEPS * step.batch_size):
        crop(position)
    return (time.perf_counter() - start) * 1e3 / NUM_STEPS

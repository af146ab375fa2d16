"""Where a step waits: how often the host waits for the device, when the device is idle, and what it does."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import partial

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.recipes import TOY, Recipe
from benchmarks.gpu.session import Row, Session, Skipped
from benchmarks.gpu.training import step

RECIPES = ("pretrain/mae_resenc_l", "finetune/luna16", "pretrain/spark_resenc_l")
NUM_KERNELS = 8


def rows(session: Session) -> Iterator[Row]:
    for recipe in (Recipe.read(name) for name in (TOY if session.is_toy else RECIPES)):
        yield session.row("waiting", recipe.work, "host waits of a step", partial(_host_waits, session, recipe))
        profiled: list[tuple[str, float]] = []
        yield session.row("waiting", recipe.work, "idle device", partial(_idle, session, recipe, profiled))
        for rank, (name, share) in enumerate(profiled[:NUM_KERNELS], start=1):
            yield Row("kernels", recipe.work, f"number {rank} of the profile", f"{share:.1%}", f"`{name[:120]}`")


def _host_waits(session: Session, recipe: Recipe) -> tuple[str, str]:
    if not session.is_gpu:
        raise Skipped("no GPU; tests/detection/test_host_waits.py counts them on a CPU")
    run = step(session, recipe)
    run()
    session.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [one for one in caught if "synchroniz" in str(one.message).lower()]
    places = Counter(f"{one.filename.rpartition('/')[2]}:{one.lineno}" for one in waits)
    return str(len(waits)), ", ".join(f"{count} x {place}" for place, count in places.most_common(5))


def _idle(session: Session, recipe: Recipe, profiled: list[tuple[str, float]]) -> tuple[str, str]:
    run = step(session, recipe)
    for _ in range(1 if session.is_toy else 3):
        run()
    session.synchronize()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if session.is_gpu else [])]
    with profile(activities=activities) as profiler:
        start = time.perf_counter()
        for _ in range(session.rounds):
            run()
        session.synchronize()
        seconds = time.perf_counter() - start
    name = "self_device_time_total" if session.is_gpu else "self_cpu_time_total"
    times = {one.key: getattr(one, name) / 1e6 for one in profiler.key_averages()}
    busy = sum(times.values())
    found = sorted(((key, value / busy) for key, value in times.items() if value), key=lambda one: -one[1])
    profiled.extend(found)
    if not session.is_gpu:
        raise Skipped("no GPU; the kernels below are operations of the CPU")
    idle = max(0.0, 1 - busy / seconds)
    return f"{idle:.1%} of a step", "by the profiler, which slows the host down itself"

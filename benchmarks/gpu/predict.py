"""`predict` of a whole synthetic CT: seconds, memory, and how much of the time the network had."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.gpu.recipes import Recipe
from benchmarks.gpu.session import Row, Session
from benchmarks.inference import chest
from medpretrain3d.detection import Detector
from medpretrain3d.inference import Bundle, InferenceConfig, Predictor
from medpretrain3d.precision.mixed import autocast
from medpretrain3d.store.preprocessing import Preprocessing


def rows(session: Session) -> Iterator[Row]:
    shape = (40, 48, 48) if session.is_toy else (400, 512, 512)
    recipe = Recipe.read("finetune/smoke" if session.is_toy else "finetune/luna16")
    work = f"{recipe.name}, a CT of {shape[2]} x {shape[1]} x {shape[0]}"
    for batch_size in (2,) if session.is_toy else (1, 4, 2, 8):
        name = f"{batch_size} tiles at a time"
        yield session.row("predict", work, name, partial(_measure, session, recipe, shape, batch_size))


def _measure(session: Session, recipe: Recipe, shape: tuple[int, int, int], batch_size: int) -> tuple[str, str]:
    detector = recipe.model()
    assert isinstance(detector, Detector)
    classes = tuple(f"class_{number}" for number in range(detector.num_classes))
    bundle = Bundle(detector.eval(), classes, Preprocessing(recipe.patch), InferenceConfig(), {}, "")
    predictor = Predictor(bundle, str(session.device), batch_size=batch_size)
    with session.peak() as peak:
        predictor.predict(chest((recipe.patch[0], *shape[1:])), "warm")
        images = torch.rand(batch_size, 1, *recipe.patch, device=session.device)
        with torch.inference_mode(), autocast(session.device, predictor.precision):
            of_network_s = session.seconds(lambda: detector.launch(images)) / batch_size
        seen: list[int] = []  # tiles of air are not
        hook = detector.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
        volume = chest(shape)
        start = time.perf_counter()
        predictor.predict(volume, "ct")
        seconds = time.perf_counter() - start
        hook.remove()
        memory = peak()
    share = of_network_s * sum(seen) / seconds
    note = f"{share:.0%} is the network, which alone takes {of_network_s * 1e3:.1f} ms a tile; {sum(seen)} tiles"
    return f"{seconds:.1f} s in {predictor.precision}, {sum(seen) / seconds:.1f} tiles/s, peak {memory}", note

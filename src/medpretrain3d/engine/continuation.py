"""Whether a run may be continued with a configuration that is not the one it began with."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from medpretrain3d.documents import read_yaml
from medpretrain3d.engine.checkpoint_files import num_steps_done
from medpretrain3d.engine.distributed import SHARDED
from medpretrain3d.engine.restart import is_thrown_away
from medpretrain3d.engine.run import RunConfig, RunFile
from medpretrain3d.engine.time_limit import allowed_s, has_more_time
from medpretrain3d.errors import UserError
from medpretrain3d.run_metadata import RunMetadata

Config = Mapping[str, Any]

FREE = (
    # Where the run is kept, who is told of it, and how fast it goes.
    r"run\..*|device\.compile|data\.num_workers|data\.prefetch_factor|data\.stage_to|ckpt_path|weights_only|plugins",
    r"trainer\.(logger|log_every_n_steps|profiler|default_root_dir|enable_\w+|detect_anomaly|barebones)",
    r"trainer\.num_sanity_val_steps|trainer\.max_steps|trainer\.max_time(\..*)?",  # how long is asked anew each time
)
"""Options that change no weight of a step."""
WHEN_VALIDATED = ("trainer.val_check_interval", "trainer.check_val_every_n_epoch")
"""Options that change no weight either, but other points of the curves, unless a validation decides which are kept."""
BATCH = ("data.batch_size", "trainer.devices", "trainer.num_nodes", "trainer.accumulate_grad_batches")
"""Options that may change together as long as their product, the global batch, stays."""
UNLABELED_BATCH = "data.unlabeled_batch_size"
"""One that takes the place of `data.batch_size` in another such product."""
ONLOOKERS = re.compile(r"(\w*Checkpoint|\w*ProgressBar|\w*Summary|\w*Monitor|Timer)")
"""Callbacks of Lightning that change no weight."""


MOVED = {
    "data.store ": "data_fingerprint",
    "data.exclude ": "exclude_fingerprint",
    "data.unlabeled ": "unlabeled_fingerprint",
    "data.hard_negatives ": "hard_negatives_sha256",
    "data.views.init_args.table ": "views_fingerprint",
    "model.init_from ": "init_sha256",
}
"""What an option names that may lie elsewhere now, and by which metadata it is known."""
READ = {
    "cases_fingerprint": "which cases train, validate and test (splits.json and label order of the stores)",
}
"""What no option says, by the metadata by which it is known."""


def check_continuation(run: RunConfig, before: Config, now: Config, metadata: RunMetadata) -> None:
    """Compare this call with the run in its folder, be it interrupted or finished.

    Args:
        run: its folder is meant.
        before: parsed configuration of the run.
        now: parsed configuration of this call.
        metadata: of the run now.

    Raises:
        UserError: the run is finished, has made more steps than are asked for, or an option differs that may change
            its result; all of them are named.
    """
    known, steps = RunFile(run.folder).read(), now["trainer"]["max_steps"]
    batch = known.global_batch_size or global_batch(before)
    found = differences(before, now, batch)
    for option, name in MOVED.items():
        was, is_now = getattr(known, name), getattr(metadata, name)
        if was is None or is_now is None:
            continue
        found = [one for one in found if not one.startswith(option)]  # it may have moved; what is in it counts
        if was != is_now:
            what = f"the data in {option}" if name == "data_fingerprint" else f"what is in {option}"
            found.append(f"{what}{was[:12]} -> {is_now[:12]} (fingerprints)")
    for name, what in READ.items():
        was, is_now = getattr(known, name), getattr(metadata, name)
        if None not in (was, is_now) and was != is_now:
            found.append(f"{what} {was[:12]} -> {is_now[:12]} (fingerprints)")
    if batch != global_batch(now):
        factors = _factors("data.batch_size", now)
        found.append(f"samples of a step {batch} -> {global_batch(now)}, which {factors} have to make")
    unlabeled = [global_unlabeled_batch(before, batch), global_unlabeled_batch(now)]
    if None not in unlabeled and unlabeled[0] != unlabeled[1]:
        factors = _factors(UNLABELED_BATCH, now)
        found.append(f"unlabeled crops of a step {unlabeled[0]} -> {unlabeled[1]}, which {factors} have to make")
    is_finished = bool(known.finished)
    done = max(num_steps_done(run.checkpoints), known.steps or 0 if is_finished else 0)
    asked = max(done, known.budget_steps or 0)  # more than were made where an early stopping ended it
    if is_finished and done <= steps <= asked and not (done < steps and has_more_time(before, now)):
        limits = "" if allowed_s(before) is None else "trainer.max_time or "
        early = f", after {done} of {asked} steps" if done < asked else ""
        message = f" (and its configuration differs: {'; '.join(found)})" if found else ""
        raise UserError(
            f"{run.folder}: this run is finished{early}{message}; give another run.name, run.restart=true to repeat "
            f"it, or a larger {limits}trainer.max_steps to extend it"
        )
    if steps < done:
        raise UserError(
            f"{run.folder}: this run has made {done} steps, trainer.max_steps is {steps}; give at least that, "
            "another run.name, or run.restart=true to throw it away"
        )
    if found:
        raise UserError(
            f"{run.folder}: holds {'a finished' if is_finished else 'an interrupted'} run with another configuration: "
            f"{'; '.join(found)}; take the earlier values, give another run.name, or run.restart=true to throw it away"
        )


def differences(before: Config, now: Config, batch: int | None = None) -> list[str]:
    """List the changes that keep a run begun as `before` from resuming as `now`: `key before -> now`, one per key.

    Compared are the values that the options have in the end, so that a default that is written out is no difference.
    Two paths are one value if the same file or folder is there.

    Args:
        before: parsed configuration of the run.
        now: parsed configuration of this call.
        batch: samples of a step of the run, where they are known; devices may have been left to the machine.
    """
    old, new = _flat(before), _flat(now)
    is_same_batch = (batch or global_batch(before)) == global_batch(now)
    is_same_unlabeled = global_unlabeled_batch(before, batch) == global_unlabeled_batch(now)
    is_only_seen = not any(_is_decided_by_validation(config) for config in (before, now))
    found = []
    for key in sorted(old.keys() | new.keys()):
        one, other = old.get(key), new.get(key)
        is_free = any(re.fullmatch(pattern, key) for pattern in FREE)
        is_free = is_free or (key in BATCH and is_same_batch)
        is_free = is_free or (key in WHEN_VALIDATED and is_only_seen)
        is_free = is_free or (key == UNLABELED_BATCH and is_same_unlabeled)
        if not is_free and not _is_same(key, one, other):
            found.append(f"{key} {_shown(one)} -> {_shown(other)}")
    return found


def global_batch(config: Config) -> int:
    """Return samples of one optimizer step, over all processes."""
    trainer, data = config["trainer"], config["data"]
    num_processes = num_devices(trainer.get("devices"), trainer.get("accelerator")) * int(trainer.get("num_nodes") or 1)
    return int(data["batch_size"]) * num_processes * int(trainer.get("accumulate_grad_batches") or 1)


def global_unlabeled_batch(config: Config, batch: int | None = None) -> int | None:
    """Return unlabeled crops of one optimizer step, over all processes; None where there are none.

    Args:
        config: parsed configuration.
        batch: samples with labels of a step, where they are known.
    """
    data = config["data"]
    if not data.get("unlabeled"):
        return None
    own = int(data["batch_size"])
    return (batch or global_batch(config)) // own * int(data.get("unlabeled_batch_size") or own)


def _factors(size: str, config: Config) -> str:
    num_processes = global_batch(config) // _of_one_process(config)
    return f"{size} x {num_processes} processes x trainer.accumulate_grad_batches"


def accumulation_to_go_on(run: RunConfig, now: Config) -> tuple[int, str] | None:
    """Return the accumulation with which a run goes on on another number of devices, with the same samples in a step.

    Args:
        run: its folder is meant.
        now: parsed configuration of this call.

    Returns:
        `trainer.accumulate_grad_batches` and what there is to say; None where nothing has to change, or where no whole
        number does it, which `check_continuation` refuses.
    """
    path = run.folder / "config.yaml"
    if is_thrown_away(run) or not path.exists():
        return None
    known = RunFile(run.folder).read()
    if not (known.finished or num_steps_done(run.checkpoints)):
        return None
    before = read_yaml(path, "give another run.name, or run.restart=true to throw the run away")
    try:
        batch = known.global_batch_size or global_batch(before)
        num_before, own_before = batch // _of_one_process(before), int(before["data"]["batch_size"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None  # no configuration of a run, which is refused where it is compared whole
    num_now = global_batch(now) // _of_one_process(now)
    own, size = int(now["data"]["batch_size"]), int(now["data"]["batch_size"]) * num_now
    # The first process has written the new number into the file by the time that those which it starts read it.
    is_asked_for = num_now == num_before and own != own_before
    if is_asked_for or batch == global_batch(now) or batch % size:
        return None
    number = batch // size
    return number, (
        f"{run.folder}: a step of this run has {batch} samples, so with {num_now} process(es) of {own} "
        f"trainer.accumulate_grad_batches is {number} (where samples of a batch are compared or normalized together, "
        "in contrastive objectives and batch norms, raise data.batch_size instead)"
    )


def _of_one_process(config: Config) -> int:
    return int(config["data"]["batch_size"]) * int(config["trainer"].get("accumulate_grad_batches") or 1)


def num_devices(devices: Any, accelerator: str | None = "auto") -> int:
    """Return the number of devices of this machine that Lightning would take."""
    on_gpu = accelerator_of(accelerator) == "gpu"
    if isinstance(devices, list):
        return len(devices)
    if isinstance(devices, str) and "," in devices:
        return len([one for one in devices.split(",") if one.strip()])
    if devices in (None, "auto", "-1", -1):
        return torch.cuda.device_count() if on_gpu else 1
    return int(devices)


def num_processes_here(asked: Mapping[str, Any]) -> int:
    """Return the number of processes of a run on this machine: what torchrun says, or else its devices.

    Args:
        asked: arguments of the trainer.
    """
    launched = os.environ.get("LOCAL_WORLD_SIZE", "")
    return int(launched) if launched.isdecimal() else num_devices(asked.get("devices"), asked.get("accelerator"))


def _flat(config: Config, prefix: str = "") -> dict[str, Any]:
    """Return values by their keys with dots; entries of a list of objects are counted."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
            kept = [one for one in value if not (key == "trainer.callbacks" and _is_onlooker(one))]
            value = {str(index): one for index, one in enumerate(kept)}
        if key == "trainer.strategy" and isinstance(value, Mapping):
            value = value.get("class_path")  # its options are those of communication
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{key}.")
        elif not (key == "trainer.callbacks" and not value):
            flat[key] = value
    return flat


def _is_onlooker(entry: Any) -> bool:
    path = str(entry.get("class_path", "")) if isinstance(entry, Mapping) else ""
    module, _, name = path.rpartition(".")
    return module.startswith("lightning.") and bool(ONLOOKERS.fullmatch(name))


def _is_decided_by_validation(config: Config) -> bool:
    """Return whether the best weights are kept, or a callback that changes the run follows a measured value."""
    entries = config["trainer"].get("callbacks") or []
    entries = [one for one in (entries if isinstance(entries, list) else [entries]) if not _is_onlooker(one)]
    watching = [one for one in entries if isinstance(one, Mapping) and (one.get("init_args") or {}).get("monitor")]
    return bool(watching) or (config.get("model") or {}).get("weights") == "best"


def _is_same(key: str, one: Any, other: Any) -> bool:
    if key == "trainer.accelerator":
        return accelerator_of(one) == accelerator_of(other)
    if key == "trainer.strategy":
        return _is_data_parallel(one) and _is_data_parallel(other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_is_same(key, *pair) for pair in zip(one, other, strict=True))
    # A store may be given alone or in a list.
    if isinstance(one, list) != isinstance(other, list):
        alone, listed = (other, one) if isinstance(one, list) else (one, other)
        return isinstance(alone, str) and len(listed) == 1 and _is_same(key, alone, listed[0])
    if isinstance(one, str) and isinstance(other, str):
        return one == other or _is_same_place(one, other)
    return bool(one == other)


def _is_same_place(one: str, other: str) -> bool:
    places = [Path(os.path.expanduser(name)) for name in (one, other)]
    if all(place.exists() for place in places):
        return os.path.samefile(*places)
    return os.path.realpath(places[0]) == os.path.realpath(places[1])


def _is_data_parallel(strategy: Any) -> bool:
    """Return whether the steps are those of one process, and checkpoints hold the whole network."""
    name = str(strategy).rpartition(".")[2].lower()
    return name in ("none", "auto", "single_device", "singledevicestrategy", SHARDED) or name.startswith("ddp")


def accelerator_of(name: Any) -> str:
    """Return `cpu`, `gpu` or another one's name: what Lightning takes where it is left to it."""
    if name in (None, "auto"):
        return "gpu" if torch.cuda.is_available() else "cpu"
    return "gpu" if name == "cuda" else str(name)


def _shown(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

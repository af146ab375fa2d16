"""A damaged or hostile file of any kind is one line that names it, or is read rightly; soon, and in little memory.

`MUTANTS=500 pytest tests/fuzz` tries as many of every kind.
"""

from __future__ import annotations

import os
import random
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from medpretrain3d.errors import UserError
from tests.fuzz.kinds import Kind, write_all

NUM_MUTANTS = int(os.environ.get("MUTANTS", "12"))
FIRST_SEED = int(os.environ.get("MUTANTS_SEED", "0"))
MAX_S = 20
MAX_BYTES = 2**30
"""That a reader may take beyond what the process has."""


class TooLong(BaseException):
    """No reader may catch it."""


@contextmanager
def bounded() -> Iterator[None]:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(MAX_S)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MAX_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.alarm(0)


def _too_long(*_: object) -> None:
    raise TooLong(f"longer than {MAX_S} s")


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    return write_all(tmp_path_factory.mktemp("kinds"))


KINDS = [
    *("store.json", "splits.json", "case.json", "image.b2nd", "mask.b2nd", "store.json, containers", "container"),
    *("note", "encoder.json", "encoder.safetensors", "bundle.json", "bundle.json, ensemble", "bundle.json, member"),
    *("rescorer.json", "rescorer.safetensors"),
    *("bundle.json, backbone", "detector.safetensors", "nnssl .pth", "old .pt"),
    *("safetensors", "last.ckpt", "last.ckpt, encoder", "plan.json", "recipe", "study", "config.yaml"),
    *("run.json", "run.json, resumed", "metrics.csv", "metrics.csv, resumed", "metrics.json", "slices.json"),
    *("predictions.json", "targets.json", "nnDetection boxes", "nnU-Net probabilities", "MONAI list", "marks"),
    *("nodules", "series", "scores", "case labels", "sightings"),
    *("dataset.json", "splits_final.json", "instances", "COCO", "boxes.csv", "LIDC XML", "Duke XLSX"),
    *("RTSTRUCT", "enhanced DICOM", "list of scans"),
    *(".nii", ".nii.gz", ".nrrd", ".mha", ".npy", "DICOM", "finished case"),
]


def test_every_kind_is_tried(kinds):
    assert list(kinds) == KINDS
    for kind in kinds.values():
        kind.read()


@pytest.mark.parametrize("name", KINDS)
def test_mutants_are_one_line_or_read(kinds, name, capfd):
    kind = kinds[name]
    valid = kind.file.read_bytes()
    failures = []
    try:
        for seed in range(FIRST_SEED, FIRST_SEED + NUM_MUTANTS):
            draw = random.Random(f"{name} {seed}")
            mutate = kind.mutators[seed] if seed < len(kind.mutators) else draw.choice(kind.mutators)
            kind.file.write_bytes(mutate(valid, draw))
            fault = _fault(kind)
            if fault:
                failures.append(f"seed {seed}, {mutate.__name__}: {fault}")
            kind.file.write_bytes(valid)
    finally:
        kind.file.write_bytes(valid)
    assert failures == []
    kind.read()


def _fault(kind: Kind) -> str:
    """What is wrong with how a mutant is met, empty if nothing."""
    try:
        with bounded():
            kind.read()
    except UserError as error:
        told = str(error).splitlines()[0]
        is_one_line = told.isprintable() and len(told) < 1500
        return "" if is_one_line and kind.named in told else f"not one line that names the file: {str(error)[:300]!r}"
    except (Exception, TooLong) as error:
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else ""
        return f"{type(error).__name__}: {str(error)[:200]} at {where}"
    return ""

"""Commands that are told to end do so at once, in one line, and the same call then ends as if nothing had happened."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from medpretrain3d.backbones import ResEnc
from medpretrain3d.detection import AnchorGrid, RetinaNet
from medpretrain3d.inference import InferenceConfig, save_bundle
from medpretrain3d.store.case import CaseData, Instance, write_case
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.preprocessing import Preprocessing
from medpretrain3d.store.store import write_index

from .struck import call

MOMENTS = (("open", 2, 15), ("open", 9, 2), ("os.rename", 0, 15))
"""A file of the inputs or outputs is about to be opened, or a finished one to be put in its place; and the signal."""
SIGNALS = {15: "SIGTERM", 2: "SIGINT"}


def write_inputs(root: Path) -> None:
    """A store of two cases, a bundle, predictions and targets."""
    random = np.random.default_rng(0)
    grid = Grid((24, 24, 24), np.diag([2.0, 2.0, 2.0, 1.0])[[2, 1, 0, 3]])
    rows = []
    for case_id in ("a", "b"):
        image = random.normal(-800, 30, (1, 24, 24, 24)).astype(np.int16)
        image[0, 4:12, 4:12, 4:12] += 900
        mask = np.zeros((24, 24, 24), np.uint16)
        mask[4:12, 4:12, 4:12] = 1
        objects = [Instance(1, 0, (4.0, 4, 4, 12, 12, 12))]
        rows.append(
            write_case(root / "store", CaseData(case_id, image, grid, grid, f"{case_id}.nii.gz", objects, mask))
        )
    write_index(root / "store", ["cube"], (2.0, 2.0, 2.0), rows, {"train": ["a"], "val": ["b"]})
    torch.manual_seed(0)
    detector = RetinaNet(ResEnc("XXS"), 1, AnchorGrid([[(4, 4, 4)]]), first_level=3, fpn_channels=16)
    config = InferenceConfig(score_threshold=0.0, max_per_class=5)
    save_bundle(root / "bundle", detector, ["cube"], Preprocessing((16, 16, 16), spacing_mm=(2, 2, 2)), config)
    box = [[0.0, 0, 0, 8, 8, 8]]
    targets = [{"case": case_id, "boxes": box, "labels": [0]} for case_id in "ab"]
    shared = {"classes": ["cube"], "frame": "lps_mm"}
    (root / "targets.json").write_text(json.dumps({**shared, "targets": targets}))
    found = [{**target, "scores": [0.5]} for target in targets]
    (root / "predictions.json").write_text(json.dumps({**shared, "predictions": found}))


COMMANDS = {
    "predict": "predict {0}/bundle {0}/store -o {0}/out --device cpu",
    "tune": "tune {0}/bundle --store {0}/store --split all --device cpu",
    "evaluate": "evaluate --predictions {0}/predictions.json --targets {0}/targets.json --bootstrap 50 "
    "-o {0}/metrics.json --csv {0}/scans.csv",
    "plan": "plan {0}/store --memory 2 --preset XXS -o {0}/plan.json",
}


def outcome(root: Path) -> dict[str, bytes]:
    """Every file of a folder by name, hidden ones too."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[tuple[int, str]]]]:
    """Folder and outcomes of each command: undisturbed, and at every moment struck and called again."""
    root = tmp_path_factory.mktemp("told")
    inputs = root / "inputs"
    write_inputs(inputs)
    plan: list[dict[str, object]] = []
    for command, words in COMMANDS.items():

        def arguments(number: int, command: str = command, words: str = words) -> list[str]:
            place = shutil.copytree(inputs, root / command / str(number))
            return words.format(place).split()

        plan.append({"arguments": arguments(0)})
        for number, (event, nth, signum) in enumerate(MOMENTS, start=1):
            again = arguments(number)
            plan += [{"arguments": again, "event": event, "nth": nth, "signal": signum}, {"arguments": again}]
    outcomes = call(plan, root)
    count = 1 + 2 * len(MOMENTS)
    return {
        command: (root / command, outcomes[index * count : (index + 1) * count])
        for index, command in enumerate(COMMANDS)
    }


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_told_to_end_leaves_nothing_half_and_the_same_call_goes_on(called, command):
    place, codes = called[command]
    assert codes[0][0] == 0, codes[0]
    num_struck = 0
    expected = outcome(place / "0")
    for number, (_, _, signum) in enumerate(MOMENTS, start=1):
        struck, again = codes[2 * number - 1], codes[2 * number]
        if struck[0] != 0:  # a command that opens fewer files was over
            num_struck += 1
            lines = [line for line in struck[1].splitlines() if "interrupted by" in line]
            assert struck[0] == 128 + signum, struck
            assert lines == [f"interrupted by {SIGNALS[signum]}; what was finished is kept, call again to go on"]
            assert "Traceback" not in struck[1]
        assert again[0] == 0, again
        found = outcome(place / str(number))
        assert {
            name: text.replace(f"{command}/{number}".encode(), f"{command}/0".encode()) for name, text in found.items()
        } == expected
    assert num_struck >= 2


def test_doctor_told_to_end_takes_its_check_along(tmp_path):
    strikes = "import os, pathlib, signal, time; pathlib.Path({path!r}).write_text(str(os.getpid())); "
    strikes += "os.kill(os.getppid(), {signum}); time.sleep(600)"
    plan = []
    for signum in SIGNALS:
        program = strikes.format(path=str(tmp_path / str(signum)), signum=signum)
        plan.append({"arguments": ["doctor"], "checks": {"first": "print(1)", "second": program}})
    for (signum, name), (code, told) in zip(SIGNALS.items(), call(plan, tmp_path), strict=True):
        assert code == 128 + signum, told
        assert told.splitlines() == [f"interrupted by {name}; what was finished is kept, call again to go on"]
        check = int((tmp_path / str(signum)).read_text())
        patience_s = 20.0  # on a busy machine the end of a process that was killed takes a while
        while Path(f"/proc/{check}").exists() and patience_s > 0:
            time.sleep(0.1)
            patience_s -= 0.1
        assert not Path(f"/proc/{check}").exists()

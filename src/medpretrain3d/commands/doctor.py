"""Check that the installed libraries work together and that the machine suits training, in ten seconds.

A torchvision built for another torch breaks `import lightning`, timm and MONAI with messages that name none of them, an
old blosc2 ends the process, an old timm builds other networks: each library is therefore used in a process of its own,
and its answer is compared with a known one. Versions below this package's bounds, which are what it was tested with,
are named. Of the machine it looks at shared memory, open files, caches, temporary files, the disk, the precision that
pays (timed) and, on a GPU, at 3D convolutions.

A line per check: `ok`, `note` (works, and what to do to make it better) or `BROKEN` (and what to do).
Exit code: 0 unless something is broken.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping

from medpretrain3d.commands.check_processes import ENDING, asked_for
from medpretrain3d.interruption import Interrupted
from medpretrain3d.threads import available_cores

PATIENCE_S = 300.0
"""For one check: compiling the loops of `boxes` takes a minute on a slow machine, and a library may wait for ever."""
NOTE = "note: "
"""How the answer of a check begins that nothing is broken by."""


def _check(name: str, module: str = "library_checks") -> str:
    return f"from medpretrain3d.commands import {module}; {module}.{name}()"


def _machine(name: str) -> str:
    return _check(name, "machine_checks")


CHECKS = {
    "versions": _check("versions"),
    "torch": _check("torch"),
    "torch + torchvision": (
        "import torch, torchvision\n"
        "boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2.1], [5, 5, 6, 6]])\n"
        "assert torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 2]\n"
        "print(torchvision.__version__)"
    ),
    "timm": _check("timm"),
    "lightning": (
        "import medpretrain3d.engine\n"  # which has it imported as the stages do
        "import lightning\n"
        "lightning.Trainer(barebones=True, max_steps=1)\n"
        "print(lightning.__version__)"
    ),
    "monai": _check("monai"),
    "blosc2": _check("blosc2"),
    "numba": _check("numba"),
    "scipy": _check("scipy"),
    "nibabel": _check("nibabel"),
    "safetensors": _check("safetensors"),
    "cc3d": _check("cc3d"),
    "pictures": _check("pictures"),
    "wandb": "import wandb; wandb.Settings(host='redacted', x_disable_meta=True); print(wandb.__version__)",
    "threads": _check("threads"),
    "shared memory": _machine("shared_memory"),
    "open files": _machine("open_files"),
    "caches": _machine("caches"),
    "temporary files": _machine("temporary_files"),
    "disk": _machine("free_disk"),
    "CUDA": _check("cuda"),
    "cuDNN": _check("cudnn"),
    "3D convolutions": _machine("convolutions"),
    "precision": _check("precision"),
}
"""A program per check."""
SHARED = "import torch, torchvision"
"""Done once for all: half of the CPU time of all checks otherwise. Lightning, timm and MONAI need both."""
APART = (
    *("versions", "blosc2", "scipy", "nibabel", "cc3d", "pictures", "wandb"),
    *("shared memory", "open files", "caches", "temporary files", "disk"),
)
"""Checks that need neither: they run meanwhile, and together take as long."""
LONGEST = ("monai", "timm", "lightning", "numba")
"""Checks that are begun first, so that no core waits for one at the end."""
ALONE = ("3D convolutions", "precision")
"""Checks that time something, or fill a GPU."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(args: argparse.Namespace) -> int:
    """Print a line per check; 1 when something is broken."""
    broken = 0
    for name, (fault, message) in _in_order(CHECKS):
        is_note = message.startswith(NOTE)
        state = "BROKEN" if fault else "note" if is_note else "ok"
        print(f"{name:<22}{state:<8}{fault or message.removeprefix(NOTE)}", flush=True)
        broken += bool(fault)
    if broken:
        print("install the pinned set: pip install -c constraints.txt -e .")
    return int(broken > 0)


def _in_order(programs: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield name and answer of each check in the given order, as soon as those before it are known."""
    waiting, known = list(programs), dict[str, tuple[str, str]]()
    for name, answer in _answers(programs):
        known[name] = answer
        while waiting and waiting[0] in known:
            yield waiting[0], known[waiting.pop(0)]


def _answers(programs: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield answers as they come, of processes that share an import of torch, or where that fails one by one."""
    left = dict(programs)
    command = [sys.executable, "-W", "ignore", "-m", "medpretrain3d.commands.check_processes"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        try:
            asked = asked_for(_longest_first(left), APART, ALONE, PATIENCE_S, available_cores(), SHARED)
            running.stdin.write(asked + "\n")
            running.stdin.close()
            for line in running.stdout:
                one = json.loads(line)
                del left[one["name"]]
                yield one["name"], _judged(one["code"], one["out"], one["err"])
        except BrokenPipeError:
            pass
        except BaseException:
            running.terminate()  # which takes its checks along
            raise
    if -running.returncode in ENDING:
        raise Interrupted(-running.returncode)
    for name, program in left.items():  # importing torch ended it
        yield name, _answer(program)


def _longest_first(programs: Mapping[str, str]) -> dict[str, str]:
    names = sorted(programs, key=lambda name: LONGEST.index(name) if name in LONGEST else len(LONGEST))
    return {name: programs[name] for name in names}


def _answer(program: str) -> tuple[str, str]:
    """What is wrong, empty if nothing is, and the last line that the program printed."""
    command = [sys.executable, "-W", "ignore", "-c", program]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        return _judged(None, "", "")
    return _judged(done.returncode, done.stdout, done.stderr)


def _judged(code: int | None, out: str, err: str) -> tuple[str, str]:
    if code is None:
        return f"no answer in {PATIENCE_S:g} s", ""
    if code == 0:
        return "", _last_line(out)
    message = _last_line(err)
    if code < 0:
        return f"the process was ended by {signal.Signals(-code).name} {message}".rstrip(), ""
    return message or f"exit code {code}", ""


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]

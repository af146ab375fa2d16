"""A folder of phantoms: images, instance maps, splits, a table of boxes and one of cases, in nnU-Net's layout."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import with_config
from typing_extensions import TypedDict

from medpretrain3d.atomic import locked_folder, write_text
from medpretrain3d.documents import SCHEMA, Number, Whole, csv_text, json_text, read_json
from medpretrain3d.errors import UserError
from medpretrain3d.phantom.case import make_case, planned_diameters_mm
from medpretrain3d.phantom.files import CaseFiles, write_case
from medpretrain3d.phantom.split import split_cases
from medpretrain3d.store.grid import Grid
from medpretrain3d.worker_pool import worker_pool

FORMAT = "medpretrain3d-phantom"
VERSION = 2
"""Raised whenever the same parameters give other bytes than before."""

CLASSES = ("nodule",)
CASE_COLUMNS = ("case", "label")
BOX_COLUMNS = ("case", "label", "i0", "j0", "k0", "i1", "j1", "k1", "x0", "y0", "z0", "x1", "y1", "z1", "diameter_mm")
SPACING_RANGE_MM = (1.0, 10.0)


@dataclass(frozen=True)
class PhantomFolder:
    """Result of `write_phantom`: the folder, its splits (case ids), and how much of it was there before.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from medpretrain3d.phantom import write_phantom
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     phantom = write_phantom(Path(folder) / "raw", num_cases=3, seed=0, spacing_mm=10.0)
        >>> {name: len(cases) for name, cases in phantom.splits.items()}
        {'val': 1, 'test': 1, 'train': 1}
    """

    path: Path
    splits: dict[str, list[str]]
    num_nodules: int
    num_written: int
    num_reused: int


def write_phantom(
    out: Path,
    num_cases: int,
    seed: int = 0,
    spacing_mm: float = 2.0,
    workers: int = 1,
    progress: bool = False,
    organs: bool = False,
) -> PhantomFolder:
    """Write synthetic chest CTs with nodules; cases that are there already are kept, so an interrupted call goes on.

    Every byte is a function of (`num_cases`, `seed`, `spacing_mm`): `workers` changes only the time.

    Args:
        out: the folder; new, empty, or written by an earlier call with the same parameters.
        num_cases: training, validation and test cases together (60/20/20).
        seed: another seed gives other patients.
        spacing_mm: nominal edge of a voxel; each case varies around it. At 2 mm a case has about 150 x 115 x 160
            voxels and the smallest common nodule (5.6 mm) is three voxels wide.
        workers: processes.
        progress: show a progress bar.
        organs: whether masks of the lungs, nodules included, are there too: `organs/<case>/lung.nii.gz`.

    Raises:
        UserError: a parameter out of range, a folder that holds something else or that another call fills, or a disk
            that is full or read-only.
    """
    out = Path(out)
    parameters = _checked_parameters(num_cases, seed, spacing_mm)
    if workers < 1:
        raise UserError(f"workers: got {workers}, wanted 1 or more")
    with locked_folder(out):
        return _write(out, parameters, workers, progress, organs)


def _write(out: Path, parameters: dict[str, Any], workers: int, progress: bool, organs: bool) -> PhantomFolder:
    num_cases, seed, spacing_mm = (parameters[name] for name in ("num_cases", "seed", "spacing_mm"))
    manifest = out / "phantom.json"
    is_complete = _claim(out, manifest, parameters)
    case_ids = [f"phantom_{index:04d}" for index in range(num_cases)]
    has_nodules = [len(planned_diameters_mm(seed, index)) > 0 for index in range(num_cases)]
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, num_cases])))
    parts = split_cases(has_nodules, rng)
    files = [CaseFiles.of(out, case_ids[index], index in parts["test"], organs) for index in range(num_cases)]
    missing = [index for index in range(num_cases) if not files[index].all_exist()]
    splits = {name: [case_ids[index] for index in indices] for name, indices in parts.items()}
    if missing or not is_complete:
        with _progress_bar(num_cases, num_cases - len(missing), progress) as advance:
            jobs = [(files[index], seed, index, spacing_mm) for index in missing]
            for _ in _run(jobs, min(workers, len(jobs))):
                advance()
        _write_tables(out, case_ids, files, splits)
        write_text(manifest, json_text({**parameters, "complete": True}, indent=1))
    num_nodules = sum(len(_read_table(its_files)["instances"]) for its_files in files)
    return PhantomFolder(out, splits, num_nodules, len(missing), num_cases - len(missing))


def _checked_parameters(num_cases: int, seed: int, spacing_mm: float) -> dict[str, Any]:
    if num_cases < 1:
        raise UserError(f"number of cases: got {num_cases}, wanted 1 or more; give for example 20")
    if seed < 0:
        raise UserError(f"seed: got {seed}, wanted 0 or more")
    low, high = SPACING_RANGE_MM
    if not low <= spacing_mm <= high:
        raise UserError(f"spacing: got {spacing_mm} mm, wanted {low:g} to {high:g} mm; nodules are 5 to 40 mm wide")
    return {
        "format": FORMAT,
        "version": VERSION,
        "num_cases": int(num_cases),
        "seed": int(seed),
        "spacing_mm": float(spacing_mm),
    }


def _claim(out: Path, manifest: Path, parameters: dict[str, Any]) -> bool:
    """Make sure that `out` is ours to fill with these parameters; whether it was completed before."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file, wanted a folder; choose another place")
    if not manifest.is_file():
        # Hidden files do not count: an earlier call may have been killed while it wrote phantom.json.
        if out.is_dir() and any(not entry.name.startswith(".") for entry in out.iterdir()):
            raise UserError(f"{out}: holds other files and no phantom.json; choose a new or empty folder")
        write_text(manifest, json_text({**parameters, "complete": False}, indent=1))
        return False
    try:
        found: dict[str, Any] = read_json(manifest, dict[str, Any], f"remove the folder {out} and call again")
        is_complete = bool(found.pop("complete"))
    except KeyError as error:
        raise UserError(f"{manifest}: lacks {error}; remove the folder {out} and call again") from error
    if found != parameters:
        differing = ", ".join(f"{key} {found.get(key)}" for key in parameters if found.get(key) != parameters[key])
        wanted = ", ".join(f"{key} {parameters[key]}" for key in parameters if found.get(key) != parameters[key])
        raise UserError(
            f"{out}: holds a phantom made with {differing or 'unknown parameters'}, wanted {wanted}; "
            "choose another folder or remove this one"
        )
    return is_complete


Job = tuple[CaseFiles, int, int, float]


def _run(jobs: list[Job], workers: int) -> Iterator[None]:
    """Write each job's case; yields after each, in no particular order."""
    if workers <= 1:
        for job in jobs:
            _write_one(*job)
            yield
        return
    with worker_pool(workers) as pool:
        for future in as_completed([pool.submit(_write_one, *job) for job in jobs]):
            future.result()
            yield


def _write_one(files: CaseFiles, seed: int, index: int, spacing_mm: float) -> None:
    write_case(files, make_case(seed, index, spacing_mm), seed, index)


@contextmanager
def _progress_bar(total: int, initial: int, progress: bool) -> Iterator[Any]:
    from tqdm import tqdm

    with tqdm(total=total, initial=initial, desc="phantom", unit="case", disable=None if progress else True) as bar:
        yield lambda: bar.update(1)


def _write_tables(out: Path, case_ids: list[str], files: list[CaseFiles], splits: dict[str, list[str]]) -> None:
    boxes = {case_id: list(_box_rows(its_files)) for case_id, its_files in zip(case_ids, files, strict=True)}
    write_text(
        out / "boxes.csv", csv_text(BOX_COLUMNS, ([case_id, *row] for case_id, rows in boxes.items() for row in rows))
    )
    write_text(
        out / "cases.csv",
        csv_text(CASE_COLUMNS, ([case_id, "nodule" if rows else "no nodule"] for case_id, rows in boxes.items())),
    )
    write_text(out / "splits.json", json_text([{"train": splits["train"], "val": splits["val"]}], indent=1))
    document = {
        "name": "phantom",
        "description": "synthetic chest CTs with lung nodules; no patient data",
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{name: value for value, name in enumerate(CLASSES, start=1)}},
        "instances": True,
        "numTraining": len(splits["train"]) + len(splits["val"]),
        "file_ending": ".nii.gz",
    }
    write_text(out / "dataset.json", json_text(document, indent=1))
    for part in ("imagesTs", "labelsTs"):  # readers look for them even where a small phantom has no test case
        (out / part).mkdir(exist_ok=True)


def _box_rows(files: CaseFiles) -> Iterator[list[Any]]:
    """Return rows of the box table of one case, from the files themselves: label, file voxels, LPS mm, diameter."""
    import nibabel
    from scipy.ndimage import find_objects

    table = _read_table(files)
    if not table["instances"]:
        return
    image = nibabel.Nifti1Image.from_filename(files.labels)
    affine_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
    found = find_objects(np.asanyarray(image.dataobj))
    boxes_vox = np.array([[part.start for part in box] + [part.stop for part in box] for box in found])
    width, depth, height = image.shape
    boxes_lps_mm = Grid((width, depth, height), affine_lps).boxes_to_lps_mm(boxes_vox)
    for instance, (box_vox, box_lps_mm) in enumerate(zip(boxes_vox, boxes_lps_mm, strict=True), start=1):
        label = CLASSES[table["instances"][str(instance)]]
        yield [label, *box_vox.tolist(), *box_lps_mm.round(4).tolist(), table["diameters_mm"][str(instance)]]


@with_config(SCHEMA)
class _Table(TypedDict):
    """Schema of a case's nodule table, by their value in the label map."""

    instances: dict[str, Whole]
    diameters_mm: dict[str, Number]


def _read_table(files: CaseFiles) -> _Table:
    return read_json(files.table, _Table, "remove it and call again, it is made again")

"""The plan: a JSON file to read, edit, check, and turn into the part of a recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from medpretrain3d.atomic import write_text
from medpretrain3d.backbones.base import check_patch
from medpretrain3d.backbones.resenc import PRESETS
from medpretrain3d.configurable import Config, from_config
from medpretrain3d.documents import Artifact, json_text
from medpretrain3d.errors import UserError
from medpretrain3d.planning.topology import Topology, Triple
from medpretrain3d.store.normalization import Normalization

DOCUMENT = Artifact(
    "medpretrain3d-plan", 1, dict[str, Any], "this is no plan as wanted, correct it, or make one with `plan STORE -o`"
)
Size = tuple[float, float, float]


@dataclass(frozen=True)
class Plan:
    """Training plan of a dataset. Axes are (D, H, W).

    Raises:
        UserError: a value that cannot be; the message begins with its name.

    Example:
        >>> from medpretrain3d.planning import Plan
        >>> plan = Plan(
        ...     spacing_mm=(2.5, 1.0, 1.0), patch=(32, 64, 64), batch_size=2, preset="XXS",
        ...     strides=((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2)),
        ...     kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
        ... )
        >>> plan.recipe()["data"]
        {'patch': [32, 64, 64], 'batch_size': 2}
    """

    spacing_mm: Size
    """To prepare the data at."""
    patch: Triple
    """In voxels of that spacing."""
    batch_size: int
    """Per process."""
    preset: str
    """Of ResEnc."""
    strides: tuple[Triple, ...]
    """Of each stage."""
    kernel_sizes: tuple[Triple, ...]
    """Of each stage."""
    first_level: int | None = None
    """Finest stage that objects are detected on, and of points the one that is; None without objects."""
    anchors: tuple[tuple[Size, ...], ...] | None = None
    """Extents in voxels, per detection level; None without objects, or where they are points, which have none."""
    window: Config | None = None
    """How intensities are normalised, a class of `medpretrain3d.store.intensity`; None leaves that to the recipe."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """What the plan was made from and what it promised; edited values leave it as it is."""

    def __post_init__(self) -> None:
        """Check every value, and those that hang together."""
        _check_numbers("spacing_mm", self.spacing_mm, float)
        _check_numbers("patch", self.patch, int)
        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise UserError(f"batch_size: got {self.batch_size!r}, wanted a whole number from 1 up")
        if self.preset not in PRESETS:
            raise UserError(f"preset: got {self.preset!r}, wanted one of {', '.join(PRESETS)}")
        num_stages = len(PRESETS[self.preset].channels)
        for name in ("strides", "kernel_sizes"):
            per_stage = getattr(self, name)
            if len(per_stage) != num_stages:
                raise UserError(f"{name}: got {len(per_stage)}, wanted {num_stages}, one per stage of {self.preset}")
            for triple in per_stage:
                _check_numbers(name, triple, int)
        if any(size % 2 == 0 for kernel in self.kernel_sizes for size in kernel):
            raise UserError("kernel_sizes: an even kernel shifts the image by half a voxel; use 1, 3 or 5")
        try:
            check_patch(self.patch, self.topology.reached[-1])
        except UserError as error:
            raise UserError(f"patch: {error}") from error
        self._check_levels(num_stages)
        if self.window is not None:
            _check_window(self.window)

    @property
    def topology(self) -> Topology:
        """Strides and kernels."""
        return Topology(self.strides, self.kernel_sizes)

    def recipe(self) -> dict[str, Any]:
        """Return the part of a recipe that follows from the plan, for `--config` behind another recipe."""
        plain = json.loads(json.dumps(asdict(self)))
        stages = {name: plain[name] for name in ("preset", "strides", "kernel_sizes")}
        backbone = {"class_path": "medpretrain3d.backbones.ResEnc", "init_args": stages}
        data = {"patch": plain["patch"], "batch_size": plain["batch_size"]}
        if self.window is not None:
            data["window"] = plain["window"]
        if self.anchors is None and self.first_level is not None:
            arguments = {"backbone": backbone, "spacing_mm": plain["spacing_mm"], "first_level": self.first_level}
            return {"model": {"detector": {"init_args": arguments}}, "data": data}
        if self.anchors is None:
            return {"model": {"objective": {"init_args": {"backbone": backbone}}}, "data": data}
        anchors = {"class_path": "medpretrain3d.detection.AnchorGrid", "init_args": {"sizes": plain["anchors"]}}
        arguments = {"backbone": backbone, "first_level": self.first_level, "anchors": anchors}
        return {"model": {"detector": {"init_args": arguments}}, "data": data}

    def write(self, path: Path) -> None:
        """Write the plan as JSON."""
        write_text(path, _readable(DOCUMENT.document(asdict(self))) + "\n")

    def _check_levels(self, num_stages: int) -> None:
        if self.anchors is None and self.first_level is None:
            return
        if self.first_level is None:
            raise UserError(
                "first_level and anchors: wanted both, first_level alone for points, or null for both where nothing is "
                "detected"
            )
        if self.anchors is None:
            if not isinstance(self.first_level, int) or not 0 <= self.first_level < num_stages:
                raise UserError(f"first_level: got {self.first_level!r}, wanted 0 to {num_stages - 1}, a stage")
            return
        counts = [len(level) if isinstance(level, tuple) else 0 for level in self.anchors]
        if not counts or len(set(counts)) != 1 or counts[0] == 0:
            raise UserError(f"anchors: got {counts} per level, wanted the same number on every level, at least 1")
        for level in self.anchors:
            for size in level:
                _check_numbers("anchors", size, float)
        if not isinstance(self.first_level, int) or not 0 <= self.first_level <= num_stages - len(counts):
            raise UserError(
                f"first_level: got {self.first_level!r}, wanted 0 to {num_stages - len(counts)}, so that the "
                f"{len(counts)} levels of anchors end within the {num_stages} stages of {self.preset}"
            )


def read_plan(path: Path) -> Plan:
    """Read a plan, edited or not.

    Raises:
        UserError: no such file, no plan, an unknown or missing key, or a value that cannot be; names the key.
    """
    document = DOCUMENT.read(Path(path))
    values = {key: _tuples(value) for key, value in document.items() if key not in ("format", "version", "report")}
    known = {one.name: one for one in fields(Plan)}
    for key in values:
        if key not in known:
            raise UserError(f"{path}: {key}: unknown key; a plan has {', '.join(known)}")
    for key in ("spacing_mm", "patch", "batch_size", "preset", "strides", "kernel_sizes"):
        if key not in values:
            raise UserError(f"{path}: {key}: is missing")
    for key in ("strides", "kernel_sizes", "anchors"):
        if not isinstance(values.get(key, ()), tuple | None):
            raise UserError(f"{path}: {key}: got {values[key]!r}, wanted a list")
    try:
        return Plan(**values, report=document.get("report", {}))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _check_window(window: Any) -> None:
    if not isinstance(window, Mapping) or "class_path" not in window:
        raise UserError(f"window: got {window!r}, wanted class_path and init_args of a normalisation")
    try:
        normalization = from_config(window)
    except UserError as error:
        raise UserError(f"window: {error}") from error
    if not isinstance(normalization, Normalization):
        raise UserError(f"window: {window['class_path']} is no normalisation, see docs/data.md#intensities")


def _check_numbers(name: str, triple: Any, kind: type) -> None:
    accepted = (int,) if kind is int else (int, float)
    numbers = isinstance(triple, tuple) and len(triple) == 3
    if not numbers or not all(type(value) in accepted and value > 0 for value in triple):
        shown = list(triple) if isinstance(triple, tuple) else triple
        wanted = "whole numbers" if kind is int else "numbers"
        raise UserError(f"{name}: got {shown!r}, wanted three positive {wanted} (D, H, W)")


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _readable(document: dict[str, Any]) -> str:
    """Return JSON with one line per key, and one per stage or level."""
    lines = []
    for key, value in document.items():
        text = json_text(value).strip()
        if isinstance(value, tuple | list) and value and isinstance(value[0], tuple | list):
            text = "[\n  " + ",\n  ".join(json_text(row).strip() for row in value) + "\n ]"
        lines.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}"

"""The page of a plan as one HTML file that needs no other and asks no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, PackageLoader
from markupsafe import Markup

from medpretrain3d.atomic import write_text
from medpretrain3d.plan_page.examples import example_pictures
from medpretrain3d.plan_page.figures import intensity_figure, size_figure, spacing_figure
from medpretrain3d.plan_page.tables import class_table, plan_table, scan_table, split_table
from medpretrain3d.planning import Plan
from medpretrain3d.planning.fingerprint import Fingerprint
from medpretrain3d.planning.recipe import PlannedDetector, detector_of
from medpretrain3d.store.store import Store

TITLE = b"<title>Plan of "
"""What the head of each page holds."""
LEADS: Mapping[PlannedDetector, str] = {
    "HeatMap": "HeatMap, which learns their centers and no size",
    "RetinaUNet": "Retina U-Net, which learns from their outlines too",
    "RetinaNet": "RetinaNet",
}


def write_plan_page(
    path: Path,
    store: Store,
    fingerprint: Fingerprint,
    plan: Plan,
    warnings: Sequence[str],
    recipe: str,
    command: str,
) -> None:
    """Write it.

    Args:
        path: HTML file.
        store: at the spacing of the plan, whose slices are shown.
        fingerprint: of the data before they were resampled.
        plan: for it.
        warnings: a line each.
        recipe: its text.
        command: that trains by it.

    Raises:
        UserError: the file cannot be written, or a case that is shown is damaged.
    """
    # Style sheets are those of a study's report.
    loaders = [PackageLoader("medpretrain3d", folder) for folder in ("plan_page", "study", "visualization")]
    environment = Environment(loader=ChoiceLoader(loaders), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("plan.html.jinja").render(
        fingerprint=fingerprint,
        lead=_lead(fingerprint, plan),
        warnings=warnings,
        command=command,
        recipe=recipe,
        sizes=Markup(size_figure(fingerprint)),
        classes=class_table(fingerprint),
        spacings=Markup(spacing_figure(fingerprint, plan)),
        scans=scan_table(fingerprint, plan),
        intensities=Markup(intensity_figure(fingerprint)),
        splits=split_table(store),
        plan=plan_table(plan),
        examples=example_pictures(store),
        store=store.place,
    )
    write_text(path, page)


def is_plan_page(path: Path) -> bool:
    """Whether `write_plan_page` made a file: of this version or an earlier one."""
    try:
        with path.open("rb") as file:
            return TITLE in file.read(4096)
    except OSError:
        return False


def _lead(fingerprint: Fingerprint, plan: Plan) -> str:
    num_objects = len(fingerprint.objects.labels)
    classes = f"{len(fingerprint.classes)} classes" if len(fingerprint.classes) > 1 else f"'{fingerprint.classes[0]}'"
    detector = LEADS[detector_of(plan, fingerprint)]
    spacing = " x ".join(f"{edge:g}" for edge in plan.spacing_mm)
    patch = " x ".join(map(str, plan.patch))
    return (
        f"{len(fingerprint.case_ids)} scans of {fingerprint.num_patients} patients with {num_objects} objects of "
        f"{classes}. Planned: {spacing} mm, patches of {patch} voxels, ResEnc-{plan.preset} in a {detector}."
    )

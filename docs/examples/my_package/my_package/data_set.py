"""A data set of one's own: RAW/ct/<id>.nii.gz and RAW/nodules/<id>.nii.gz, in which every value is a nodule."""

from __future__ import annotations

from pathlib import Path

from medpretrain3d.ingest.importers import Layout, RawCase, RawDataset, register_layout


def read_my_scans(raw: Path) -> RawDataset:
    """List the cases; every fifth one is for the test."""
    cases = []
    for number, path in enumerate(sorted((raw / "ct").glob("*.nii.gz"))):
        labels = raw / "nodules" / path.name
        problem = "" if labels.is_file() else f"nodules/{path.name} is missing"
        split = "test" if number % 5 == 4 else "train"
        case_id = path.name.removesuffix(".nii.gz")
        cases.append(RawCase(case_id, (path,), labels, class_of_value=None, split=split, problem=problem))
    return RawDataset(("nodule",), tuple(cases), channel_names=("CT",))


register_layout(
    Layout(
        name="my_scans",
        kind="detection",
        classes=("nodule",),
        licence="CC BY 4.0",
        wanted="  RAW/ct/<id>.nii.gz\n  RAW/nodules/<id>.nii.gz",
        patterns=("ct/*.nii.gz", "nodules/*.nii.gz"),
        read=read_my_scans,
    )
)

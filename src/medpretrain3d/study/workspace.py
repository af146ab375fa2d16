"""The dashboard of a project at wandb: arms side by side, as a saved view that wandb-workspaces writes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medpretrain3d.command_line.suggestions import did_you_mean
from medpretrain3d.documents import json_text
from medpretrain3d.errors import UserError
from medpretrain3d.run_metadata import read_run_metadata

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

    from medpretrain3d.evaluation.protocols import ObjectProtocol

STEP, SAMPLES = "trainer/global_step", "samples_seen"
TRAINING = ("train/loss", "lr")
PARTS = ("class/", "size/")
"""How the names of numbers over a part of the objects begin, `class/nodule/AP50`."""
COSTS = {"compute_hours": "device hours", "flop": "floating point operations of training", "minutes": "minutes"}
SPEED = ("perf/samples_per_s", "perf/data_wait_share", "perf/peak_memory_gb")
NUM_PICTURES = 8
_ID = re.compile(r"^[A-Za-z0-9_-]{1,128}$")


@dataclass(frozen=True)
class Dashboard:
    """What a dashboard is of, and what it compares."""

    entity: str
    project: str
    name: str = "Comparison of arms"
    metric: str = "mAP"
    """Primary metric, as runs have it below `test/`; curves are those that runs scored like it have."""
    baseline: str | None = None
    """Id of a run that the others are compared with; it stays on top."""
    group: str | None = None
    """Of the runs that are shown; all of the project where none is given."""


def run_id_of(baseline: str) -> str:
    """Return the id of a run at wandb, of its folder or of the id itself.

    Raises:
        UserError: a folder whose `run.json` has none, or neither.
    """
    path = Path(baseline) / "run.json"
    if path.is_file():
        found = read_run_metadata(path).run_id
        if found is None:
            raise UserError(f"{path}: has no run_id, as runs of earlier versions have none; give its id at wandb")
        return found
    if not _ID.match(baseline):
        raise UserError(f"baseline {baseline}: wanted the folder of a run, or its id at wandb")
    return baseline


def workspace_of(dashboard: Dashboard) -> Workspace:
    """Return the view, which is not saved yet: runs grouped by arm, mean and band over those that are shown.

    Of a group with several data sets, detectors, folds or budgets these are in mean and band as well, until its user
    filters to one of each: only then they are over seeds.

    Raises:
        UserError: wandb-workspaces is not installed, or no run has such a metric.
    """
    protocol = _protocol_of(dashboard.metric)
    try:
        import wandb_workspaces.reports.v2
        import wandb_workspaces.workspaces as ws
        from wandb_workspaces import expr
    except ImportError as error:
        raise UserError('workspace: install it with pip install "medpretrain3d[workspace]"') from error
    wr: Any = wandb_workspaces.reports.v2  # whose types say less than it holds
    primary, arm = f"test/{dashboard.metric}", wr.Config("arm")
    curves = [f"val/{name}" for name in protocol.watched]
    charts = [("froc", "FROC: sensitivity", "false positives per scan")]
    if protocol.name == "detection":
        charts.append(("precision_recall", "Precision at recall", "recall"))

    def band(metric: str, x: str) -> Any:
        about: dict[str, Any] = {"groupby": arm, "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
        title = f"{metric}, mean and standard deviation over all runs of an arm that are shown"
        return wr.LinePlot(title=title, x=x, y=[metric], **about)

    def bars(title: str, *metrics: str) -> Any:
        about: dict[str, Any] = {"groupby": arm, "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
        return wr.BarPlot(title=title, metrics=[wr.SummaryMetric(one) for one in metrics], **about)

    def against(title: str, fact: str, log: bool) -> Any:
        return wr.ScatterPlot(title=title, x=wr.Config(fact), y=wr.SummaryMetric(primary), log_x=log)

    def chart(table: str, title: str, x_name: str) -> Any:
        return wr.CustomChart(
            query={"summaryTable": {"tableKey": f"test/{table}_table"}},
            chart_name="wandb/lineseries/v0",
            chart_fields={"step": "step", "lineKey": "lineKey", "lineVal": "lineVal"},
            chart_strings={"title": title, "xname": x_name},
        )

    pictures = [f"test/boxes_{number}" for number in range(NUM_PICTURES)]
    sections = {
        "Answer": [
            bars(f"{primary}, by arm", primary),
            bars("lower and upper end of its interval", f"{primary}_low", f"{primary}_high"),
            wr.ScalarChart(title=f"best {primary}", metric=wr.SummaryMetric(primary), groupby_aggfunc="max"),
        ],
        "Label efficiency": [
            against(f"{primary} by labelled cases", "num_train_cases", True),
            against(f"{primary} by share of labels", "label_fraction", False),
        ],
        "Curves over optimizer steps": [band(one, STEP) for one in (*curves, *TRAINING)],
        "Curves over samples seen": [band(one, SAMPLES) for one in curves],
        "FROC, precision and recall": [chart(*one) for one in charts],
        "Cost": [
            *(bars(title, fact) for fact, title in COSTS.items()),
            against(f"{primary} by device hours of fine-tuning", "compute_hours", False),
            *(band(one, STEP) for one in SPEED),
        ],
        "Pictures": [
            wr.MediaBrowser(title="truth and detections", media_keys=pictures, grid_x_axis="run", grid_y_axis="index"),
            wr.MediaBrowser(title="what pretraining restores", media_keys=["val/preview"], gallery_axis="step"),
        ],
    }
    filters = [expr.Metric("State") == "finished"]
    if dashboard.group is not None:
        filters.append(expr.Metric("Group") == dashboard.group)
    runs = ws.RunsetSettings(
        filters=filters,
        groupby=[expr.Config("arm")],
        order=[expr.Ordering(expr.Summary(primary), ascending=False)],
        pinned_columns=[
            "config:arm",
            "config:dataset",
            "config:detector",
            "config:num_train_cases",
            f"summary:{primary}",
        ],
        baseline_run=dashboard.baseline,
        pinned_runs=[dashboard.baseline] if dashboard.baseline else [],
    )
    return ws.Workspace(
        entity=dashboard.entity,
        project=dashboard.project,
        name=dashboard.name,
        sections=[
            ws.Section(name=name, panels=panels, is_open=place < 3, pinned=place == 0)
            for place, (name, panels) in enumerate(sections.items())
        ],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=100, sort_panels_alphabetically=False),
        runset_settings=runs,
    )


def _protocol_of(metric: str) -> ObjectProtocol:
    """Return the protocol by which runs are scored that have a metric; of a part of the objects by its last word.

    Raises:
        UserError: none have it, so that panels would stay empty.
    """
    from medpretrain3d.evaluation.protocols import DETECTION, PROTOCOLS  # seconds, which the help does without

    name = metric.rpartition("/")[2] if metric.startswith(PARTS) else metric
    found = next((one for one in PROTOCOLS.values() if name in one.tracked), None)
    if found is None and not metric.startswith(PARTS):
        known = [each for one in PROTOCOLS.values() for each in one.tracked]
        raise UserError(
            f"metric '{metric}': wanted one that runs have below test/: {', '.join(known)}, or class/NAME/AP50"
            f"{did_you_mean(metric, known)}"
        )
    return found or DETECTION


def save(workspace: Workspace) -> str:
    """Save a view at wandb; returns its address.

    Raises:
        UserError: wandb is not reached, or refuses.
    """
    try:
        workspace.save()  # type: ignore[no-untyped-call]  # the library has no types there
    except Exception as error:  # the library and what it stands on raise many kinds
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(
            f"{workspace.entity}/{workspace.project}: not saved ({why}); log in with `wandb login`, or write the "
            "document with --output FILE"
        ) from error
    return str(workspace.url)


def document_of(workspace: Workspace) -> str:
    """Return the document of a view as JSON; ids, which the library draws at random, are counted."""
    model = workspace._to_model()
    plain: dict[str, Any] = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    return json_text(_counted(plain, {}), indent=1)


def _counted(value: Any, known: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _id(key, inner, known) for key, inner in value.items()}
    return [_counted(one, known) for one in value] if isinstance(value, list) else value


def _id(key: str, value: Any, known: dict[str, str]) -> Any:
    if key in ("__id__", "id", "name") and isinstance(value, str) and _RANDOM.match(value):
        return known.setdefault(value, f"{len(known)}")
    return _counted(value, known)


_RANDOM = re.compile(r"^(nw-)?[a-z0-9]{9,16}(-v)?$")

"""The end of a fine-tuning run: the detector bundle, and its test on volumes it has never seen."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch

from finetune.board import board_of_test, case_key, case_table, class_table, pictured, table_csv
from finetune.datamodule import FinetuneData
from finetune.final_weights import FinalWeights
from finetune.module import FinetuneModule
from finetune.provenance import begun_from, volumes_seen
from finetune.scoring import CaseResult, logged_metrics
from finetune.unlabeled_term import unlabeled_provenance
from finetune.validation_detections import complete_raw_detections, take_results
from medpretrain3d.atomic import write_text
from medpretrain3d.backbones.checkpoints.bundle import BUNDLE_DOCUMENT
from medpretrain3d.boxes import Detections
from medpretrain3d.cross_validation.validation_scores import operating_points_of_cache
from medpretrain3d.documents import json_text
from medpretrain3d.engine.compute import ComputeMeter
from medpretrain3d.engine.results_board import Table
from medpretrain3d.engine.run import RunConfig, RunFile, git_sha
from medpretrain3d.engine.run_log import run_log
from medpretrain3d.engine.tracked_run import SAMPLES, tracked_runs
from medpretrain3d.evaluation import read_targets
from medpretrain3d.evaluation.bootstrap import Resampling
from medpretrain3d.evaluation.protocols import CENTER, ObjectProtocol
from medpretrain3d.evaluation.size_strata import DIAMETERS_MM
from medpretrain3d.evaluation.trivial_baselines import trivial_baselines
from medpretrain3d.inference import InferenceConfig, Prediction, save_bundle, write_predictions
from medpretrain3d.inference.bundle import set_operating_points
from medpretrain3d.inference.cached_detections import CachedDetections
from medpretrain3d.run_metadata import RunMetadata
from medpretrain3d.store.corpus import CaseRef
from medpretrain3d.store.targets import targets_json
from medpretrain3d.visualization.box_pictures import boxes_on_slices
from medpretrain3d.visualization.pictures import save_png
from medpretrain3d.visualization.slice_stack import slice_stack, write_slices

MAX_PICTURES = 40


def finalize(
    trainer: L.Trainer,
    module: FinetuneModule,
    data: FinetuneData,
    run: RunConfig,
    run_file: RunFile,
    config: str,
    compute: ComputeMeter,
    weights: FinalWeights,
) -> None:
    """Write `bundle/` and `test/` into the run's folder and say in `run.json` that the run is finished.

    Every process detects in its share of the test volumes; the first one writes.

    Args:
        trainer: has just finished fitting.
        module: with the final weights.
        data: its test split may be empty; then only the bundle is written.
        run: where the run belongs.
        run_file: its `run.json`.
        config: the whole configuration as text.
        compute: what the run has cost.
        weights: which weights those are.
    """
    if trainer.is_global_zero:
        write_bundle(run.folder / "bundle", trainer, module, data, run, config, weights)
    complete_raw_detections(run.raw_detections, trainer, module)
    if trainer.is_global_zero and data.val_cases:
        weights_sha256 = BUNDLE_DOCUMENT.read(run.folder / "bundle" / "bundle.json")["weights_sha256"]
        seen = replace(CachedDetections.load(run.raw_detections), weights_sha256=weights_sha256)
        seen.save(run.raw_detections)
        points = operating_points_of_cache(seen, module.inference, module.scored_by is CENTER)
        if points is not None:
            set_operating_points(run.folder / "bundle", points)
    if data.test_cases and not take_results(run.raw_detections, trainer, module):
        trainer.test(module, data, verbose=False)
    if not trainer.is_global_zero:
        return
    run_file.update(RunMetadata(steps=trainer.global_step, weights=weights.name) | module.metadata() | data.metadata())
    if data.test_cases:
        _write_test(run.folder / "test", module, data, trainer, run.share_machine)
    run_file.update(RunMetadata(finished=True) | compute.metadata(trainer))
    if module.finished is not None:
        module.finished.remove()
    run_log.say(f"detector bundle: {run.folder / 'bundle'}")
    _keep_bundle(trainer, run.folder / "bundle", data)


def write_bundle(
    folder: Path,
    trainer: L.Trainer,
    module: FinetuneModule,
    data: FinetuneData,
    run: RunConfig,
    config: str,
    weights: FinalWeights,
) -> None:
    """Write the detector as it is now, at the end of a run or on its way; see `finalize`."""
    provenance = {
        "git_commit": git_sha(),
        "encoder_sha256": module.metadata().checkpoint_sha256,
        **({"encoder": begun_from(module.encoder, module.init_groups)} if module.encoder else {}),
        "training": {
            "run": f"{run.group}/{run.name}",
            "steps": trainer.global_step,
            "weights": weights.to_json(),
            "protocol": module.scored_by.name,
            "corpus": data.corpus.name,
            "num_train_cases": len(data.train_cases),
            **unlabeled_provenance(module.unlabeled, data),
            "config_sha256": hashlib.sha256(config.encode()).hexdigest(),
        },
        "data_fingerprint": data.corpus.fingerprint,
        "volumes_seen": volumes_seen(module.encoder, data).to_json(),
    }
    how = data.preprocessing()
    save_bundle(folder, module.detector, data.classes, how, module.inference, provenance, replace=True)


def _keep_bundle(trainer: L.Trainer, bundle: Path, data: FinetuneData) -> None:
    about = {"classes": list(data.classes), "dataset": data.corpus.name}
    for tracked in tracked_runs(trainer):
        tracked.keep_weights("detector", BUNDLE_DOCUMENT.read(bundle / "bundle.json")["weights_sha256"], bundle, about)


def _write_test(
    folder: Path, module: FinetuneModule, data: FinetuneData, trainer: L.Trainer, share_machine: bool
) -> None:
    refs = {ref.case_id: ref for ref in data.test_cases}
    ordered = [module.results[case_id] for case_id in refs]
    write_predictions(folder, data.classes, [_prediction(refs[r.target.case], r, module.inference) for r in ordered])
    truth = targets_json(data.store, list(refs))
    write_text(folder / "targets.json", json_text(truth))
    in_mm = [r.in_mm() for r in ordered]
    protocol = module.scored_by
    found, wanted = [r.predicted for r in in_mm], [r.target for r in in_mm]
    metrics = protocol.score(found, wanted, data.classes, size_edges_mm=DIAMETERS_MM)
    if protocol.name != "detection":  # of which no run says so
        metrics = {"protocol": protocol.name, **metrics}
    train = targets_json(data.store, [ref.case_id for ref in data.train_cases])
    write_text(folder / "train_targets.json", json_text(train))
    if protocol.name == "detection" and any(sum(ref.counts) for ref in data.train_cases):
        files = [read_targets(folder / name) for name in ("train_targets.json", "targets.json")]
        metrics["trivial_baselines"] = trivial_baselines(files[0].cases, files[1].cases, data.classes, Resampling())
    write_text(folder / "metrics.json", json_text(metrics, indent=1))
    samples = trainer.global_step * data.batch_size * trainer.world_size * trainer.accumulate_grad_batches
    row = {**{f"test/{name}": value for name, value in logged_metrics(metrics, protocol).items()}, SAMPLES: samples}
    for logger in trainer.loggers:
        logger.log_metrics(row, trainer.global_step)
        logger.save()
    pictures = _draw(folder / "pictures", refs, ordered[:MAX_PICTURES], data)
    keys = {case_id: case_key(ref) for case_id, ref in refs.items()}
    own = case_table(metrics, {case_id: case_id for case_id in refs})
    named = Table(("dashboard",), [[keys[row["case"]]] for row in metrics["per_case"]])
    write_text(folder / "cases.csv", table_csv([named, own]))
    write_text(folder / "classes.csv", table_csv([class_table(metrics, data.classes)]))
    tracked = tracked_runs(trainer)
    if tracked:
        names = {case_id: case_id for case_id in refs} if share_machine else keys
        slices = pictured(ordered, refs, names, data.window)
        board = board_of_test(metrics, data.classes, names, slices, dict(zip(slices, pictures, strict=False)))
        for one in tracked:
            one.show(board, trainer.global_step)
    run_log.say(f"test, {len(ordered)} volumes: {_means(metrics, protocol)}; {module.seen}")


def _means(metrics: Mapping[str, Any], protocol: ObjectProtocol) -> str:
    """Return the primary metric with its interval, and another one."""
    key = protocol.watched[protocol.primary]
    low, high = metrics["intervals"][key]
    interval = "" if math.isnan(low) else f" [{low:.3f}, {high:.3f}]"
    other = {"detection": ("AP50", "AP at IoU 0.5"), "centre": ("CPM", "CPM")}[protocol.name]
    return f"{protocol.primary} {metrics[key]:.3f}{interval}, {other[1]} {metrics[protocol.watched[other[0]]]:.3f}"


def _prediction(ref: CaseRef, result: CaseResult, how: InferenceConfig) -> Prediction:
    case, found = ref.open(), result.predicted
    detections = Detections(torch.as_tensor(found.boxes), torch.as_tensor(found.scores), torch.as_tensor(found.labels))
    return Prediction.of(case.id, detections, case.grid, case.source_grid, case.source_file, how.keeps_centers)


def _draw(folder: Path, refs: dict[str, CaseRef], results: Sequence[CaseResult], data: FinetuneData) -> list[Any]:
    pictures, stacks = [], {}
    for result in results:
        case = refs[result.target.case].open()
        image = data.window.fitted_to(case)(case.read_image())[0]
        stacks[case.id] = slice_stack(image, case.grid, result.target.boxes)
        picture = boxes_on_slices(
            image,
            case.grid.spacing_mm,
            result.target.boxes,
            result.target.labels,
            result.predicted.boxes,
            result.predicted.scores,
            result.predicted.labels,
            data.classes,
        )
        save_png(folder / f"{case.id}.png", picture)
        pictures.append(picture)
    write_slices(folder.parent / "slices", stacks)
    return pictures

"""Every kind of file that is read: how a valid small one is written, and the reader that users meet it through."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import openpyxl
import torch

from medpretrain3d.backbones import ResEnc, encoder_entry
from medpretrain3d.backbones.checkpoints import EncoderFile, read_encoder, save_encoder
from medpretrain3d.backbones.checkpoints.nnssl_export import write_nnssl
from medpretrain3d.backbones.checkpoints.raw import open_checkpoint
from medpretrain3d.boxes import Detections, Targets
from medpretrain3d.command_line.recipes import read_recipe
from medpretrain3d.configurable import to_config
from medpretrain3d.detection import AnchorGrid, RetinaNet
from medpretrain3d.engine.checkpoint_files import CheckpointFiles, newest_whole_checkpoint
from medpretrain3d.engine.curves import CurveLogger
from medpretrain3d.engine.run import RunFile
from medpretrain3d.errors import UserError
from medpretrain3d.evaluation import read_predictions, read_targets
from medpretrain3d.evaluation.candidates import read_candidates, read_nodules, read_series
from medpretrain3d.evaluation.masks import _read_scores
from medpretrain3d.evaluation.readers import ReadOptions, read_any_predictions
from medpretrain3d.inference.bundle import load_bundle, save_bundle
from medpretrain3d.inference.cached_detections import CachedCase, CachedDetections
from medpretrain3d.inference.config import InferenceConfig
from medpretrain3d.inference.ensemble import load_members, save_ensemble
from medpretrain3d.inference.finished_cases import FinishedCases
from medpretrain3d.inference.inputs import find_scans
from medpretrain3d.inference.prediction import Prediction
from medpretrain3d.inference.raw_detections import RawDetections
from medpretrain3d.inference.rescorer import Rescorer
from medpretrain3d.inference.rescorer_file import load_rescorer, save_rescorer
from medpretrain3d.inference.writers import predictions_json
from medpretrain3d.ingest.contours import fill_contours
from medpretrain3d.ingest.importers import read_raw
from medpretrain3d.ingest.importers.pn9 import read_array
from medpretrain3d.ingest.structure_set import read_contours
from medpretrain3d.loading.case_labels import CaseLabelView
from medpretrain3d.planning.plan import read_plan
from medpretrain3d.run_metadata import RunMetadata
from medpretrain3d.store.container import scan_container
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.pack import pack
from medpretrain3d.store.preprocessing import Preprocessing
from medpretrain3d.store.readers import read_scan
from medpretrain3d.store.skipped_cases import read_skip_record, write_skip_record
from medpretrain3d.store.store import CaseData, Instance, Store, write_case, write_index
from medpretrain3d.study.document import read_study
from medpretrain3d.study.report import make_report
from medpretrain3d.study.run import find_runs
from medpretrain3d.visualization.slice_stack import read_slice_index, slice_stack, write_slices
from tests.dicom_files import AXIAL, traced, write_enhanced, write_scan, write_structures
from tests.fuzz.dicom import write_series
from tests.fuzz.mutators import OF_BYTES, OF_TEXT, Mutator, within_zip

GRID = Grid((6, 7, 8), np.diag([1.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]])
BOX = (1.0, 1.0, 1.0, 4.0, 4.0, 4.0)


@dataclass(frozen=True)
class Kind:
    """One kind of file."""

    file: Path
    """The valid one."""
    read: Callable[[], Any]
    """Reads it as a user would; raises UserError, which names `named`, where it is bad."""
    mutators: tuple[Mutator, ...]
    named: str


def write_all(root: Path) -> dict[str, Kind]:
    """Write a valid file of every kind below a folder."""
    kinds: dict[str, Kind] = {}

    def add(name: str, file: Path, read: Callable[[], Any], mutators: tuple[Mutator, ...], named: str = "") -> None:
        kinds[name] = Kind(file, read, mutators, named or file.name)

    def text(path: Path, content: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    store = _store(root / "store")
    add("store.json", store / "store.json", lambda: _whole(store), OF_TEXT)
    add("splits.json", store / "splits.json", lambda: _whole(store), OF_TEXT)
    add("case.json", store / "cases/a/case.json", lambda: _whole(store), OF_TEXT, "cases/a")
    add("image.b2nd", store / "cases/a/image.b2nd", lambda: Store(store).case("a").read_image(), OF_BYTES)
    add("mask.b2nd", store / "cases/a/mask.b2nd", lambda: Store(store).case("a").read_label_map(), OF_BYTES)
    packed = root / "packed"
    pack(store, packed)
    add("store.json, containers", packed / "store.json", lambda: _whole(packed), OF_TEXT, "packed")
    container = packed / "containers/1-of-1-00000.tar"
    add("container", container, lambda: _contents(packed, container), OF_BYTES)
    write_skip_record(store, "b", "b.nii", UserError("x"), {})
    add("note", store / "skipped/b.json", lambda: read_skip_record(store, "b"), OF_TEXT)

    encoder, bundle = root / "encoder", root / "bundle"
    torch.manual_seed(0)
    backbone = ResEnc("XXS")
    save_encoder(encoder, backbone, {"preprocessing": {}, "pretraining": {"corpus": "c"}, "citations": ["x"]})
    add("encoder.json", encoder / "encoder.json", lambda: read_encoder(encoder), OF_TEXT, "encoder")
    add("encoder.safetensors", encoder / "encoder.safetensors", lambda: read_encoder(encoder), OF_BYTES, "encoder")
    anchors = AnchorGrid([[(6, 6, 6)], [(12, 12, 12)]])
    detector = RetinaNet(backbone, 2, anchors=anchors, fpn_channels=8)
    save_bundle(bundle, detector, ("x", "y"), Preprocessing((32, 32, 32), (1.0, 1.0, 1.0)))
    add("bundle.json", bundle / "bundle.json", lambda: load_bundle(bundle), OF_TEXT, "bundle")
    ensemble = root / "ensemble"
    save_ensemble(ensemble, {"fold_0": bundle}, InferenceConfig())
    add("bundle.json, ensemble", ensemble / "bundle.json", lambda: load_members(ensemble), OF_TEXT, "ensemble")
    add("bundle.json, member", ensemble / "fold_0/bundle.json", lambda: load_members(ensemble), OF_TEXT, "fold_0")
    second = root / "second"
    save_rescorer(second, Rescorer(backbone, 2, edge_vox=8), {})
    add("rescorer.json", second / "rescorer.json", lambda: load_rescorer(second), OF_TEXT, "second")
    add("rescorer.safetensors", second / "rescorer.safetensors", lambda: load_rescorer(second), OF_BYTES, "rescorer")
    add("bundle.json, backbone", bundle / "bundle.json", lambda: read_encoder(bundle), OF_TEXT, "bundle")
    add("detector.safetensors", bundle / "detector.safetensors", lambda: load_bundle(bundle), OF_BYTES, "detector")

    foreign = root / "foreign"
    foreign.mkdir()
    nnssl = EncoderFile(to_config(backbone), backbone.state_dict(), {"preprocessing": {"patch": [32] * 3}}, "0")
    write_nnssl(foreign / "checkpoint_final.pth", nnssl)
    add("nnssl .pth", foreign / "checkpoint_final.pth", lambda: read_encoder(foreign), OF_BYTES)
    weights = {"stem.weight": torch.randn(4, 3), "stem.bias": torch.ones(4)}
    torch.save({"state_dict": weights}, foreign / "old.pt", _use_new_zipfile_serialization=False)
    add("old .pt", foreign / "old.pt", lambda: open_checkpoint(foreign / "old.pt").weights, OF_BYTES)
    from safetensors.torch import save_file

    save_file(weights, foreign / "model.safetensors")
    add("safetensors", foreign / "model.safetensors", lambda: open_checkpoint(foreign / "model.safetensors"), OF_BYTES)

    kept = root / "kept"
    checkpoint = kept / "last.ckpt"
    checkpoint.parent.mkdir()
    state = {f"objective.backbone.{name}": value for name, value in backbone.state_dict().items()}
    fit_loop = {"state_dict": {}, "epoch_progress": {"current": {"completed": 0}}}
    entry = encoder_entry(backbone, "objective", {"preprocessing": {}, "pretraining": {"corpus": "c"}, "citations": []})
    facts = {"global_step": 3, "epoch": 0, "pytorch-lightning_version": "2.6.6", "callbacks": {"Checkpoints": {}}}
    training = {"optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}}], "loops": {"fit_loop": fit_loop}}
    torch.save({**facts, "state_dict": state, **training, **entry}, checkpoint)
    add("last.ckpt", checkpoint, lambda: CheckpointFiles().load_checkpoint(_newest(kept)), OF_BYTES, "kept")
    add("last.ckpt, encoder", checkpoint, lambda: read_encoder(checkpoint), OF_BYTES)

    plan = {
        **{"format": "medpretrain3d-plan", "version": 1, "spacing_mm": [1.0, 1.0, 1.0], "patch": [32, 32, 32]},
        **{"batch_size": 2, "preset": "XXS", "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]]},
        **{"kernel_sizes": [[3, 3, 3]] * 4, "first_level": 1, "anchors": [[[6, 6, 6]], [[12, 12, 12]]], "report": {}},
        "window": {"class_path": "medpretrain3d.store.intensity.Window", "init_args": {}},
    }
    plan_file = text(root / "plan.json", plan)
    add("plan.json", plan_file, lambda: read_plan(plan_file).recipe(), OF_TEXT)
    recipe = text(root / "recipe.yaml", "data:\n  store: x\n  patch: [1, 2, 3]\nmodel: {lr: 1e-3}\n")
    add("recipe", recipe, lambda: read_recipe(recipe), OF_TEXT)
    design = "name: x\ndata: {d: demo}\narms: {scratch: {}, mae: {pretrain: demo}}\nlabels: [1, all]\nseeds: 2\n"
    study = text(
        root / "study.yaml", f"{design}hypotheses: [mae > scratch at 1 on d]\nprepare: {{s: 'prepare raw {{store}}'}}\n"
    )
    add("study", study, lambda: read_study(study), OF_TEXT)

    run = root / "runs/g/r"
    facts = {"stage": "finetune", "name": "r", "group": "g", "method": "mae", "dataset": "d", "num_train_cases": 4}
    text(run / "run.json", {**facts, "seed": 0, "finished": True, "minutes": 1.5, "budget_steps": 10})
    text(root / "runs/g/s/run.json", {**facts, "name": "s", "method": "scratch", "finished": True})
    text(run / "metrics.csv", "epoch,step,train/loss,val/mAP\n0,1,0.5,\n0,2,0.4,0.1\n")
    scored: dict[str, Any] = {"mAP_IoU_0.10_0.50_0.05_MaxDet_100": 0.5, "x_AP_IoU_0.50_MaxDet_100": 0.5}
    scored |= {"FROC_curve_IoU_0.10": [0.5] * 7, "num_cases": 12, "confidence": 0.95, "FROC_score_IoU_0.10": 0.5}
    scored |= {"interval_method": "jackknife"}
    scored |= {"per_case": [{"case": "a", "score": 0.5}, {"case": "b", "score": None}]}
    intervals = {key: [0.1, 0.9] for key in scored if key.endswith(("100", "score_IoU_0.10"))}
    scored["intervals"] = {**intervals, "FROC_curve_IoU_0.10": [[0.1, 0.9]] * 7}
    scored["trivial_baselines"] = {"position prior": {"mAP_IoU_0.10_0.50_0.05_MaxDet_100": 0.1, "intervals": intervals}}
    curve = {"precision_IoU_0.10": [0.9, 0.5, 0.0]}
    ends = {"intervals": {"precision_IoU_0.10": [[0.1, 0.9]] * 3}}
    scored["precision_recall"] = {"recall": [0.0, 0.5, 1.0], **curve, **ends}
    scored["error_analysis"] = {"AP": 0.5, "missed": {"num": 1, "gain": 0.1}, "background": {"num": 3, "gain": 0.2}}
    scored["size_strata"] = [{"from_mm": 0, "to_mm": 6.0, "num_targets": 2, "recall_IoU_0.10": 0.5}]
    scored["left_out"] = {"mAP_IoU_0.10_0.50_0.05_MaxDet_100": {"value": 0.5, "without": [0.4, 0.6]}}
    text(run / "test/metrics.json", scored)

    def report() -> str:
        return str(make_report(find_runs([root / "runs"]), "t"))

    text(run / "config.yaml", "seed_everything: 0\nmodel:\n  optim: {lr: 0.01, betas: [0.9, 0.98]}\n")
    add("config.yaml", run / "config.yaml", report, OF_TEXT)
    add("run.json", run / "run.json", report, OF_TEXT)
    add("run.json, resumed", run / "run.json", lambda: RunFile(run).update(RunMetadata(steps=1)), OF_TEXT)
    add("metrics.csv", run / "metrics.csv", report, OF_TEXT)
    add("metrics.csv, resumed", run / "metrics.csv", lambda: CurveLogger(run).continue_from(2), OF_TEXT)
    add("metrics.json", run / "test/metrics.json", report, OF_TEXT)
    write_slices(root / "slices", {"a": slice_stack(np.zeros(GRID.shape), GRID, np.array([BOX]))})
    add("slices.json", root / "slices/slices.json", lambda: read_slice_index(root / "slices"), OF_TEXT)

    found = Prediction("a", GRID, np.array([BOX]), np.array([BOX]), np.array([0.5], np.float32), np.array([1]))
    predictions = text(root / "predictions.json", predictions_json(("x", "y"), [found]))
    add("predictions.json", predictions, lambda: read_predictions(predictions), OF_TEXT)
    entry = {"case": "a", "boxes": [BOX], "labels": [0], "ignore": [BOX], "patient": "p"}
    entry |= {"boxes_vox": [list(BOX)], "ignore_vox": [[5.0, 5, 5, 6, 6, 6]], "grid": GRID.to_json()}
    targets = text(root / "targets.json", {"classes": ["x"], "frame": "lps_mm", "targets": [entry]})
    add("targets.json", targets, lambda: read_targets(targets), OF_TEXT)
    add_other_programs(root, add, targets)
    candidates = text(root / "marks.csv", "seriesuid,coordX,coordY,coordZ,probability\na,1,2,3,0.5\n")
    add("marks", candidates, lambda: read_candidates(candidates), OF_TEXT)
    nodules = text(root / "nodules.csv", "seriesuid,coordX,coordY,coordZ,diameter_mm\na,1,2,3,5\n")
    add("nodules", nodules, lambda: read_nodules(nodules), OF_TEXT)
    series = text(root / "series.csv", "seriesuid\na\nb\n")
    add("series", series, lambda: read_series(series), OF_TEXT)
    scores = text(root / "scores.csv", "public_id,label_id,confidence\na,1,0.5\n")
    add("scores", scores, lambda: _read_scores(scores), OF_TEXT)
    labels = text(root / "labels.csv", "case,label\na,x\nb,y\n")
    add("case labels", labels, lambda: CaseLabelView(str(labels)), OF_TEXT)

    raw_detections = root / "sightings.safetensors"
    boxes, one = torch.tensor([BOX]), torch.ones(1)
    detections = Detections(boxes, one / 2, torch.tensor([1]))
    seen = RawDetections.in_tile(detections, (0, 0, 0), (6, 7, 8), (6, 7, 8))
    looked = CachedCase("a", (1.0, 1.0, 1.0), seen, Targets(boxes, torch.tensor([0]), ignore=boxes))
    CachedDetections(("x", "y"), InferenceConfig(), (looked,)).save(raw_detections)
    add("sightings", raw_detections, lambda: CachedDetections.load(raw_detections), OF_BYTES)

    add_importers(root, add, text)
    add_scans(root, add)

    class Scan:
        case, file = "a", "a.nii"

        def sha256(self) -> str:
            return "0"

    finished = FinishedCases(root / "out/cases", {"bundle": "x"}, 2)
    finished.save(found, Scan())
    add("finished case", root / "out/cases/a.json", lambda: finished.load(Scan()), OF_TEXT)
    return kinds


def add_other_programs(root: Path, add: Callable[..., None], targets: Path) -> None:
    """Predictions of other programs."""
    theirs, known = root / "theirs", read_targets(targets)
    for folder in (theirs / "nndetection", theirs / "nnunet"):
        folder.mkdir(parents=True)
    found: dict[str, Any] = {"pred_boxes": np.array([[1.0, 1, 3, 3, 1, 3]]), "pred_scores": np.array([0.5])}
    found |= {"pred_labels": np.array([0]), "restore": True, "itk_origin": (0.0, 0, 0), "itk_spacing": (1.0, 1, 1)}
    found |= {"itk_direction": tuple(np.eye(3).ravel()), "original_size_of_raw_data": np.array(GRID.shape[::-1])}
    boxes = theirs / "nndetection/a_boxes.pkl"
    boxes.write_bytes(pickle.dumps(found))
    add("nnDetection boxes", boxes, lambda: read_any_predictions(boxes.parent, known), OF_BYTES)
    label_map = np.zeros(GRID.shape, np.uint8)
    label_map[1:3, 1:3, 1:3] = 1
    affine_ras = np.diag([-1.0, -1, 1, 1]) @ GRID.affine_lps
    nibabel.save(nibabel.Nifti1Image(label_map, affine_ras), theirs / "nnunet/a.nii.gz")
    softmax = theirs / "nnunet/a.npz"
    np.savez(softmax, probabilities=np.stack([1 - label_map, label_map]).astype(np.float32).transpose(0, 3, 2, 1))
    add("nnU-Net probabilities", softmax, lambda: read_any_predictions(softmax.parent, known), OF_BYTES)
    listed = theirs / "monai.pt"
    options = ReadOptions(box_mode="xyzxyz", box_frame="lps_mm")
    torch.save([{"case": "a", "box": torch.tensor([BOX]), "label": [0], "label_scores": [0.5]}], listed)
    add("MONAI list", listed, lambda: read_any_predictions(listed, known, options), OF_BYTES)


def add_importers(root: Path, add: Callable[..., None], text: Callable[[Path, Any], Path]) -> None:
    """Descriptions and tables of raw data sets."""
    nnunet, coco, table = root / "nnunet", root / "coco", root / "table"
    for folder in (nnunet / "imagesTr", nnunet / "labelsTr", coco, table):
        folder.mkdir(parents=True)
    image = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    for path in (
        nnunet / "imagesTr/a_0000.nii.gz",
        nnunet / "labelsTr/a.nii.gz",
        coco / "a.nii.gz",
        table / "a.nii.gz",
    ):
        nibabel.save(image, path)
    text(
        nnunet / "dataset.json", {"channel_names": {"0": "CT"}, "labels": {"background": 0, "x": 1}, "instances": True}
    )
    text(nnunet / "labelsTr/a.json", {"instances": {"1": 0}})
    text(nnunet / "splits_final.json", [{"train": ["a"], "val": []}])
    add("dataset.json", nnunet / "dataset.json", lambda: read_raw(nnunet, dataset="nnunet"), OF_TEXT, "nnunet")
    add("splits_final.json", nnunet / "splits_final.json", lambda: read_raw(nnunet, dataset="nnunet"), OF_TEXT)
    add("instances", nnunet / "labelsTr/a.json", lambda: read_raw(nnunet, dataset="nnunet"), OF_TEXT)
    annotations = {
        "images": [{"id": 1, "file_name": "a.nii.gz"}],
        "categories": [{"id": 3, "name": "x"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 1, 2, 2, 2]}],
    }
    text(coco / "annotations.json", annotations)
    add("COCO", coco / "annotations.json", lambda: read_raw(coco, dataset="coco"), OF_TEXT, "coco")
    names = "image,label,x0_vox,y0_vox,z0_vox,x1_vox,y1_vox,z1_vox,split"
    text(table / "boxes.csv", f"{names}\na.nii.gz,x,1,1,1,3,3,3,train\n")
    add("boxes.csv", table / "boxes.csv", lambda: read_raw(table, dataset="boxes_csv"), OF_TEXT, "table")
    add_dicom_sets(root, add, text)
    add_dicom_objects(root, add)
    listed = text(root / "list.txt", "coco/a.nii.gz\n")
    add("list of scans", listed, lambda: find_scans([listed]), OF_BYTES, "")


def add_dicom_objects(root: Path, add: Callable[..., None]) -> None:
    """A structure set beside its series, and an enhanced CT."""
    export = root / "export"
    voxels = np.arange(60).reshape(5, 4, 3)
    write_scan(export / "ct", voxels)
    regions = {"a": traced(voxels > 30, AXIAL)}
    structures = write_structures(export / "structures.dcm", regions)
    grid = Grid((5, 4, 3), AXIAL)

    def fill() -> None:
        (case, *_) = read_raw(export, dataset="dicom").cases
        if case.problem:
            raise UserError(case.problem)
        for number in case.class_of_value or {}:
            fill_contours(read_contours(structures, number)[0], grid)

    add("RTSTRUCT", structures, fill, OF_BYTES, "export")
    enhanced = write_enhanced(root / "enhanced/ct.dcm", voxels)
    add("enhanced DICOM", enhanced, lambda: read_scan(enhanced), OF_BYTES)


def add_dicom_sets(root: Path, add: Callable[..., None], text: Callable[[Path, Any], Path]) -> None:
    """Readings of LIDC-IDRI and tables of Duke Breast MRI, each beside a series."""
    lidc, duke = root / "lidc", root / "duke"
    write_series(lidc / "LIDC-IDRI-0001/study/1.2")
    edges = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in ((0, 0), (3, 0), (3, 3)))
    roi = f"<roi><imageZposition>2.0</imageZposition><inclusion>TRUE</inclusion>{edges}</roi>"
    locus = "<imageZposition>1.0</imageZposition><locus><xCoord>1</xCoord><yCoord>2</yCoord></locus>"
    findings = f"<unblindedReadNodule>{roi}</unblindedReadNodule><nonNodule>{locus}</nonNodule>"
    session = f"<readingSession>{findings}</readingSession>"
    header = "<ResponseHeader><SeriesInstanceUid>1.2</SeriesInstanceUid></ResponseHeader>"
    reading = f'<LidcReadMessage xmlns="http://www.nih.gov">{header}{session * 4}</LidcReadMessage>'
    readings = text(lidc / "LIDC-IDRI-0001/study/1.2/readings.xml", reading)
    add("LIDC XML", readings, lambda: read_raw(lidc, dataset="lidc_idri"), OF_TEXT, "lidc")

    patient = "Breast_MRI_001"
    write_series(duke / f"Duke-Breast-Cancer-MRI/{patient}/study/phase")
    path = f"Duke-Breast-Cancer-MRI/{patient}/study/phase/1-001.dcm"
    boxes = ("Patient ID", "Start Row", "End Row", "Start Column", "End Column", "Start Slice", "End Slice")
    mapping = ("original_path_and_filename", "classic_path", "descriptive_path")
    tables = {
        "Annotation_Boxes": (boxes, (patient, 1, 3, 1, 3, 1, 2)),
        "Breast-Cancer-MRI-filepath_filename-mapping": (mapping, (f"DICOM/{patient}/post_1/a.dcm", path, path)),
    }
    for name, rows in tables.items():
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        book.save(duke / f"{name}.xlsx")
    table = duke / "Annotation_Boxes.xlsx"
    add("Duke XLSX", table, lambda: read_raw(duke, dataset="duke_breast_mri"), (*OF_BYTES, within_zip), "duke")


def add_scans(root: Path, add: Callable[..., None]) -> None:
    """Volumes of every format."""
    folder = root / "scans"
    folder.mkdir()
    voxels = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    for ending in (".nii", ".nii.gz"):
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / f"a{ending}")
    head = "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 4 5 6\n"
    head += "space directions: (1,0,0) (0,1,0) (0,0,1)\nendian: little\nencoding: gzip\nspace origin: (0,0,0)\n\n"
    (folder / "a.nrrd").write_bytes(head.encode() + gzip.compress(voxels.tobytes(order="F"), mtime=0))
    meta = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
    meta += "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 1 1 1\nDimSize = 4 5 6\n"
    meta += "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    (folder / "a.mha").write_bytes(meta.encode() + voxels.tobytes(order="F"))
    for ending in (".nii", ".nii.gz", ".nrrd", ".mha"):
        path = folder / f"a{ending}"
        mutators = (*OF_BYTES, OF_TEXT[8]) if ending in (".nrrd", ".mha") else OF_BYTES
        add(ending, path, lambda path=path: read_scan(path), mutators)
    np.save(folder / "a_zoom.npy", np.zeros((1, 4, 5, 6), np.uint8))
    add(".npy", folder / "a_zoom.npy", lambda: read_array(folder / "a_zoom.npy"), OF_BYTES)
    series = root / "series"
    write_series(series)
    add("DICOM", series / "1.dcm", lambda: read_scan(series), OF_BYTES, "series")


def _store(path: Path) -> Path:
    random = np.random.default_rng(0)
    rows = []
    for case_id in ("a", "b"):
        image = random.integers(-1000, 1000, (1, *GRID.shape)).astype(np.int16)
        mask = np.zeros(GRID.shape, np.uint16)
        mask[1:4, 1:4, 1:4] = 1
        objects = [Instance(1, 1, BOX)]
        rows.append(write_case(path, CaseData(case_id, image, GRID, GRID, f"{case_id}.nii", objects, mask, [BOX])))
    write_index(path, ("x", "y"), (1.0, 1.0, 1.0), rows, {"val": ["b"]})
    return path


def _newest(folder: Path) -> Path:
    path = newest_whole_checkpoint(folder)
    assert path is not None
    return path


def _contents(store: Path, container: Path) -> None:
    scan_container(container)
    for case_id in ("a", "b"):
        case = Store(store).case(case_id)
        case.read_image()
        case.read_label_map()


def _whole(path: Path) -> None:
    store = Store(path)
    _ = store.unit
    for case_id in store.case_ids:
        case = store.case(case_id)
        _ = case.grid, case.source_grid, case.statistics, case.boxes, case.ignore_boxes, case.label_of_instance

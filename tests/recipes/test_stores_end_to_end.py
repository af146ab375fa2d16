"""Every command that reads a store gives the same results wherever it lies: in files, in containers, behind a URL."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml

from finetune import __main__ as finetune
from medpretrain3d.cli import main
from medpretrain3d.command_line.precheck import precheck
from medpretrain3d.command_line.stages import stage_words
from medpretrain3d.study.document import read_study
from medpretrain3d.study.expansion import expand
from pretrain import __main__ as pretrain
from tests.store.byte_server import serving

from .conftest import TINY_FINETUNE, TINY_PRETRAIN, write_cubes

TWO_STEPS = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--trainer.log_every_n_steps", "1"]
PROGRAMS = {"pretrain": (pretrain, TINY_PRETRAIN), "finetune": (finetune, TINY_FINETUNE)}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("end_to_end")


@pytest.fixture(scope="module")
def places(root):
    """One store of two folds in folders, in containers and behind a URL."""
    store = write_cubes(root / "folders" / "cubes", {"train": 2, "val": 2})
    assert main(["split", str(store), "--folds", "2"]) == 0
    (root / "containers").mkdir()
    packed = root / "containers" / "cubes"
    assert main(["pack", str(store), str(packed)]) == 0
    with pytest.MonkeyPatch.context() as patched, serving(root) as server:
        patched.setenv("MEDPRETRAIN3D_CACHE", str(root / "cache"))
        yield {"folders": str(store), "containers": str(packed), "url": f"{server.url}/containers/cubes"}


def fit(stage: str, store: str, folder: Path, *arguments: str) -> Path:
    """Run a stage, with the look at its command line that a program takes before."""
    program, tiny = PROGRAMS[stage]
    place = ["--run.root", str(folder.parent.parent), "--run.group", folder.parent.name, "--run.name", folder.name]
    words = ["fit", *tiny, *TWO_STEPS, "--data.store", store, *place, *arguments]
    precheck(stage, stage_words(words, stage)[1:])
    program.main(words)
    return folder


def curves(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{name: cell for name, cell in row.items() if "perf/" not in name} for row in csv.DictReader(file)]


def trained(store: str, out: Path) -> dict[str, object]:
    """What both stages make of a store, by the name of the file."""
    encoder = fit("pretrain", store, out / "runs" / "encoder") / "encoder"
    start = ["--model.init_from", str(encoder)]
    folds = [fit("finetune", store, out / "runs" / f"fold{k}", "--data.fold", str(k), *start) for k in (0, 1)]
    files = [*encoder.glob("*.safetensors"), *out.glob("runs/*/bundle/*.safetensors"), *out.glob("runs/*/validation/*")]
    assert len(files) == 5
    return {folder.name: curves(folder) for folder in (encoder.parent, *folds)} | contents(files, out)


def commanded(store: str, runs: Path, out: Path) -> dict[str, object]:
    """What the commands make of a store and the runs of its folds, by the name of the file or of the command."""
    out.mkdir(exist_ok=True)
    folds = [runs / "fold0", runs / "fold1"]
    bundle = folds[0] / "bundle"
    seen = ["--store", store, "--cached-detections", str(out / "seen.safetensors"), "--dry-run"]
    assert main(["tune", str(bundle), *seen, "--split", "val", "--fold", "0", "--device", "cpu"]) == 0
    (out / "list.txt").write_text(f"# one scan or store per line\n{store}\n", encoding="utf-8")
    of_all = ["--split", "val", "--fold", "1", "--device", "cpu"]
    assert main(["predict", str(bundle), str(out / "list.txt"), "-o", str(out / "predicted"), *of_all]) == 0
    targets, predictions = out / "targets.json", out / "predicted" / "predictions.json"
    assert main(["targets", store, "--split", "val", "--fold", "1", "-o", str(targets)]) == 0
    scored = ["--predictions", str(predictions), "--targets", str(targets), "--folds", store]
    assert main(["evaluate", *scored, "--bootstrap", "20", "-o", str(out / "metrics.json")]) == 0
    assert main(["test", str(bundle), store, *of_all, "-o", str(out / "tested")]) == 0
    assert main(["plan", store, "--memory", "2", "--preset", "XXS", "--foreground", "-o", str(out / "plan.json")]) == 0
    pooling = ["--no-ensemble", "--store", store, "-o", str(out / "pooled")]
    assert main(["cross-validate", *map(str, folds), *pooling]) == 0
    files = [
        predictions,
        out / "seen.safetensors",
        *(path for folder in (out, out / "tested", out / "pooled") for path in folder.glob("*.json")),
    ]
    assert len(files) > 8
    return {"study": study_jobs(store, out)} | contents(files, out)


def contents(files: list[Path], root: Path) -> dict[str, object]:
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def study_jobs(store: str, out: Path) -> list[str]:
    """What tells the jobs of a study apart, and their results from earlier ones."""
    for stage in ("pretrain", "finetune"):
        (out / f"{stage}.yaml").write_text(yaml.safe_dump({"base": "smoke", "data": {"store": store}}))
    design = {"data": {"cubes": "finetune.yaml"}, "arms": {"scratch": {}, "mae": {"pretrain": "pretrain.yaml"}}}
    (out / "study.yaml").write_text(yaml.safe_dump({"name": "toy", **design, "labels": ["all"], "folds": "all"}))
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(out)
        return [f"{job.name} {job.identity}" for job in expand(read_study(Path("study.yaml"))).jobs]


@pytest.fixture(scope="module")
def of_folders(places, root):
    """Results of the store of single files."""
    out = root / "of_folders"
    return trained(places["folders"], out) | commanded(places["folders"], out / "runs", out)


def test_both_stages_behind_a_url_and_of_two_places_in_one_cross_validation(places, of_folders, root):
    found = trained(places["url"], root / "of_url")
    assert {name for name in found if found[name] != of_folders[name]} == set()
    folds = [root / "of_folders" / "runs" / "fold0", root / "of_url" / "runs" / "fold1"]
    assert main(["cross-validate", *map(str, folds), "--no-ensemble", "-o", str(root / "two_places")]) == 0
    assert (root / "two_places" / "metrics.json").read_bytes() == of_folders["pooled/metrics.json"]


@pytest.mark.parametrize("place", ["containers", "url"])
def test_every_command_gives_the_same_wherever_the_store_lies(places, of_folders, root, place, capsys):
    found = commanded(places[place], root / "of_folders" / "runs", root / f"commands_{place}")
    assert {name for name in found if found[name] != of_folders[name]} == set()
    assert main(["inspect", places[place]]) == 0
    assert f"{places[place]}: store\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["split", "{url}"],
        ["pack", "{folders}", "s3://bucket/packed"],
        ["targets", "{url}", "-o", "s3://bucket/targets.json"],
        ["prepare", "{folders}", "https://example.org/store"],
        ["prepare", "{url}", "--check"],
        ["targets", "https://user:word@example.org/store", "-o", "t.json"],
        ["targets", "https://example.org/store?signature=word", "-o", "t.json"],
    ],
)
def test_what_cannot_be_done_at_a_url_is_refused_in_one_line(places, words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main([word.format(**places) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "word" not in said
    assert list(tmp_path.iterdir()) == []

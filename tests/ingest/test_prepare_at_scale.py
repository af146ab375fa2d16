"""Killed, sharded, parallel, and with cases that cannot be used."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from medpretrain3d.cli import main
from medpretrain3d.errors import UserError
from medpretrain3d.ingest.importers import RawCase
from medpretrain3d.ingest.prepare import prepare
from medpretrain3d.ingest.prepare_case import Job, prepare_case
from medpretrain3d.ingest.prepare_options import PrepareOptions
from medpretrain3d.store.store import Store, write_index


def content_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def corpus(tmp_path, write_nifti):
    """Twelve scans of noise, one without tissue, one empty file."""
    random = np.random.default_rng(0)
    for number in range(12):
        write_nifti(random.integers(-1000, 500, (40, 40, 40)).astype(np.int16), f"raw/s{number:02d}.nii.gz")
    write_nifti(np.full((9, 9, 9), -1000, np.int16), "raw/air.nii.gz")
    (tmp_path / "raw/void.nii").write_bytes(b"")
    return tmp_path / "raw"


def processes_naming(text):
    """Ids of the living processes whose command line holds a text."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            is_dead = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
            if not is_dead and text in (folder / "cmdline").read_text(encoding="utf-8"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "moments"), [(1, (1, 5, 9)), (2, (4,))])
def test_killed_at_any_moment_a_call_goes_on_to_the_same_bytes(corpus, tmp_path, workers, moments):
    store = tmp_path / "killed"
    command = [sys.executable, "-m", "medpretrain3d.cli", "prepare", str(corpus), str(store), "--workers", str(workers)]
    killed = 0
    for wanted in moments:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(store.glob("cases/[!.]*"))) < wanted:
            time.sleep(0.002)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
        assert not (store / "store.json").exists() or process.returncode == 1
    assert killed
    (store / "cases/.s00.0123abcd.unfinished").mkdir()  # as a kill in the middle of a case leaves it
    (store / ".store.json.0123abcd.unfinished").write_text("{")
    deadline = time.monotonic() + 30
    while processes_naming(str(store)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes_naming(str(store))  # workers end with their parent
    prepare(corpus, store)
    prepare(corpus, tmp_path / "whole")
    assert content_of(store) == content_of(tmp_path / "whole")
    Store(store).case("s00").verify()


def test_shards_merge_by_themselves_in_any_order(corpus, tmp_path):
    prepare(corpus, tmp_path / "whole")
    before = content_of(tmp_path / "whole")
    for order in ((1, 2, 3), (3, 1, 2)):
        store = tmp_path / "".join(map(str, order))
        for number in order[:2]:
            summary = prepare(corpus, store, shard=(number, 3))
            assert summary.splits == {}
            with pytest.raises(UserError, match="did not finish"):
                Store(store)
        assert summary.awaited == 14 // 3 + (order[2] <= 14 % 3)
        assert prepare(corpus, store, shard=(order[2], 3)).splits == {"train": 12}
        assert content_of(store) == before
        again = prepare(corpus, store, shard=(2, 3))
        assert (again.prepared, again.awaited, content_of(store)) == (0, 0, before)


def test_shards_and_workers_fill_containers_of_their_own_and_go_on_in_them(corpus, tmp_path):
    prepare(corpus, tmp_path / "folders")
    store = tmp_path / "store"
    assert prepare(corpus, store, shard=(1, 2), workers=2, containers=True).splits == {}
    with pytest.raises(UserError, match="did not finish"):
        Store(store)
    assert prepare(corpus, store, shard=(2, 2)).splits == {"train": 12}
    assert {path.name[:6] for path in (store / "containers").iterdir()} == {"1-of-2", "2-of-2"}
    assert not (store / "cases").exists()
    assert Store(store).fingerprint == Store(tmp_path / "folders").fingerprint
    before = content_of(store)
    again = prepare(corpus, store)
    assert (again.prepared, again.reused, content_of(store)) == (0, 12, before)
    (corpus / "s03.nii.gz").write_bytes(b"")  # is no scan any more
    (corpus / "s05.nii.gz").write_bytes((corpus / "s06.nii.gz").read_bytes())
    changed = prepare(corpus, store)
    assert (changed.prepared, changed.reused, len(changed.skipped)) == (1, 10, 3)
    assert "s03" not in Store(store)
    assert Store(store).duplicates == (("s05", "s06"),)
    assert main(["prepare", str(store), "--check"]) == 0
    with pytest.raises(UserError, match="medpretrain3d pack"):
        prepare(corpus, tmp_path / "folders", containers=True)


@pytest.mark.slow
def test_killed_at_any_moment_a_call_goes_on_to_the_same_store_of_containers(corpus, tmp_path):
    store = tmp_path / "killed"
    command = [sys.executable, "-m", "medpretrain3d.cli", "prepare", str(corpus), str(store), "--containers"]
    for wanted in (1, 300_000, 600_000):  # bytes of its container
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and sum(path.stat().st_size for path in store.glob("containers/*")) < wanted:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    prepare(corpus, store)
    prepare(corpus, tmp_path / "whole", containers=True)
    assert content_of(store) == content_of(tmp_path / "whole")


def test_a_shard_leaves_alone_what_others_are_writing(corpus, tmp_path):
    for case_id in ("s03", "s04"):
        (tmp_path / f"store/cases/.{case_id}.0123abcd.unfinished").mkdir(parents=True)
    prepare(corpus, tmp_path / "store", shard=(1, 2))  # of air, s00, s01, ..., void: air, s01, s03, ...
    assert [path.name[1:4] for path in (tmp_path / "store/cases").glob(".*")] == ["s04"]


@pytest.mark.parametrize("shard", ["0/4", "5/4", "1", "a/b"])
def test_a_shard_that_does_not_exist_is_refused(corpus, tmp_path, shard, capsys):
    try:
        code = main(["prepare", str(corpus), str(tmp_path / "store"), "--shard", shard])
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert "wanted i/n" in capsys.readouterr().err


QUARANTINE = {
    "air": ("no tissue", "0.00% of the voxels are above -500 HU: nothing but air"),
    "claim": ("claim", "header claims"),
    "constant": ("no tissue", "every voxel is 40"),
    "damaged": ("unreadable", "damaged or truncated"),
    "flat": ("size", "(2, 9, 9) voxels"),
    "huge": ("geometry", "mm large"),
    "infinite": ("not finite", "1 of 729 voxels are NaN or infinite"),
    "mask": ("mask", "affine differs"),
    "thin": ("geometry", "times another"),
    "values": ("values", "do not fit int16"),
    "zero": ("unreadable", "is empty"),
}


def test_every_kind_of_trouble_is_told_by_its_kind(tmp_path, write_nifti, capsys):
    raw = tmp_path / "raw"
    noise = np.random.default_rng(0).integers(-900, 900, (9, 9, 9)).astype(np.int16)
    images = dict.fromkeys(["good", *QUARANTINE], noise)
    images |= {"air": np.where(noise > 0, -1000, -990).astype(np.int16), "constant": np.full_like(noise, 40)}
    images |= {"flat": noise[..., :2], "infinite": noise.astype(np.float32), "values": noise.astype(np.int32) * 1000}
    images["infinite"][0, 0, 0] = np.inf
    affines = {"huge": np.diag([90, 90, 90, 1]) * 5.0, "thin": np.diag([0.5, 0.5, 60, 1])}
    affines["huge"] = np.diag([99.0, 99, 99, 1])
    images["huge"] = np.random.default_rng(0).integers(-900, 900, (9, 40, 9)).astype(np.int16)
    for case_id, image in images.items():
        write_nifti(image, f"imagesTr/{case_id}_0000.nii.gz", affines.get(case_id), folder=raw)
        mask = np.zeros(image.shape, np.uint8)
        write_nifti(mask, f"labelsTr/{case_id}.nii.gz", affines.get(case_id), folder=raw)
    write_nifti(np.zeros((9, 9, 9), np.uint8), "labelsTr/mask.nii.gz", np.diag([1, 1, 2, 1]), folder=raw)
    (raw / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "x": 1}}))
    path = raw / "imagesTr/damaged_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:-100])
    header = bytearray(nibabel.Nifti1Image(noise, np.eye(4)).to_bytes())
    header[42:44] = (90).to_bytes(2, "little")
    (raw / "imagesTr/claim_0000.nii.gz").write_bytes(gzip.compress(bytes(header)))
    (raw / "imagesTr/zero_0000.nii.gz").write_bytes(b"")

    assert main(["prepare", str(raw), str(tmp_path / "store")]) == 1
    skipped = json.loads((tmp_path / "store/skipped.json").read_text(encoding="utf-8"))
    assert {one["case"]: one["kind"] for one in skipped} == {name: kind for name, (kind, _) in QUARANTINE.items()}
    for one in skipped:
        assert QUARANTINE[one["case"]][1] in one["reason"]
    assert "geometry 2, mask 1, no tissue 2, not finite 1, size 1, unreadable 2, values 1" in capsys.readouterr().out
    assert Store(tmp_path / "store").case_ids == ("good",)


def test_names_in_headers_reach_neither_store_nor_messages(tmp_path, capsys):
    raw, values = tmp_path / "raw", np.random.default_rng(0).integers(-900, 900, (9, 9, 9)).astype(np.int16)
    raw.mkdir()
    for name in ("a.nrrd", "b.mha", "c.mhd"):
        image = sitk.GetImageFromArray(values)
        image.SetMetaData("PatientName", "DOE^JOHN")
        sitk.WriteImage(image, raw / name)
    scan = nibabel.Nifti1Image(values, np.eye(4))
    scan.header["descrip"], scan.header["db_name"], scan.header["aux_file"] = b"DOE^JOHN", b"DOE^JOHN", b"DOE^JOHN"
    scan.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"DOE^JOHN"))
    nibabel.save(scan, raw / "d.nii")
    (raw / "bad.nrrd").write_bytes((raw / "a.nrrd").read_bytes()[:-9])
    (raw / "bad.nii").write_bytes((raw / "d.nii").read_bytes()[:-9])
    paths = [path for path in sorted(raw.iterdir()) if path.suffix != ".raw"]
    assert all(b"DOE^JOHN" in path.read_bytes() for path in paths)
    rows = []
    for number, path in enumerate(paths):
        outcome = prepare_case(
            Job(RawCase(f"case{number}", (path,)), tmp_path / "store", "components", None, 1, "hu", 1)
        )
        rows += [outcome.row] if outcome.row else []
        print(outcome)
    assert len(rows) == 4
    write_index(tmp_path / "store", (), None, rows, {})
    told = capsys.readouterr()
    written = b"".join(content_of(tmp_path / "store").values())
    assert written.count(b'"reason"') == 2
    for secret in ("DOE", "JOHN"):
        assert secret.encode() not in written
        assert secret not in told.out + told.err


def test_copies_under_other_names_stay_on_one_side(tmp_path, write_nifti):
    raw = tmp_path / "raw"
    random = np.random.default_rng(0)
    images = {name: random.integers(-900, 900, (9, 8, 7)).astype(np.int16) for name in ("a", "b", "c")}
    flipped = np.diag([-1.0, 1, 1, 1])
    for name, image in [*images.items(), ("c_again", images["c"])]:
        write_nifti(image, f"imagesTr/{name}_0000.nii.gz", folder=raw)
        write_nifti(np.zeros((9, 8, 7), np.uint8), f"labelsTr/{name}.nii.gz", folder=raw)
    write_nifti(images["a"][::-1], "imagesTs/a_again.nii.gz", flipped, folder=raw)  # stored in another order
    write_nifti(np.zeros((9, 8, 7), np.uint8), "labelsTs/a_again.nii.gz", flipped, folder=raw)
    write_nifti(images["b"], "more/b_again.nii.gz")
    (raw / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "x": 1}}))
    prepare([raw, tmp_path / "more"], tmp_path / "store", PrepareOptions(spacing_mm=(2.0, 2.0, 2.0)))
    store = Store(tmp_path / "store")
    assert store.duplicates == (("a", "a_again"), ("b", "b_again"), ("c", "c_again"))
    assert store.splits == {
        "test": ("a_again",),
        "train": ("b", "c", "c_again"),
        "duplicates": ("a", "b_again"),
        "unlabelled": (),
        "val": (),
    }
    assert store.entries["a"]["voxels"] == store.entries["a_again"]["voxels"]
    document = json.loads((store.path / "splits.json").read_text(encoding="utf-8"))
    document["train"].append(document["duplicates"].pop(0))
    (store.path / "splits.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"'a' in 'train' and 'a_again' in 'test' hold the same voxels"):
        Store(store.path)


def test_mr_is_stored_with_its_statistics_and_leads_back_to_its_values(tmp_path, write_nifti):
    raw, random = tmp_path / "raw", np.random.default_rng(0)
    flair = random.random((9, 8, 7)).astype(np.float32)
    t1 = random.integers(0, 60000, (9, 8, 7)).astype(np.int32)
    write_nifti(np.stack([flair, t1], axis=-1).astype(np.float32), "imagesTr/p.nii.gz", folder=raw)
    write_nifti(np.zeros((9, 8, 7), np.uint8), "labelsTr/p.nii.gz", folder=raw)
    document = {"labels": {"background": 0, "x": 1}, "modality": {"0": "FLAIR", "1": "T1"}}
    (raw / "dataset.json").write_text(json.dumps(document))
    prepare(raw, tmp_path / "store")
    case = Store(tmp_path / "store").case("p")
    assert case.num_channels == 2
    restored = np.stack(
        [slope * stored + start for stored, (slope, start) in zip(case.read_image(), case.rescale, strict=True)]
    )
    # The file is (i, j, k) in RAS: D = k, H = -j, W = -i. Half a step of 1 / 32000 of the range is lost at most.
    np.testing.assert_allclose(restored[0], flair.transpose(2, 1, 0)[:, ::-1, ::-1], atol=1 / 64000 + 1e-6)
    np.testing.assert_allclose(restored[1], t1.transpose(2, 1, 0)[:, ::-1, ::-1], atol=60000 / 64000)
    outside = case.read_image((-1, 0, 0), (1, 2, 2))
    assert outside.ravel().tolist() == [0] * 8  # the lowest value surrounds it, not -1024
    body = case.read_image()[0]
    assert case.statistics[0].mean == pytest.approx(body[body > 0].mean())
    assert case.statistics[0].mean_of_all == pytest.approx(body.mean())
    assert case.statistics[0].std_of_all == pytest.approx(body.std())
    # The same file without names for its channels is taken for CT, and refused.
    (raw / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "x": 1}}))
    with pytest.raises(UserError, match="none of the 1 cases"):
        prepare(raw, tmp_path / "unnamed")


def test_a_second_run_over_finished_work_reads_no_voxel(corpus, tmp_path, monkeypatch):
    prepare(corpus, tmp_path / "store")
    monkeypatch.setattr("medpretrain3d.ingest.prepare.prepare_case", lambda job: pytest.fail(f"{job.case.id} was read"))
    summary = prepare(corpus, tmp_path / "store")
    assert (summary.prepared, summary.reused, len(summary.skipped)) == (0, 12, 2)
    os.utime(corpus / "void.nii", ns=(1, 1))  # a changed file is looked at again, also one that was no good
    with pytest.raises(pytest.fail.Exception, match="void was read"):
        prepare(corpus, tmp_path / "store")

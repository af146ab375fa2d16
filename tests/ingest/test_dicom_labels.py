"""Structure sets and segmentations as labels, through `prepare` as a user runs it."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest

from medpretrain3d.cli import main
from medpretrain3d.errors import UserError
from medpretrain3d.inference.prediction import Prediction
from medpretrain3d.inference.writers import write_case
from medpretrain3d.ingest.importers import read_raw
from medpretrain3d.ingest.importers.base import RawCase
from medpretrain3d.ingest.label_layers import read_label_layers
from medpretrain3d.ingest.prepare import prepare
from medpretrain3d.ingest.prepare_options import PrepareOptions
from medpretrain3d.ingest.structure_set import read_contours, rois_of
from medpretrain3d.loading.crops import CropReader
from medpretrain3d.loading.object_crops import read_objects
from medpretrain3d.loading.spatial_transform import IDENTITY
from medpretrain3d.store import Window
from medpretrain3d.store.case import Case
from medpretrain3d.store.grid import Grid
from medpretrain3d.store.readers.dicom_header import read_header
from medpretrain3d.store.resampled_store import resample_store
from medpretrain3d.store.store import Store
from medpretrain3d.store.volume import Volume
from tests.dicom_files import AXIAL, traced, write_enhanced, write_scan, write_structures

SHAPE = (24, 20, 8)
VOXELS = np.random.default_rng(0).integers(-900, 1500, SHAPE)


def block(*corners: int) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    i0, j0, k0, i1, j1, k1 = corners
    mask[i0:i1, j0:j1, k0:k1] = True
    return mask


LIVER, TUMOR = block(2, 3, 1, 18, 16, 7), block(5, 6, 2, 9, 11, 5)


@pytest.fixture
def raw(tmp_path):
    """A patient's export: a CT, its structure set in another folder, and an MR without."""
    raw = tmp_path / "raw"
    write_scan(raw / "p1/CT/image", VOXELS)
    write_scan(raw / "p1/MR/image", VOXELS, series="1.2.4", Modality="MR")
    write_structures(
        raw / "p1/CT/mask/RS.dcm",
        {
            "Body|EXTERNAL": traced(block(0, 0, 0, 24, 20, 8), AXIAL),
            " Leber  Ä": traced(LIVER, AXIAL),
            "GTV 1|GTV": traced(TUMOR, AXIAL),
            "drawn never": [],
            "iso||POINT": [np.array([[1.0, 2, 3]])],
        },
    )
    return raw


def file_boxes(case: Case) -> dict[int, list[float]]:
    boxes = case.grid.map_boxes(case.boxes, case.source_grid)
    return {int(label): np.round(box, 6).tolist() for label, box in zip(case.labels, boxes, strict=True)}


def test_regions_of_a_structure_set_become_objects(raw, tmp_path, capsys):
    assert main(["prepare", str(raw), str(tmp_path / "store")]) == 0
    store = Store(tmp_path / "store")
    assert store.classes == ("GTV 1", "Leber Ä")
    (case_id,) = store.case_ids
    case = Case.open(tmp_path / "store/cases" / case_id)
    assert file_boxes(case) == {0: [5, 6, 2, 9, 11, 5], 1: [2, 3, 1, 18, 16, 7]}  # overlapping, both whole
    instances = case.read_instances().transpose(2, 1, 0)
    ids = dict(zip(case.labels.tolist(), case.instance_ids.tolist(), strict=True))
    np.testing.assert_array_equal(instances == ids[0], TUMOR)  # the smaller one keeps what they share
    np.testing.assert_array_equal(instances == ids[1], LIVER & ~TUMOR)
    assert case.outline_ids.tolist() == case.instance_ids.tolist()  # the tumor lies within the liver
    told = capsys.readouterr().out
    for line in (
        "regions that were named and not drawn",
        "regions that are no objects",
        "scans without annotations, in no case",
        "objects that overlap smaller ones",
    ):
        assert line in told
    written = b"".join(path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file())
    for secret in (b"DOE", b"4711", b"1.2.3"):
        assert secret not in written


def test_an_object_whose_end_another_hides_keeps_its_box_where_it_is_cut(tmp_path):
    """The tumor is the last columns of the liver, in slices 2 to 5: what is seen of it there ends at column 14."""
    write_scan(tmp_path / "raw/CT", VOXELS)
    contours = {"liver": traced(LIVER, AXIAL), "tumor": traced(block(14, 3, 2, 18, 16, 5), AXIAL)}
    write_structures(tmp_path / "raw/RS.dcm", contours)
    prepare(tmp_path / "raw", tmp_path / "store")
    resample_store(tmp_path / "store", tmp_path / "resampled", (2.5, 0.8, 0.9))
    prepare(tmp_path / "raw", tmp_path / "prepared", PrepareOptions(spacing_mm=(2.5, 0.8, 0.9)))
    reader = CropReader((2, 20, 24), Window())
    for name in ("store", "resampled", "prepared"):
        store = Store(tmp_path / name)
        case = store.case(store.case_ids[0])
        ids = dict(zip(case.labels.tolist(), case.instance_ids.tolist(), strict=True))
        assert dict(zip(case.labels.tolist(), case.outline_ids.tolist(), strict=True)) == {0: 0, 1: ids[1]}
        random = np.random.default_rng(0)
        _, targets = read_objects(reader, case, (3, 0, 0), IDENTITY, random, 0.1).apply()
        assert dict(zip(targets.labels.tolist(), targets.boxes.tolist(), strict=True)) == {
            0: pytest.approx([0, 3, 2, 2, 16, 18], abs=1e-4),
            1: pytest.approx([0, 3, 14, 2, 16, 18], abs=1e-4),
        }
    assert Store(tmp_path / "resampled").fingerprint == Store(tmp_path / "prepared").fingerprint
    path = case.folder / "case.json"
    sidecar = json.loads(path.read_text())
    del sidecar["partly_hidden"]  # as before it was noted
    path.write_text(json.dumps(sidecar))
    with pytest.raises(UserError, match="does not say which of its objects others hide; prepare the case again"):
        Case.open(case.folder)
    again = prepare(tmp_path / "raw", tmp_path / "prepared", PrepareOptions(spacing_mm=(2.5, 0.8, 0.9)))
    assert (again.prepared, again.reused) == (1, 0)


def test_a_series_whose_files_lie_in_several_folders_is_not_taken_for_a_part_of_it(raw):
    (raw / "p1/CT/other").mkdir()
    for number in (7, 8):
        (raw / f"p1/CT/image/{number:03d}.dcm").rename(raw / f"p1/CT/other/{number:03d}.dcm")
    (case,) = read_raw(raw, options={"modality": "CT", "min_slices": "4"}).cases
    assert case.problem == (
        "is a part of a DICOM series whose files lie in p1/CT/image and p1/CT/other; move them into one folder"
    )


def test_classes_are_chosen_by_pattern_and_renamed(raw, tmp_path):
    options = ["--option", "classes=tumor:gtv*", "--option", "modality=CT", "--option", "min_slices=4"]
    assert main(["prepare", str(raw), str(tmp_path / "store"), *options]) == 0
    store = Store(tmp_path / "store")
    assert store.classes == ("tumor",)
    assert file_boxes(Case.open(tmp_path / "store/cases" / store.case_ids[0])) == {0: [5, 6, 2, 9, 11, 5]}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("classes=kidney", r"no region is called 'kidney'; drawn are "),
        ("classes=a,a", "wanted different names"),
        ("modality=PT", "none of its 2 DICOM series is what --option asks for"),
        ("series=*nothing*", "none of its 2 DICOM series"),
    ],
)
def test_options_that_choose_nothing_are_refused(raw, tmp_path, capsys, option, message):
    assert main(["prepare", str(raw), str(tmp_path / "store"), "--option", option]) == 2
    assert message in capsys.readouterr().err


def test_a_structure_set_of_a_scan_of_another_format(tmp_path):
    """Its series is not there: the only scan of its folder is meant, label maps beside it are none."""
    import nibabel as nib

    raw = tmp_path / "raw/p1"
    write_structures(raw / "RS.dcm", {"GTV": traced(TUMOR, AXIAL)}, series="9.9")
    ras = np.diag([-1, -1, 1, 1]) @ AXIAL
    nib.save(nib.Nifti1Image(VOXELS.astype(np.int16), ras), raw / "CT_image.nii.gz")
    nib.save(nib.Nifti1Image(TUMOR.astype(np.uint8), ras), raw / "CT_mask.nii.gz")
    assert main(["prepare", str(tmp_path / "raw"), str(tmp_path / "store")]) == 0
    store = Store(tmp_path / "store")
    assert file_boxes(Case.open(tmp_path / "store/cases" / store.case_ids[0])) == {0: [5, 6, 2, 9, 11, 5]}


def test_what_cannot_be_paired_or_holds_nothing_is_skipped_with_the_reason(tmp_path, capsys):
    raw = tmp_path / "raw"
    write_scan(raw / "good", VOXELS)
    write_structures(raw / "good/RS.dcm", {"GTV": traced(TUMOR, AXIAL)})
    write_scan(raw / "far", VOXELS, series="1.2.5", FrameOfReferenceUID="1.8")
    far = [contour + 4000 for contour in traced(TUMOR, AXIAL)]
    write_structures(raw / "far/RS.dcm", {"GTV": far}, series="1.2.5", FrameOfReferenceUID="1.8")
    write_scan(raw / "empty", VOXELS, series="1.2.6", FrameOfReferenceUID="1.7")
    write_structures(raw / "empty/RS.dcm", {"GTV": []}, series="1.2.6", FrameOfReferenceUID="1.7")
    write_scan(raw / "twice", VOXELS, series="1.2.7", FrameOfReferenceUID="1.6")
    for name in ("a", "b"):
        regions = {"GTV": traced(TUMOR, AXIAL)}
        write_structures(raw / f"twice/{name}.dcm", regions, series="1.2.7", FrameOfReferenceUID="1.6")
    write_structures(raw / "lost/RS.dcm", {"GTV": traced(TUMOR, AXIAL)}, series="7.7", FrameOfReferenceUID="1.5")
    assert main(["prepare", str(raw), str(tmp_path / "store")]) == 1
    assert Store(tmp_path / "store").case_ids == ("good",)
    reasons = {one["case"]: one["reason"] for one in json.loads((tmp_path / "store/skipped.json").read_text())}
    assert "none of its regions has a voxel in" in reasons["far"]
    assert "none of its regions is drawn" in reasons["empty"]
    assert "2 files of annotations, twice/a.dcm and twice/b.dcm, draw 'gtv'; choose by --option" in reasons["twice"]
    assert "wanted the one series that they were drawn on" in reasons["lost__RS.dcm"]


@pytest.fixture
def drawn_by_two(raw):
    """Beside the structure set of `raw`: another of the same patient by a second reader a day later, and a SEG."""
    when = {"StructureSetDate": "20200102", "StructureSetTime": "080000", "StructureSetLabel": "Second reader"}
    second = {
        "gtv 1|GTV": traced(block(5, 6, 2, 10, 12, 6), AXIAL),
        "Node|GTV": traced(block(15, 3, 1, 18, 5, 3), AXIAL),
    }
    write_structures(raw / "p1/CT/second/RS.dcm", second, **when)
    grid = Grid(SHAPE, AXIAL)
    boxes, mask = np.array([[10.0, 12, 3, 14, 15, 6]]), block(10, 12, 3, 14, 15, 6).astype(np.uint16)
    found = Prediction(
        "seg", grid, boxes, grid.boxes_to_lps_mm(boxes), np.ones(1), np.zeros(1, int), "ct", mask,
        source=(raw / "p1/CT/image", ""),
    )  # fmt: skip
    write_case(raw / "p1", ["Edema"], found, ["dicom-seg"])
    return raw


def objects_of(store: Store) -> dict[str, list[float]]:
    """The one object of each class, in the file's voxels."""
    (case_id,) = store.case_ids
    return {store.classes[label]: box for label, box in file_boxes(Case.open(store.path / "cases" / case_id)).items()}


def test_several_files_of_one_series_are_taken_together_where_they_draw_different_regions(
    drawn_by_two, tmp_path, capsys
):
    options = ["--option", "classes=edema:Edema*,liver:Leber*,node"]
    assert main(["prepare", str(drawn_by_two), str(tmp_path / "store"), *options]) == 0
    assert objects_of(Store(tmp_path / "store")) == {
        "edema": [10, 12, 3, 14, 15, 6],
        "liver": [2, 3, 1, 18, 16, 7],
        "node": [15, 3, 1, 18, 5, 3],
    }
    capsys.readouterr()
    assert main(["prepare", str(drawn_by_two), str(tmp_path / "store"), *options]) == 0
    assert "1 reused" in capsys.readouterr().out
    (drawn_by_two / "p1/CT/second/RS.dcm").touch()
    assert main(["prepare", str(drawn_by_two), str(tmp_path / "store"), *options]) == 0
    assert "0 reused" in capsys.readouterr().out  # it is a file of the case like the first


def test_of_what_two_files_draw_an_option_chooses(drawn_by_two, tmp_path, capsys):
    call = ["prepare", str(drawn_by_two), str(tmp_path / "store"), "--option", "classes=tumor:GTV*"]
    assert main(call) == 2
    assert "p1/CT/mask/RS.dcm and p1/CT/second/RS.dcm, draw 'gtv 1'" in (tmp_path / "store/skipped.json").read_text()
    first, second = [5, 6, 2, 9, 11, 5], [5, 6, 2, 10, 12, 6]
    for chosen, box in (("*/mask/*", first), ("second reader", second)):
        assert main([*call, "--option", f"annotations={chosen}"]) == 0
        assert "files of annotations that the options leave out: 2" in capsys.readouterr().out
        assert objects_of(Store(tmp_path / "store")) == {"tumor": box}
    assert main([*call, "--option", "annotations=third"]) == 2
    assert "none of its 3 files of annotations is called 'third'" in capsys.readouterr().err
    write_structures(drawn_by_two / "p1/CT/mask/RS.dcm", {"GTV 1": traced(TUMOR, AXIAL)}, StructureSetDate="20200101")
    assert main([*call, "--option", "annotations=newest"]) == 0
    assert "regions that a newer file draws again: 1" in capsys.readouterr().out
    assert objects_of(Store(tmp_path / "store")) == {"tumor": second}


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")  # on purpose
def test_coordinates_that_are_no_points_are_named(tmp_path):
    regions = {"GTV": [np.array([[1.0, 2, np.nan]])]}
    file = write_structures(tmp_path / "RS.dcm", regions)
    with pytest.raises(ValueError, match="coordinates of a contour of region 0 are not finite"):
        read_contours(file, 0)


def test_a_structure_set_of_an_enhanced_ct(tmp_path):
    raw = tmp_path / "raw"
    write_enhanced(raw / "ct.dcm", VOXELS)
    write_structures(raw / "RS.dcm", {"GTV": traced(TUMOR, AXIAL)})
    (case,) = read_raw(raw).cases
    assert case.problem == ""
    assert main(["prepare", str(raw), str(tmp_path / "store")]) == 0
    store = Store(tmp_path / "store")
    stored = Case.open(tmp_path / "store/cases" / store.case_ids[0])
    np.testing.assert_array_equal(stored.read_image()[0].transpose(2, 1, 0), VOXELS)
    assert file_boxes(stored) == {0: [5, 6, 2, 9, 11, 5]}


def test_series_of_an_export_without_annotations_are_chosen_too(tmp_path, capsys):
    raw = tmp_path / "raw"
    write_scan(raw / "p1", VOXELS, SeriesDescription="Thorax thin")
    for path in write_scan(raw / "other", VOXELS, series="1.2.4", SeriesDescription="Thorax thick").iterdir():
        path.rename(raw / "p1" / f"x{path.name}")  # two series in one folder
    write_scan(raw / "mr", VOXELS, series="1.2.5", Modality="MR", SeriesDescription="t1 thin")
    options = ["--option", "series=*thin", "--option", "modality=ct", "--option", "min_slices=8"]
    assert main(["prepare", str(raw), str(tmp_path / "store"), *options]) == 0
    (case_id,) = Store(tmp_path / "store").case_ids
    assert case_id.startswith("p1__")
    assert "DICOM series that the options leave out: 2 " in capsys.readouterr().out
    assert main(["prepare", str(raw), str(tmp_path / "no"), "--option", "min_slices=9"]) == 2
    assert "none of its 3 DICOM series is what --option asks for" in capsys.readouterr().err


def test_of_many_regions_of_a_structure_set_only_what_they_span_is_kept(tmp_path):
    """A mask of the scan for each of 40 was a byte per voxel and region."""
    shape = (80, 80, 48)
    grid = Grid(shape, AXIAL)
    masks = [np.zeros(shape, dtype=bool) for _ in range(40)]
    for number, mask in enumerate(masks):
        mask[5:9, 5 : 9 + number % 3, number : number + 3] = True  # each overlaps the next two
    contours = {f"GTV {number}": traced(mask, AXIAL) for number, mask in enumerate(masks)}
    path = write_structures(tmp_path / "RS.dcm", contours)
    numbers = [roi.number for roi in rois_of(read_header(path))]
    case = RawCase("a", (tmp_path,), path, {number: index for index, number in enumerate(numbers)})
    image = Volume(np.zeros((1, 1, 1, 1), np.int16), grid, grid)
    read_label_layers(path, case, image)  # what is imported takes memory, too
    tracemalloc.start()
    labels = read_label_layers(path, case, image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(labels.maps) == 3
    assert peak < 25 * np.prod(shape)  # in bytes; it was 52
    for value, mask in enumerate(masks, start=1):
        layer = labels.maps[(value - 1) % 3].array[0]
        np.testing.assert_array_equal(layer == value, mask.transpose(2, 1, 0))

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medpretrain3d.evaluation import PredictedCase, TargetCase
from medpretrain3d.store.grid import Grid
from medpretrain3d.visualization.box_pictures import _covering_slices, _Overlay, box_slices
from medpretrain3d.visualization.drawing import DETECTION, TRUTH, cut_slices
from medpretrain3d.visualization.pictures import boxes_on_slices, save_png, volume_strip
from medpretrain3d.visualization.viewed_case import viewed_case

NOTHING = (np.zeros((0, 6)), np.zeros(0), np.zeros(0, int))


def rows_and_columns(picture: np.ndarray, color: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    return np.nonzero((picture == color).all(axis=2))


def test_box_is_drawn_at_its_edges_in_the_patients_proportions():
    # Voxels of 5 mm: the frame of 160 mm holds 32 of them in 320 pixels, so 10 px per voxel. Around the box's centre
    # (20, 26) it reaches from row 4 and column 10; column 8 is the last from which 32 of 40 columns follow.
    image = np.full((3, 40, 40), -1.0, np.float32)
    box = np.array([[1.0, 10, 20, 2, 30, 32]])
    picture = boxes_on_slices(image, (5, 5, 5), box, np.array([0]), *NOTHING, ["x"], max_panels=1, panel_px=320)
    solid = (picture == TRUTH).all(axis=2)[20:340, 6:326]  # header of 20, gap of 6
    rows = np.nonzero(solid[:, 170:240].sum(axis=1) >= 60)[0]
    columns = np.nonzero(solid[90:230].sum(axis=0) >= 120)[0]
    assert (rows.min(), rows.max()) == ((10 - 4) * 10, (30 - 4) * 10)
    assert (columns.min(), columns.max()) == ((20 - 8) * 10, (32 - 8) * 10)


def test_superior_is_on_top_of_coronal_and_sagittal_slices():
    image = np.full((20, 20, 20), -1.0, np.float32)
    image[15:] = 1.0  # D grows to superior: the head is bright
    picture = boxes_on_slices(image, (1, 1, 1), np.zeros((0, 6)), np.zeros(0, int), *NOTHING, ["x"], panel_px=200)
    for column in (1, 2):  # axial, coronal, sagittal side by side
        panel = picture[20:220, 6 + column * 206 : 206 + column * 206]
        assert panel[20, 100].min() > 200
        assert panel[170, 60].max() < 30


def test_thick_slices_are_shown_thick():
    image = np.zeros((10, 40, 40), np.float32)  # 50 mm high, 40 mm wide
    picture = boxes_on_slices(image, (5, 1, 1), np.zeros((0, 6)), np.zeros(0, int), *NOTHING, ["x"], panel_px=100)
    grey = (picture == 128).all(axis=2)
    coronal = grey[20:120, 112:212]
    assert coronal[90, :].sum() > 0  # 100 px high
    assert np.ptp(np.nonzero(coronal[40])[0]) == 79  # 80 px wide, also where letters leave holes


def test_objects_come_before_false_alarms_and_slices_go_from_head_to_foot():
    image = np.full((30, 20, 20), -1.0, np.float32)
    truth = np.array([[2.0, 4, 4, 5, 9, 9], [20.0, 4, 4, 23, 9, 9]])
    alarm = np.array([[10.0, 4, 4, 13, 9, 9]])
    found = (alarm, np.array([0.9]), np.array([0]))
    picture = boxes_on_slices(image, (1, 1, 1), truth, np.array([0, 0]), *found, ["x"], max_panels=2, panel_px=100)
    assert picture.shape[1] == 2 * 106 + 6  # two axial panels, both through objects
    rows, _ = rows_and_columns(picture[:120], DETECTION)
    assert len(rows) == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 5), st.integers(0, 5), st.integers(1, 8), st.integers(0, 2**16))
def test_any_boxes_can_be_drawn_even_those_outside(num_truth: int, num_found: int, max_panels: int, seed: int):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 24, 3)

    def boxes(count: int) -> np.ndarray:
        low = rng.uniform(-8, 24, (count, 3))
        return np.concatenate([low, low + rng.uniform(0, 20, (count, 3))], axis=1)

    picture = boxes_on_slices(
        rng.uniform(-1.5, 1.5, shape),
        rng.uniform(0.5, 5, 3),
        boxes(num_truth),
        rng.integers(0, 2, num_truth),
        boxes(num_found),
        rng.uniform(0, 1, num_found),
        rng.integers(0, 2, num_found),
        ["lesion", "organ"],
        max_panels,
        panel_px=64,
    )
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3


def test_strip_shows_a_perfect_restoration_without_error():
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (16, 16, 16)).astype(np.float32)
    perfect = volume_strip({"input": image, "masked": image, "restored": image}, panel_px=64)
    wrong = volume_strip({"input": image, "masked": image, "restored": -image}, panel_px=64)
    error = np.s_[22 : 22 + 64, -68 + 2 : -6]
    assert (perfect[error] == (0, 0, 4)).all()
    assert wrong[error].max() > 200
    np.testing.assert_array_equal(perfect[:, : 22 + 2 * 68], wrong[:, : 22 + 2 * 68])  # input and masked are the same


def test_strip_survives_not_a_number_and_odd_shapes():
    image = np.zeros((5, 40, 7), np.float32)
    restored = np.full_like(image, np.nan)
    assert volume_strip({"input": image, "masked": image, "restored": restored}).shape[2] == 3


def test_a_strip_has_a_column_for_each_volume_and_an_error_only_where_something_was_restored():
    image = np.zeros((16, 16, 16), np.float32)
    widths = [
        volume_strip(dict.fromkeys(titles, image), panel_px=64).shape[1] - 22
        for titles in (["view 1"], ["view 1", "view 2"], ["input", "restored"])
    ]
    assert widths == [68, 2 * 68, 3 * 68]


def test_labels_are_colours_over_the_first_volume():
    image = np.zeros((16, 16, 16), np.float32)
    labels = np.zeros((16, 16, 16), np.int64)
    labels[:, :, 8:] = 2
    picture = volume_strip({"input": image, "labels": labels}, panel_px=16)
    axial = picture[22:38, 22 + 20 : 22 + 36]
    assert (axial[:, :8] == 128).all()  # 0.5 of 255, rounded to even
    assert (axial[:, 8:] == ((86 + 128) // 2, (180 + 128) // 2, (233 + 128) // 2)).all()


def test_png_round_trip(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    save_png(tmp_path / "new" / "a.png", picture)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), picture)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]
    with pytest.raises(TypeError):
        save_png(tmp_path / "b.png", picture.astype(np.complex64))
    assert not (tmp_path / "b.png").exists()


def test_a_detection_of_score_0_chooses_no_slice_before_one_that_is_sure():
    overlays = [_Overlay(np.array([at, 0, 0, at + 2, 4, 4.0]), "", score) for at, score in ((2, 0.0), (10, 0.9))]
    assert _covering_slices(overlays, axis=0, size=20, count=1) == [11]
    assert _covering_slices(overlays, axis=0, size=20, count=2) == [11, 3]


@pytest.mark.parametrize(
    ("faces", "slices"), [((2, 5), (2, 5)), ((2.5, 4.6), (2, 5)), ((2.6, 4.5), (3, 4)), ((3.6, 4.4), (4, 5))]
)
def test_a_box_is_cut_by_slices_whose_middle_it_holds_and_a_thin_one_by_that_of_its_own(faces, slices):
    assert tuple(map(int, cut_slices(*map(np.array, faces)))) == slices


def test_objects_thinner_than_a_slice_are_drawn_wherever_they_lie():
    """Of 3 mm in slices of 5 mm, on either side of a slice's edge."""
    grid, image = Grid((12, 20, 20), np.diag([1.0, 1, 5, 1])[[2, 1, 0, 3]]), np.full((12, 20, 20), -1.0)
    boxes, labels = np.array([[3.7, 4, 4, 4.3, 8, 8], [7.65, 4, 4, 8.25, 8, 8]]), np.zeros(2, np.int64)
    slices = box_slices(image, boxes, labels, *NOTHING)
    assert [(one.index, len(one.boxes)) for one in slices] == [(7, 1), (4, 1)]
    picture = boxes_on_slices(image, grid.spacing_mm, boxes[:1], labels[:1], *NOTHING, ["x"], max_panels=1)
    assert len(rows_and_columns(picture[:340], TRUTH)[0])
    wanted = TargetCase("a", grid.boxes_to_lps_mm(boxes), labels)
    found = PredictedCase("a", *NOTHING)
    data = viewed_case("", image, grid, found, wanted, ["x"]).data
    assert [one[:2] for one in data["truth"]] == [[4, 5], [7, 8]]
    assert {4, 7} <= set(data["slices"])

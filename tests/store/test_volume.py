from __future__ import annotations

import gzip
import itertools
import struct

import nibabel
import numpy as np
import pytest

from medpretrain3d.errors import UserError
from medpretrain3d.store.readers import declared_header
from medpretrain3d.store.volume import check_same_place, read_channels, read_labels, read_volume

IMAGE = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)


def patched(path, offset, data):
    """The file with some header bytes replaced (NIfTI-1: dim at 40, datatype at 70, pixdim at 76, srow at 280)."""
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    raw = raw[:offset] + data + raw[offset + len(data) :]
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product((1, -1), repeat=3)))
def test_every_orientation_reads_as_superior_posterior_left(write_nifti, order, flips):
    affine = np.eye(4)[[*order, 3]] @ np.diag([*flips, 1.0])
    affine[:3, 3] = (11.0, 22.0, 33.0)
    volume = read_volume(write_nifti(IMAGE, affine=affine))
    assert volume.array.dtype == np.int16
    np.testing.assert_allclose(volume.grid.affine_lps[:3, :3], np.eye(3)[::-1])
    for i, j, k in [(0, 0, 0), (1, 2, 3), (1, 0, 2)]:
        x, y, z = (affine @ [i, j, k, 1])[:3] * (-1, -1, 1)  # RAS to LPS
        d, h, w = (np.linalg.inv(volume.grid.affine_lps) @ [x, y, z, 1])[:3].round().astype(int)
        assert volume.array[0, d, h, w] == IMAGE[i, j, k]
        box = volume.grid.map_boxes([[d, h, w, d + 1, h + 1, w + 1]], volume.source_grid)
        np.testing.assert_allclose(box, [[i, j, k, i + 1, j + 1, k + 1]], atol=1e-9)


def test_an_oblique_scan_keeps_its_oblique_affine(write_nifti):
    c, s = np.cos(0.3), np.sin(0.3)
    affine = np.array([[c, -s, 0, 5], [s, c, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1.0]])
    volume = read_volume(write_nifti(IMAGE, affine=affine))
    np.testing.assert_allclose(volume.source_grid.affine_lps, np.diag([-1, -1, 1, 1]) @ affine, atol=1e-6)
    corner = volume.grid.affine_lps @ [0, 0, 0, 1]
    np.testing.assert_allclose(corner, volume.source_grid.affine_lps @ [1, 2, 0, 1], atol=1e-6)


def test_qform_is_used_where_there_is_no_sform(tmp_path):
    image = nibabel.Nifti1Image(IMAGE, None)
    image.set_qform(np.diag([2.0, 3.0, 4.0, 1.0]), code=1)
    image.set_sform(None, code=0)
    nibabel.save(image, tmp_path / "q.nii")
    assert read_volume(tmp_path / "q.nii").grid.spacing_mm == (4.0, 3.0, 2.0)


def test_without_sform_and_qform_axes_run_left_front_and_up_about_the_middle(tmp_path):
    image = nibabel.Nifti1Image(IMAGE, None)  # of (2, 3, 4) voxels
    image.header.set_zooms((2.0, 3.0, 4.0))
    image.set_qform(None, code=0)
    image.set_sform(None, code=0)
    nibabel.save(image, tmp_path / "neither.nii")
    affine = read_volume(tmp_path / "neither.nii").source_grid.affine_lps
    np.testing.assert_array_equal(affine, [[2, 0, 0, -1], [0, -3, 0, 3], [0, 0, 4, -6], [0, 0, 0, 1]])


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i2", ">i2", "i4", "f4", "f8"])
def test_every_number_type_reads_as_hu(tmp_path, name, dtype):
    image = nibabel.Nifti1Image(IMAGE.astype(dtype), np.diag([-1, -1, 1, 1]))
    nibabel.save(image, tmp_path / name)
    np.testing.assert_array_equal(read_volume(tmp_path / name).array[0], IMAGE.transpose(2, 1, 0))


def test_slope_and_intercept_are_applied(tmp_path):
    image = nibabel.Nifti1Image(np.full((2, 2, 2), 500, np.int16), np.eye(4))
    image.header.set_slope_inter(2, -1024)
    path = tmp_path / "s.nii"
    image.to_filename(path)
    # nibabel divides by the slope when saving, so the raw values are put back.
    raw = np.full(8, 500, "<i2").tobytes()
    patched(path, 352, raw)
    patched(path, 112, struct.pack("<2f", 2, -1024))
    assert (read_volume(path).array == 2 * 500 - 1024).all()


def test_nifti2_and_a_trailing_axis_of_one(tmp_path):
    nibabel.save(nibabel.Nifti2Image(IMAGE[..., None], np.eye(4)), tmp_path / "two.nii.gz")
    assert read_volume(tmp_path / "two.nii.gz").array.shape == (1, 4, 3, 2)


def test_padding_becomes_air_and_fractions_are_rounded(write_nifti):
    values = np.array([-3024, -2000.4, -1024.4, 0.4, 0.6, 3071], np.float32).reshape(1, 2, 3)
    found = sorted(read_volume(write_nifti(values)).array.ravel().tolist())
    assert found == [-1024, -1024, -1024, 0, 1, 3071]


def test_channels_are_stacked_and_must_lie_together(write_nifti):
    paths = [
        write_nifti(IMAGE, "a.nii"),
        write_nifti(IMAGE + 1, "b.nii"),
        write_nifti(IMAGE, "c.nii", np.diag([2, 1, 1, 1])),
    ]
    stacked = read_channels(paths[:2]).array
    assert stacked.shape == (2, 4, 3, 2)
    assert (stacked[1] == stacked[0] + 1).all()
    with pytest.raises(
        UserError, match=r"c.nii: affine differs from that of a.nii: corners are up to 1.5 voxels apart"
    ):
        read_channels(paths)


def test_a_mask_stored_in_another_order_lies_at_the_same_place(write_nifti):
    image = read_volume(write_nifti(IMAGE, "a.nii"))
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = 1
    path = write_nifti(IMAGE[::-1].astype(np.uint8), "b.nii", flipped)
    mask = read_labels(path)
    check_same_place(path, mask.grid, path, image.grid)
    np.testing.assert_array_equal(mask.array, image.array)
    with pytest.raises(UserError, match="shape"):
        check_same_place(path, mask.grid, path, image.grid.crop((0, 0, 0), (1, 1, 1)))


def test_label_maps_hold_whole_numbers(write_nifti):
    assert read_labels(write_nifti(IMAGE.astype(np.float32))).array.max() == 23
    with pytest.raises(UserError, match="not whole numbers"):
        read_labels(write_nifti(IMAGE / 2))
    with pytest.raises(UserError, match="labels from -1 to"):
        read_labels(write_nifti(IMAGE - np.int16(1)))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4), np.int16), r"got shape \(3, 4, 1\)|got shape \(3, 4\) \(2D\), wanted 3D, .* stack"),
        (np.zeros((3, 4, 5, 20), np.int16), r"got shape \(3, 4, 5, 20\) \(4D\), wanted .* write one file per"),
        (np.full((2, 2, 2), np.nan, np.float32), "8 of 8 voxels are NaN or infinite"),
        (np.full((2, 2, 2), np.inf, np.float32), "8 of 8 voxels are NaN or infinite"),
        (np.full((2, 2, 2), 40000, np.int32), "do not fit int16, so they are not HU"),
        (np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 2, 2), "not in HU but normalised"),
        (np.zeros((2, 2, 2), np.complex64), "voxels are complex64"),
    ],
)
def test_what_is_no_ct_volume_is_refused(write_nifti, array, message):
    with pytest.raises(UserError, match=message):
        read_volume(write_nifti(array))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize(
    ("offset", "data", "message"),
    [
        (40, struct.pack("<8h", 3, 30000, 30000, 30000, 1, 1, 1, 1), r"header claims \(30000, 30000, 30000\) voxels"),
        (40, struct.pack("<8h", 3, 900, 900, 100, 1, 1, 1, 1), r"header claims \(900, 900, 100\) voxels"),
        (40, struct.pack("<8h", 3, 2, 3, 5, 1, 1, 1, 1), r"header claims \(2, 3, 5\) voxels of int16, but the file"),
        (40, struct.pack("<8h", 3, 2, 3, 3, 1, 1, 1, 1), r"header claims \(2, 3, 3\) voxels of int16, but the file"),
        (40, struct.pack("<8h", 3, -2, 3, 4, 1, 1, 1, 1), "wanted positive sizes"),
        (40, struct.pack("<8h", 9, 2, 3, 4, 1, 1, 1, 1), "wanted positive sizes"),
        (70, struct.pack("<h", 77), "unknown voxel type"),
        (76, struct.pack("<4f", 1, 0, 1, 1), r"spacing \[0.0, 1.0, 1.0\] mm, wanted"),
        (76, struct.pack("<4f", 1, -1, 1, 1), r"spacing \[-1.0, 1.0, 1.0\] mm, wanted"),
        (76, struct.pack("<4f", 1, 1, float("nan"), 1), r"spacing \[1.0, nan, 1.0\] mm, wanted"),
        (76, struct.pack("<4f", 1, 1, 1, 1e6), "wanted 0.01 to 100.0; correct pixdim"),
        (280, struct.pack("<8f", 1, 1, 0, 0, 0, 0, 0, 0), "is singular"),
        (280, struct.pack("<4f", float("inf"), 0, 0, 0), "correct its sform"),
        (280, struct.pack("<4f", 500, 0, 0, 0), "correct its sform"),
        (108, struct.pack("<f", 1e9), "puts voxels at byte|header claims"),
        (112, struct.pack("<2f", 2, float("nan")), "correct scl_inter"),
        (344, b"ni1\0", "is not a NIfTI file"),
    ],
)
def test_a_lying_header_is_refused_before_memory_is_given(write_nifti, name, offset, data, message):
    path = patched(write_nifti(IMAGE, name), offset, data)
    with pytest.raises(UserError, match=message):
        read_volume(path)


def test_a_truncated_file_is_refused(write_nifti):
    for name in ("a.nii", "a.nii.gz"):
        path = write_nifti(np.random.default_rng(0).integers(0, 999, (9, 9, 9)).astype(np.int16), name)
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(UserError, match="copy or export it again"):
            read_volume(path)


def test_a_changed_gzip_byte_is_noticed(write_nifti):
    path = write_nifti(np.random.default_rng(0).integers(0, 999, (9, 9, 9)).astype(np.int16))
    data = bytearray(path.read_bytes())
    data[-6] ^= 1  # in the checksum at the end
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged or truncated compressed data"):
        read_volume(path)


def test_volumes_above_the_limit_are_refused(write_nifti, monkeypatch):
    monkeypatch.setattr(declared_header, "MAX_BYTES", 47)
    with pytest.raises(UserError, match="read are at most 47"):
        read_volume(write_nifti(IMAGE))


def test_what_is_no_nifti_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_volume(tmp_path / "none.nii.gz")
    for name, data, message in [
        ("empty.nii.gz", b"", "is empty"),
        ("text.nii", b"hello " * 200, "is not a NIfTI file"),
        ("short.nii", b"\x5c\x01\0\0", "is not a NIfTI file"),
        ("plain.nii.gz", b"hello " * 200, "damaged or truncated compressed"),
        ("scan.mha", b"ObjectType = Image", "is not a MetaImage file"),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=message):
            read_volume(tmp_path / name)


def test_every_real_scan_reads(shared_data):
    paths = sorted(shared_data.rglob("*.nii.gz"))
    assert paths
    for path in paths:
        image = nibabel.load(path)
        is_labels = image.get_data_dtype() == np.uint8
        unit = "any" if {"sts_mr", "sts_pet"} & set(path.parts) else "hu"
        volume = read_labels(path) if is_labels else read_volume(path, unit)
        assert volume.source_grid.shape == image.shape
        assert sorted(volume.grid.shape) == sorted(image.shape)
        if is_labels:
            assert volume.array.sum(dtype=int) == np.asarray(image.dataobj).sum(dtype=int)

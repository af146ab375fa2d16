from __future__ import annotations

import gzip
import subprocess
import sys
import zlib

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from medpretrain3d.errors import UserError
from medpretrain3d.store.readers import VOLUME_ENDINGS, find_volumes, read_scan, source_files, volume_stem
from medpretrain3d.store.volume import read_volume

VALUES = np.arange(4 * 3 * 2, dtype=np.int16).reshape(4, 3, 2)  # (k, j, i), as SimpleITK has it
PATIENT = "DOE^JOHN"


def sitk_image(values=VALUES, is_vector=False):
    """An oblique, anisotropic image with a name in its header."""
    image = sitk.GetImageFromArray(values, isVector=is_vector)
    c, s = np.cos(0.3), np.sin(0.3)
    image.SetDirection((c, -s, 0, s, c, 0, 0, 0, 1))
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-11, 22, -33))
    image.SetMetaData("PatientName", PATIENT)
    return image


def as_simpleitk_has_it(image):
    """Voxels (C, i, j, k) and the affine to LPS mm, from another library."""
    array = sitk.GetArrayFromImage(image)
    voxels = array.transpose(2, 1, 0)[None] if array.ndim == 3 else array.transpose(3, 2, 1, 0)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return voxels, affine


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr", "a.mha", "a.mhd", "a.nii", "a.nii.gz", "A.NRRD"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_every_format_reads_as_simpleitk_reads_it(tmp_path, name, dtype, compressed):
    image = sitk_image(VALUES.astype(dtype))
    sitk.WriteImage(image, tmp_path / name, useCompression=compressed)
    scan = read_scan(tmp_path / name)
    voxels, affine = as_simpleitk_has_it(image)
    np.testing.assert_array_equal(scan.voxels, voxels)
    np.testing.assert_allclose(scan.affine_lps, affine, atol=1e-5)
    assert len(source_files(tmp_path / name)) == (2 if "hd" in name else 1)


def test_a_file_of_an_unknown_format_is_read_from_that_file_alone(tmp_path):
    for name in ("a.npy", "b.npy", "readme.txt"):
        (tmp_path / name).write_bytes(b"0" * 200)
    assert source_files(tmp_path / "a.npy") == [tmp_path / "a.npy"]
    assert len(source_files(tmp_path)) == 3


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.nii.gz"])
def test_channels_of_one_file(tmp_path, name):
    image = sitk_image(np.stack([VALUES, VALUES + 100, VALUES * 2], axis=-1), is_vector=True)
    sitk.WriteImage(image, tmp_path / name)
    voxels, affine = as_simpleitk_has_it(image)
    scan = read_scan(tmp_path / name)
    np.testing.assert_array_equal(scan.voxels, voxels)
    np.testing.assert_allclose(scan.affine_lps, affine, atol=1e-5)
    volume = read_volume(tmp_path / name)
    assert volume.array.shape == (3, 4, 3, 2)
    np.testing.assert_array_equal(volume.array[1], volume.array[0] + 100)


@pytest.mark.parametrize("space", ["RAS", "left-anterior-superior"])
def test_nrrd_in_other_spaces(tmp_path, space):
    patterns = {"RAS": (-1, -1, 1), "left-anterior-superior": (1, -1, 1)}[space]
    header = (
        f"NRRD0004\n# {PATIENT}\ntype: short\ndimension: 4\nspace: {space}\nsizes: 1 2 3 4\nendian: big\n"
        f"space directions: none (2,0,0) (0,3,0) (0,0,4)\nencoding: raw\nspace origin: (5,6,7)\nname:={PATIENT}\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(header.encode() + VALUES.astype(">i2").tobytes())
    scan = read_scan(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(scan.voxels, VALUES.transpose(2, 1, 0)[None])
    np.testing.assert_array_equal(scan.affine_lps[:3, :3], np.diag(patterns) @ np.diag([2, 3, 4]))
    np.testing.assert_array_equal(scan.affine_lps[:3, 3], np.multiply(patterns, [5, 6, 7]))


def test_one_axis_of_spacings_without_space_is_lps(tmp_path):
    header = "NRRD0001\ntype: uchar\ndimension: 3\nsizes: 2 3 4\nspacings: 1 2 3\nencoding: raw\n\n"
    (tmp_path / "a.nrrd").write_bytes(header.encode() + VALUES.astype("u1").tobytes())
    np.testing.assert_array_equal(read_scan(tmp_path / "a.nrrd").affine_lps, np.diag([1, 2, 3, 1]))


def mha(sizes="2 3 4", type="MET_SHORT", spacing="1 1 1", compressed="False", file="LOCAL"):
    return (
        f"ObjectType = Image\nNDims = 3\nBinaryDataByteOrderMSB = False\nCompressedData = {compressed}\n"
        f"Comment = {PATIENT}\nElementSpacing = {spacing}\nDimSize = {sizes}\nElementType = {type}\n"
        f"ElementDataFile = {file}\n"
    ).encode()


def nrrd(sizes="2 3 4", type="short", directions="(1,0,0) (0,1,0) (0,0,1)", encoding="raw", extra=""):
    return (
        f"NRRD0005\n# {PATIENT}\ntype: {type}\ndimension: 3\nspace: left-posterior-superior\nsizes: {sizes}\n"
        f"space directions: {directions}\nendian: little\nencoding: {encoding}\n{extra}\n"
    ).encode()


RAW = VALUES.tobytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.mha", mha("30000 30000 30000") + RAW, "54,000,000,000,000 bytes; read are at most"),
        ("a.mha", mha("2 3 5") + RAW, r"claims \(2, 3, 5\) voxels of int16, but the file has 48 bytes"),
        ("a.mha", mha("2 3 3") + RAW, r"claims \(2, 3, 3\) voxels of int16, but the file has 48 bytes"),
        ("a.mha", mha("2 3 0") + RAW, "wanted positive sizes"),
        ("a.mha", mha("2 3 inf") + RAW, "header is damaged"),
        ("a.mha", mha("2 3 x") + RAW, "needs numbers in 'DimSize'"),
        ("a.mha", mha(type="MET_OTHER") + RAW, "unknown ElementType"),
        ("a.mha", mha(spacing="1 0 1") + RAW, "wanted 0.01 to 100.0"),
        ("a.mha", mha(spacing="1 1") + RAW, "ElementSpacing has 2 numbers, wanted 3"),
        ("a.mha", mha("900 900 900", compressed="True") + zlib.compress(RAW), r"claims \(900, 900, 900\)"),
        ("a.mha", mha(compressed="True") + zlib.compress(RAW)[:-6], "damaged or truncated compressed data"),
        ("a.mha", mha(compressed="True") + zlib.compress(RAW * 9), "the file goes on behind them"),
        ("a.mhd", mha(file="/etc/hostname"), "lie outside its folder"),
        ("a.mhd", mha(file="../a.raw"), "lie outside its folder"),
        ("a.mhd", mha(file="a.raw"), "voxels is missing"),
        ("a.mhd", mha(file="slice%03d.raw 1 9 1"), "spread over several files"),
        ("a.mha", b"ObjectType = Image\n" * 9, "no ElementDataFile"),
        ("a.mha", b"Comment = " + b"x" * 2**21, "does not end within"),
        ("a.nrrd", nrrd("30000 30000 30000") + RAW, "54,000,000,000,000 bytes; read are at most"),
        ("a.nrrd", nrrd("2 3 5") + RAW, r"claims \(2, 3, 5\) voxels of int16, but the file has 48 bytes"),
        ("a.nrrd", nrrd("900 900 900", encoding="gzip") + zlib.compress(RAW), r"claims \(900, 900, 900\)"),
        ("a.nrrd", nrrd(encoding="bzip2") + RAW, "neither raw nor gzip"),
        ("a.nrrd", nrrd(type="block") + RAW, "unknown voxel type"),
        ("a.nrrd", nrrd(directions="(1,0,0) (0,nan,0) (0,0,1)") + RAW, "wanted 0.01 to 100.0"),
        ("a.nrrd", nrrd(directions="(1,0,0) (1,0,0) (0,0,1)") + RAW, "axes are parallel"),
        ("a.nrrd", nrrd(directions="(1,0,0) (0,1,0)") + RAW, "2 of 3 axes have a direction"),
        ("a.nhdr", nrrd(extra="data file: ../x.raw\n"), "lie outside its folder"),
        ("a.nrrd", b"hello\n" * 9, "is not an NRRD file"),
        ("a.nrrd", b"", "is empty"),
        ("a.txt", b"hello", r"wanted a volume \(.nii.gz, .nii, .nrrd, .nhdr, .mha, .mhd\) or a DICOM series"),
    ],
)
def test_a_lying_or_foreign_header_is_refused_without_quoting_it(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as told:
        read_scan(tmp_path / name)
    assert PATIENT not in str(told.value)


BOMBS = """
import sys
from pathlib import Path
from medpretrain3d.store.readers import read_scan
from medpretrain3d.errors import UserError
from medpretrain3d.memory import peak_bytes
before = peak_bytes()
for name in sys.argv[1:]:
    try:
        read_scan(Path(name))
    except UserError as error:
        print("refused", error.kind, error)
print(peak_bytes() - before)
"""


def test_bombs_are_refused_before_memory_is_given_to_them(tmp_path):
    """Headers that claim 75 MB in small files, consistent with what deflate could hold, or with what it does hold."""
    sizes = (500, 500, 150)
    zeros = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = zeros.compress(bytes(2 * 500 * 500 * 150)) + zeros.flush()
    header = nibabel.Nifti1Header()
    header.set_data_shape(sizes)
    header.set_data_dtype(np.int16)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    nifti = header.binaryblock + bytes(4)
    text = " ".join(map(str, sizes))
    files = {
        "header.nrrd": nrrd(text) + RAW,
        "header.mha": mha(text) + RAW,
        "gzip.nrrd": nrrd(text, encoding="gzip") + bomb,
        "zlib.mha": mha(text, compressed="True") + bomb,
        "small.mha": mha(compressed="True") + bomb,
        "header.nii": nifti + RAW,
    }
    files["gzip.nii.gz"] = gzip.compress(nifti, mtime=0) + bomb  # a second member of the same stream
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", BOMBS, *(str(tmp_path / name) for name in files)], capture_output=True, text=True
    )
    *refused, grown_bytes = done.stdout.splitlines()
    assert len(refused) == len(files), done.stdout + done.stderr
    assert all(line.startswith("refused claim ") for line in refused)
    assert int(grown_bytes) < 40 * 2**20


def test_volumes_of_a_folder(tmp_path):
    for name in ("b.NII.GZ", "a.mha", "._a.mha", "c.txt", "deep/d.nrrd"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in find_volumes(tmp_path)] == ["a.mha", "b.NII.GZ"]
    assert [volume_stem(path) for path in find_volumes(tmp_path, recursive=True)] == ["a", "b", "d"]
    assert ".nii.gz" in VOLUME_ENDINGS


@pytest.mark.parametrize("degrees", [0.2, 15.0])
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_a_sheared_file_is_treated_as_a_tilted_series_is(tmp_path, ending, degrees):
    """Over 40 slices of 2 mm, 0.2 degrees are 0.27 mm, less than half a pixel of 1 mm; 15 degrees are 21 pixels."""
    shift_mm = 2 * np.tan(np.radians(degrees))
    affine = np.array([[1, 0, 0, 0], [0, 1, shift_mm, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]])
    voxels, path = np.zeros((4, 5, 40), np.int16), tmp_path / f"a{ending}"
    if ending == ".nii.gz":
        nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    elif ending == ".nrrd":
        vectors = " ".join(f"({x},{y},{z})" for x, y, z in affine[:3, :3].T.tolist())
        lines = ["NRRD0005", "type: int16", "dimension: 3", "sizes: 4 5 40", "encoding: raw", "endian: little"]
        lines += ["space: LPS", f"space directions: {vectors}", "space origin: (0,0,0)", "", ""]
        path.write_bytes("\n".join(lines).encode() + voxels.tobytes(order="F"))
    else:
        length_mm = float(np.linalg.norm(affine[:3, 2]))
        directions = affine[:3, :3] / [1, 1, length_mm]
        told = " ".join(str(value) for value in directions.T.ravel())
        header = f"ObjectType = Image\nNDims = 3\nDimSize = 4 5 40\nTransformMatrix = {told}\nOffset = 0 0 0\n"
        header += f"ElementSpacing = 1 1 {length_mm}\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
        path.write_bytes(header.encode() + voxels.tobytes(order="F"))
    if degrees < 1:
        assert read_scan(path).voxels.shape == (1, 4, 5, 40)
        return
    with pytest.raises(UserError, match=r"gantry tilted by 15.0 degrees, or sheared: .* by 20.9 voxels") as told_error:
        read_scan(path)
    assert told_error.value.kind == "gantry tilt"


def test_a_nifti_file_whose_qfac_is_0_is_read_as_one_of_1(tmp_path):
    """As NIfTI prescribes: programs that know no qfac leave 0 there."""
    affine = np.diag([-0.7, 0.8, 2.5, 1])
    image = nibabel.Nifti1Image(VALUES, None)
    image.set_qform(affine, 1)
    content = bytearray(image.to_bytes())
    assert np.frombuffer(content, "<f4", 1, offset=76) == -1  # pixdim[0]: these axes are left-handed
    affines = []
    for qfac in (1, 0):
        content[76:80] = np.float32(qfac).tobytes()
        (tmp_path / "a.nii").write_bytes(content)
        affines.append(read_scan(tmp_path / "a.nii").affine_lps)
    np.testing.assert_array_equal(*affines)

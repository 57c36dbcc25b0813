"""images.py, nifti.py, dicom.py: one file read and written."""

from __future__ import annotations

import gzip
import math
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from RVQCLib.dicom import list_series, series_files
from RVQCLib.files import RVQCError
from RVQCLib.images import SUFFIXES, image_shape, read_cine, read_image, read_mask, write_mask
from RVQCLib.stack import Geometry, Stack

RNG = np.random.default_rng(7)
PIXELS = RNG.integers(0, 500, (4, 6, 5)).astype(np.int16)
few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def itk(pixels=PIXELS, spacing=(1.25, 1.5, 8.0), origin=(10.0, -20.0, 30.0), direction=None) -> sitk.Image:
    image = sitk.GetImageFromArray(pixels)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    if direction is not None:
        image.SetDirection(np.ravel(direction))
    return image


def nifti(path: Path, pixels=PIXELS, *, srow=None, pixdim=(1, 1.25, 1.5, 8, 1, 1, 1, 1), sform=1, qform=0, order="<",
          quatern=(0, 0, 0), qoffset=(0, 0, 0), datatype=4, slope=(0, 0), units=2, version=1,
          dim=None) -> Path:  # fmt: skip
    """A NIfTI file made field by field with struct, independently of the code under test."""
    dim = (pixels.ndim, *pixels.shape[::-1], *(1,) * (7 - pixels.ndim)) if dim is None else dim
    srow = [-1.25, 0, 0, -10, 0, -1.5, 0, 20, 0, 0, 8, 30] if srow is None else srow
    header = bytearray(540 if version == 2 else 348)
    if version == 1:
        fields = {0: ("i", 348), 40: ("8h", *dim), 70: ("2h", datatype, 8 * pixels.itemsize), 76: ("8f", *pixdim),
                  108: ("f", 352), 112: ("2f", *slope), 123: ("B", units), 148: ("9s", b"Frau Meyr"),
                  252: ("2h", qform, sform), 256: ("6f", *quatern, *qoffset), 280: ("12f", *srow),
                  344: ("4s", b"n+1")}  # fmt: skip
    else:
        fields = {0: ("i", 540), 4: ("8s", b"n+2\0\r\n\x1a\n"), 12: ("2h", datatype, 8 * pixels.itemsize),
                  16: ("8q", *dim), 104: ("8d", *pixdim), 168: ("q", 544), 176: ("2d", *slope),
                  344: ("2i", qform, sform), 352: ("6d", *quatern, *qoffset), 400: ("12d", *srow),
                  500: ("i", units)}  # fmt: skip
    for offset, (form, *values) in fields.items():
        struct.pack_into(order + form, header, offset, *values)
    content = bytes(header) + bytes(4) + pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


def affine_bytes(path: Path) -> bytes:
    """pixdim[0..3], unit, qform and sform of a NIfTI-1 file, as they are in the file."""
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    return raw[76:92] + raw[123:124] + raw[252:328]


def mask_like(stack: Stack) -> Stack:
    return stack.with_pixels(RNG.integers(0, 4, stack.pixels.shape).astype(np.uint8))


def turns() -> st.SearchStrategy[np.ndarray]:
    """Rotation matrices, every second one with a flip."""

    def build(seed: int, flip: bool) -> np.ndarray:
        turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))[0]
        turn = turn * np.sign(np.linalg.det(turn))
        return turn * [1, 1, -1 if flip else 1]

    return st.builds(build, st.integers(0, 10_000), st.booleans())


def geometries(shear: float = 0.0) -> st.SearchStrategy[Geometry]:
    millimetres = st.floats(0.4, 12.0)
    place = st.floats(-400.0, 400.0)

    def build(origin, spacing, turn, tilt):
        direction = turn @ (np.eye(3) + np.triu(np.reshape(tilt, (3, 3)), 1))
        return Geometry(origin, spacing, tuple((direction / np.linalg.norm(direction, axis=0)).ravel()))

    tilts = st.tuples(*[st.floats(-shear, shear)] * 9)
    return st.builds(build, st.tuples(place, place, place), st.tuples(*[millimetres] * 3), turns(), tilts)


def assert_same_place(one: Geometry, other: Geometry, tolerance: float = 1e-6) -> None:
    np.testing.assert_allclose(one.spacing, other.spacing, rtol=tolerance)
    np.testing.assert_allclose(one.direction, other.direction, atol=tolerance)
    np.testing.assert_allclose(one.origin, other.origin, atol=tolerance * 1e2, rtol=tolerance)


# What is written has the geometry of what was read --------------------------------------------------------------------


@few
@given(geometries(), st.sampled_from(SUFFIXES), st.sampled_from(SUFFIXES), st.integers(1, 3))
def test_a_mask_keeps_the_place_of_an_oblique_or_flipped_image(tmp_path, geometry, source, target, slices):
    pixels = PIXELS[:slices]
    path = tmp_path / f"image{source}"
    sitk.WriteImage(itk(pixels, geometry.spacing, geometry.origin, geometry.direction), str(path))
    image = read_image(path, view="SA", phase="ED")
    assert image.pixels.dtype == np.float32 and np.array_equal(image.pixels, pixels)
    assert_same_place(image.geometry, geometry)
    mask = mask_like(image)
    write_mask(mask, tmp_path / f"mask{target}")
    back = read_mask(tmp_path / f"mask{target}", view="SA", phase="ED")
    assert back.pixels.dtype == np.uint8 and np.array_equal(back.pixels, mask.pixels)
    assert_same_place(back.geometry, image.geometry)
    seen = sitk.ReadImage(str(tmp_path / f"mask{target}"))
    assert seen.GetPixelID() == sitk.sitkUInt8 and seen.GetSize() == pixels.shape[::-1]
    assert_same_place(Geometry(seen.GetOrigin(), seen.GetSpacing(), seen.GetDirection()), geometry)


@few
@given(geometries(shear=0.05), st.sampled_from((".nrrd", ".mha")), st.sampled_from(SUFFIXES))
def test_a_direction_that_is_not_orthonormal_survives(tmp_path, geometry, source, target):
    path = tmp_path / f"image{source}"
    sitk.WriteImage(itk(PIXELS, geometry.spacing, geometry.origin, geometry.direction), str(path))
    image = read_image(path, view="SA", phase="ED")
    assert_same_place(image.geometry, geometry)
    write_mask(mask_like(image), tmp_path / f"mask{target}")
    assert_same_place(read_mask(tmp_path / f"mask{target}", view="SA", phase="ED").geometry, geometry)
    sitk.ReadImage(str(tmp_path / f"mask{target}"))  # and readers without shear open it


@few
@given(geometries(shear=0.1), st.sampled_from((".nii", ".nii.gz")), st.sampled_from("<>"), st.integers(1, 3))
def test_a_nifti_affine_comes_back_bit_for_bit(tmp_path, geometry, suffix, order, slices):
    columns = np.diag([-1, -1, 1]) @ np.reshape(geometry.direction, (3, 3)) * geometry.spacing
    srow = np.column_stack([columns, np.diag([-1, -1, 1]) @ geometry.origin]).ravel()
    path = nifti(tmp_path / f"image{suffix}", PIXELS[:slices], srow=srow, pixdim=(1, *geometry.spacing, 1, 1, 1, 1),
                 order=order)  # fmt: skip
    image = read_image(path, view="SA", phase="ED")
    assert np.array_equal(image.pixels, PIXELS[:slices])
    assert_same_place(image.geometry, geometry)
    mask = mask_like(image)
    write_mask(mask, tmp_path / "mask.nii.gz")
    assert affine_bytes(tmp_path / "mask.nii.gz") == affine_bytes(path)
    assert np.array_equal(read_mask(tmp_path / "mask.nii.gz", view="SA", phase="ED").pixels, mask.pixels)


@few
@given(turns(), st.tuples(*[st.floats(-300, 300)] * 3))
def test_a_qform_reads_as_itk_reads_it(tmp_path, turn, origin):
    path = tmp_path / "image.nii"
    sitk.WriteImage(itk(direction=turn, origin=origin), str(path))
    raw = bytearray(path.read_bytes())
    struct.pack_into("<h", raw, 254, 0)
    path.write_bytes(raw)
    seen = sitk.ReadImage(str(path))
    geometry = read_image(path, view="SA", phase="ED").geometry
    assert_same_place(geometry, Geometry(seen.GetOrigin(), seen.GetSpacing(), seen.GetDirection()), 1e-5)


@pytest.mark.parametrize("offset", [math.nan, math.inf, -math.inf])
def test_an_offset_that_is_no_number_is_refused(tmp_path, offset):
    path = nifti(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[108:112] = struct.pack("<f", offset)
    path.write_bytes(content)
    refused(path, "damaged")


def test_where_sform_and_pixdim_disagree_the_spacing_is_pixdim_and_the_mask_disagrees_alike(tmp_path):
    path = nifti(
        tmp_path / "image.nii.gz", srow=[-1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0], pixdim=(0, 1.25, 1.5, 8, 1, 1, 1, 1)
    )
    image = read_image(path, view="SA", phase="ED")
    assert image.geometry == Geometry((0, 0, 0), (1.25, 1.5, 8), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    assert image.geometry.spacing_zyx == (8, 1.5, 1.25)
    write_mask(mask_like(image), tmp_path / "mask.nii.gz")
    assert affine_bytes(tmp_path / "mask.nii.gz") == affine_bytes(path)


@pytest.mark.parametrize(
    "pixdim", [(1, 1, 1), (0, 0, 0), (1.25, 1.5, 0), (0, 1.5, 8), (-1.25, -1.5, -8), (-1.25, 1.5, 0)]
)
def test_a_spacing_that_pixdim_does_not_tell_is_that_of_the_sform(tmp_path, pixdim):
    path = nifti(tmp_path / "image.nii.gz", pixdim=(1, *pixdim, 1, 1, 1, 1))
    image = read_image(path, view="SA", phase="ED")
    assert_same_place(image.geometry, Geometry((10, -20, 30), (1.25, 1.5, 8)), 1e-12)
    write_mask(mask_like(image), tmp_path / "mask.nii.gz")
    assert affine_bytes(tmp_path / "mask.nii.gz") == affine_bytes(path)
    assert read_mask(tmp_path / "mask.nii.gz", view="SA", phase="ED").geometry == image.geometry


def test_without_an_sform_pixdim_is_the_spacing_whatever_it_is(tmp_path):
    for pixdim, spacing in (((1, 1, 1), (1, 1, 1)), ((-1.25, 1.5, -8), (1.25, 1.5, 8))):
        path = nifti(tmp_path / "image.nii", pixdim=(1, *pixdim, 1, 1, 1, 1), sform=0, qform=1)
        assert read_image(path, view="SA", phase="ED").geometry.spacing == spacing


def test_a_header_without_orientation_is_the_identity_as_in_itk(tmp_path):
    path = nifti(tmp_path / "image.nii", sform=0, qform=0)
    seen = sitk.ReadImage(str(path))
    geometry = read_image(path, view="SA", phase="ED").geometry
    assert geometry == Geometry(seen.GetOrigin(), seen.GetSpacing(), seen.GetDirection())


def test_the_qform_counts_where_the_sform_is_singular_and_without_it_the_file_is_refused(tmp_path):
    path = nifti(tmp_path / "image.nii", srow=[0] * 12, qform=1, quatern=(0, 0, 1), qoffset=(-1, -2, 3))
    geometry = read_image(path, view="SA", phase="ED").geometry
    # Half a turn about z: RAS (-x, -y, z), which is LPS identity.
    np.testing.assert_allclose(geometry.direction, np.eye(3).ravel(), atol=1e-12)
    assert geometry.origin == (1, 2, 3)
    with pytest.raises(RVQCError, match=r"flat\.nii has an orientation"):
        read_image(nifti(tmp_path / "flat.nii", srow=[0] * 12), view="SA", phase="ED")


def test_nifti_2_scaling_and_units(tmp_path):
    path = nifti(tmp_path / "image.nii.gz", version=2, slope=(2.0, -3.0), units=3,
                 pixdim=(1, 1250, 1500, 8000, 1, 1, 1, 1),
                 srow=[-1250, 0, 0, -10_000, 0, -1500, 0, 20_000, 0, 0, 8000, 30_000])  # fmt: skip
    image = read_image(path, view="SA", phase="ED")
    np.testing.assert_allclose(image.pixels, PIXELS * 2.0 - 3.0)
    assert_same_place(image.geometry, Geometry((10, -20, 30), (1.25, 1.5, 8)))
    write_mask(mask_like(image), tmp_path / "mask.nii.gz")
    assert_same_place(read_mask(tmp_path / "mask.nii.gz", view="SA", phase="ED").geometry, image.geometry, 1e-12)


def test_a_written_nifti_carries_no_text_of_its_input(tmp_path):
    image = read_image(nifti(tmp_path / "image.nii"), view="SA", phase="ED")
    write_mask(mask_like(image), tmp_path / "mask.nii")
    assert b"Meyr" in (tmp_path / "image.nii").read_bytes() and b"Meyr" not in (tmp_path / "mask.nii").read_bytes()


def test_a_header_of_another_grid_is_not_reused(tmp_path):
    geometry = read_image(nifti(tmp_path / "image.nii"), view="SA", phase="ED").geometry
    write_mask(Stack(np.ones((2, 3, 3), np.uint8), geometry, "SA", "ED"), tmp_path / "mask.nii")
    back = read_mask(tmp_path / "mask.nii", view="SA", phase="ED")
    assert back.pixels.shape == (2, 3, 3)
    assert_same_place(back.geometry, geometry)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8", "u8", "i8"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_pixel_type_is_read_as_float32(tmp_path, dtype, suffix):
    pixels = (PIXELS % 100).astype(dtype)
    sitk.WriteImage(itk(pixels), str(tmp_path / f"image{suffix}"))
    image = read_image(tmp_path / f"image{suffix}", view="SA", phase="ES")
    assert image.pixels.dtype == np.float32 and np.array_equal(image.pixels, pixels)
    assert image.name == "SA_ES" and image.source.endswith(f"image{suffix}")


def test_a_mask_is_uint8_with_our_labels(tmp_path):
    labels = np.arange(24).reshape(2, 3, 4) % 4
    for dtype in ("u1", "i2", "f4", "f8"):
        sitk.WriteImage(itk(labels.astype(dtype)), str(tmp_path / "gt.nii.gz"))
        ours = read_mask(tmp_path / "gt.nii.gz", view="SA", phase="ED")
        assert ours.pixels.dtype == np.uint8 and np.array_equal(ours.pixels, labels)
        assert np.array_equal(
            read_mask(tmp_path / "gt.nii.gz", view="SA", phase="ED", convention="mnms2").pixels, labels
        )
        acdc = read_mask(tmp_path / "gt.nii.gz", view="SA", phase="ED", convention="acdc")
        assert np.array_equal(acdc.pixels, np.array([0, 3, 2, 1])[labels])
    with pytest.raises(ValueError, match="convention"):
        read_mask(tmp_path / "gt.nii.gz", view="SA", phase="ED", convention="acdC")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_cine_is_read_frame_by_frame(tmp_path, suffix):
    frames = [PIXELS + number for number in range(3)]
    path = tmp_path / f"cine{suffix}"
    sitk.WriteImage(sitk.JoinSeries([itk(frame) for frame in frames]), str(path))
    assert image_shape(path) == (3, *PIXELS.shape)
    cine = read_cine(path, view="SA")
    assert [stack.phase for stack in cine] == ["", "", ""] and cine[0].name == "SA"
    for frame, stack in zip(frames, cine, strict=True):
        assert np.array_equal(stack.pixels, frame)
        assert_same_place(stack.geometry, Geometry((10, -20, 30), (1.25, 1.5, 8)))
    assert np.array_equal(read_image(path, view="SA", phase="ES", frame=2).pixels, frames[2])
    write_mask(mask_like(cine[1]), tmp_path / "mask.nii.gz")
    assert sitk.ReadImage(str(tmp_path / "mask.nii.gz")).GetSize() == PIXELS.shape[::-1]
    for frame in (3, -1):
        with pytest.raises(RVQCError, match=r"no frame"):
            read_image(path, view="SA", phase="ES", frame=frame)
    with pytest.raises(RVQCError, match=r"cine of 3 frames"):
        read_image(path, view="SA", phase="ES")
    with pytest.raises(RVQCError, match=r"series of 3 label maps"):
        read_mask(path, view="SA", phase="ES")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_four_dimensional_file_of_one_frame_is_a_stack(tmp_path, suffix):
    sitk.WriteImage(sitk.JoinSeries([itk()]), str(tmp_path / f"one{suffix}"))
    assert np.array_equal(read_image(tmp_path / f"one{suffix}", view="SA", phase="ED").pixels, PIXELS)
    with pytest.raises(RVQCError, match="not a cine"):
        read_cine(tmp_path / f"one{suffix}", view="SA")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_two_dimensional_file_is_one_slice(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(itk()[:, :, 1], str(path))
    image = read_image(path, view="LA", phase="ED")
    assert image_shape(path) == (1, 6, 5) and np.array_equal(image.pixels, PIXELS[1:2])
    thick = 1.0 if "nii" in suffix else 1.25  # ITK writes 1 into the pixdim of a slice
    assert_same_place(image.geometry, Geometry((10, -20, 0), (1.25, 1.5, thick)))
    write_mask(mask_like(image), tmp_path / "mask.nii.gz")
    back = read_mask(tmp_path / "mask.nii.gz", view="LA", phase="ED")
    assert back.pixels.shape == (1, 6, 5)
    assert_same_place(back.geometry, image.geometry)
    sitk.WriteImage(itk(PIXELS % 4)[:, :, 1], str(path))
    assert np.array_equal(read_mask(path, view="LA", phase="ED").pixels, PIXELS[1:2] % 4)


@pytest.mark.parametrize("pixdim, thick", [(7, 7), (0, 1.25)])
def test_a_two_dimensional_nifti_is_as_thick_as_it_says_or_as_its_pixels_are_wide(tmp_path, pixdim, thick):
    path = nifti(
        tmp_path / "a.nii", PIXELS[0], pixdim=(1, 1.25, 1.5, pixdim, 0, 0, 0, 0), dim=(2, 5, 6, 0, 0, 0, 0, 0), sform=0
    )
    image = read_image(path, view="LA", phase="ED")
    assert image_shape(path) == image.pixels.shape == (1, 6, 5)
    assert image.geometry.spacing == (1.25, 1.5, thick)
    refused(nifti(tmp_path / "row.nii", PIXELS[0, 0]), "single row")


def put_sequence(path: Path, frames: np.ndarray) -> Path:
    """Frames as Slicer saves a sequence: the list of a pixel's values in time is the fastest axis."""
    sizes = " ".join(map(str, (len(frames), *frames.shape[:0:-1])))
    header = (
        f"NRRD0005\ntype: int16\ndimension: 4\nspace: left-posterior-superior\nsizes: {sizes}\n"
        "space directions: none (1.25,0,0) (0,1.5,0) (0,0,8)\nkinds: list domain domain domain\nendian: little\n"
        "encoding: raw\nspace origin: (10,-20,30)\n\n"
    )
    path.write_bytes(header.encode() + np.moveaxis(frames, 0, -1).astype("<i2").tobytes())
    return path


def test_a_sequence_of_slicers_is_a_cine(tmp_path):
    frames = np.stack([PIXELS + number for number in range(3)])
    path = put_sequence(tmp_path / "a.seq.nrrd", frames)
    assert image_shape(path) == frames.shape
    cine = read_cine(path, view="SA")
    assert all(np.array_equal(stack.pixels, frame) for stack, frame in zip(cine, frames, strict=True))
    assert_same_place(cine[0].geometry, Geometry((10, -20, 30), (1.25, 1.5, 8)))
    assert np.array_equal(read_image(path, view="SA", phase="ES", frame=2).pixels, frames[2])
    path = put_sequence(tmp_path / "one.seq.nrrd", frames[:1])
    assert image_shape(path) == PIXELS.shape
    assert np.array_equal(read_image(path, view="SA", phase="ED").pixels, PIXELS)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("apart", [b"0", b"0.000", b"-1", b"40"])
def test_the_time_between_frames_of_an_mha_is_anything(tmp_path, apart, compressed):
    frames = np.stack([PIXELS + number for number in range(3)])
    path = tmp_path / "cine.mha"
    sitk.WriteImage(sitk.JoinSeries([itk(frame) for frame in frames]), str(path), useCompression=compressed)
    content = re.sub(rb"ElementSpacing = [^\n]*", b"ElementSpacing = 1.25 1.5 8 " + apart, path.read_bytes())
    path.write_bytes(content)
    assert image_shape(path) == frames.shape
    cine = read_cine(path, view="SA")
    assert all(np.array_equal(stack.pixels, frame) for stack, frame in zip(cine, frames, strict=True))
    assert_same_place(cine[0].geometry, Geometry((10, -20, 30), (1.25, 1.5, 8)))
    path.write_bytes(content.replace(b"1.25 1.5 8", b"1.25 0 8"))
    refused(path, "spacing that is not positive", lambda path, view, phase: read_cine(path, view=view))


def test_names_with_spaces_and_umlauts(tmp_path):
    folder = tmp_path / "Frau Müller, Größe 1,70 — 心"
    folder.mkdir()
    for suffix in SUFFIXES:
        sitk.WriteImage(itk(), str(folder / f"Bild ä{suffix}"))
        image = read_image(folder / f"Bild ä{suffix}", view="SA", phase="ED")
        write_mask(mask_like(image), folder / f"Maske ß{suffix}")
        assert_same_place(read_mask(folder / f"Maske ß{suffix}", view="SA", phase="ED").geometry, image.geometry)
    assert len(os.listdir(folder)) == 2 * len(SUFFIXES)


def test_writing_the_same_mask_twice_gives_the_same_bytes(tmp_path):
    mask = Stack(np.ones((2, 3, 4), np.uint8), Geometry(), "SA", "ED")
    write_mask(mask, tmp_path / "a.nii.gz")
    write_mask(mask, tmp_path / "b.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_an_os_error_and_leaves_nothing(tmp_path, suffix, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    def refuse_itk(*_, **__):
        raise RuntimeError("ITK cannot write")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr(sitk, "WriteImage", refuse_itk)
    with pytest.raises(OSError, match=r"space|disk full"):
        write_mask(Stack(np.ones((2, 3, 4), np.uint8), Geometry(), "SA", "ED"), tmp_path / f"a{suffix}")
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_written_as_a_mask(tmp_path):
    with pytest.raises(RVQCError, match=r"mask\.png has no suffix"):
        write_mask(Stack(np.ones((2, 3, 4), np.uint8), Geometry(), "SA", "ED"), tmp_path / "mask.png")
    with pytest.raises(ValueError, match="uint8"):
        write_mask(Stack(np.ones((2, 3, 4), np.float32), Geometry(), "SA", "ED"), tmp_path / "mask.nii")
    assert os.listdir(tmp_path) == []


# Bad input: one sentence that names the file --------------------------------------------------------------------------


def refused(path: Path, words: str, read=read_image) -> None:
    with pytest.raises(RVQCError) as caught:
        read(path, view="SA", phase="ED")
    sentence = str(caught.value)
    assert str(path) in sentence and re.search(words, sentence), sentence
    assert "\n" not in sentence and sentence.endswith("."), sentence


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("left", [0.0, 0.3, 0.9])
def test_truncated(tmp_path, suffix, left):
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(itk(RNG.integers(0, 500, (8, 40, 40)).astype(np.int16)), str(path), useCompression=True)
    path.write_bytes(path.read_bytes()[: int(left * path.stat().st_size)])
    refused(path, "truncated|not a NIfTI")
    refused(path, "truncated|not a NIfTI", read_mask)


def test_truncated_only_at_the_checksum_or_with_a_flipped_byte(tmp_path):
    whole = nifti(tmp_path / "a.nii.gz").read_bytes()
    path = tmp_path / "b.nii.gz"
    path.write_bytes(whole[:-4])
    refused(path, "truncated or damaged")
    for place in range(30, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        refused(path, "truncated or damaged")


@pytest.mark.parametrize("dim", [(3, -5, 6, 4, 1, 1, 1, 1), (3, 0, 6, 4, 1, 1, 1, 1), (99, 5, 6, 4, 1, 1, 1, 1)])
def test_a_header_that_makes_no_sense(tmp_path, dim):
    refused(nifti(tmp_path / "a.nii", dim=dim), "damaged")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", [sitk.sitkVectorUInt8, sitk.sitkVectorFloat32])
def test_colours(tmp_path, suffix, kind):
    sitk.WriteImage(sitk.Cast(sitk.Compose(itk(), itk(), itk()), kind), str(tmp_path / f"a{suffix}"))
    refused(tmp_path / f"a{suffix}", "colours")
    refused(tmp_path / f"a{suffix}", "colours", read_mask)


def test_rgb24_and_complex_nifti(tmp_path):
    refused(nifti(tmp_path / "a.nii", datatype=128), "colours")
    refused(nifti(tmp_path / "b.nii", datatype=32), "colours")
    sitk.WriteImage(sitk.Cast(itk(), sitk.sitkComplexFloat32), str(tmp_path / "c.nrrd"))
    refused(tmp_path / "c.nrrd", "colours")


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_spacing_that_is_not_positive_in_nifti(tmp_path, value, axis):
    pixdim = [1, 1.25, 1.5, 8, 1, 1, 1, 1]
    pixdim[axis] = value
    unit = [-1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0]  # as in ACDC: it says nothing of the spacing
    refused(nifti(tmp_path / "a.nii.gz", pixdim=pixdim, srow=unit), "spacing")
    refused(nifti(tmp_path / "b.nii.gz", pixdim=pixdim, sform=0, qform=1), "spacing")


@pytest.mark.parametrize("spacing", [b"0 1 1", b"-1 1 1", b"1 1 -2.5"])
def test_spacing_that_is_not_positive_in_mha(tmp_path, spacing):
    path = tmp_path / "a.mha"
    sitk.WriteImage(itk(), str(path))
    path.write_bytes(re.sub(rb"ElementSpacing = [^\n]*", b"ElementSpacing = " + spacing, path.read_bytes()))
    refused(path, "spacing")


def test_a_tiny_exponent_is_no_negative_spacing(tmp_path):
    path = tmp_path / "a.mha"
    sitk.WriteImage(itk(), str(path))
    path.write_bytes(re.sub(rb"ElementSpacing = [^\n]*", b"ElementSpacing = 1e0 15e-1 8", path.read_bytes()))
    assert read_image(path, view="SA", phase="ED").geometry.spacing == (1, 1.5, 8)


def test_spacing_that_is_not_positive_in_nrrd(tmp_path):
    path = tmp_path / "a.nrrd"
    sitk.WriteImage(itk(), str(path))
    whole = path.read_bytes()
    path.write_bytes(re.sub(rb"space directions: [^\n]*", b"space directions: (0,0,0) (0,1,0) (0,0,1)", whole))
    refused(path, "spacing|damaged")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_pixels_that_are_not_finite(tmp_path, suffix, value):
    pixels = PIXELS.astype(np.float64)
    pixels[1, 2, 3] = value
    sitk.WriteImage(itk(pixels), str(tmp_path / f"a{suffix}"))
    refused(tmp_path / f"a{suffix}", "not finite")
    refused(tmp_path / f"a{suffix}", "labels 0, 1, 2, 3", read_mask)


def test_constant_and_label_images(tmp_path):
    path = tmp_path / "a.nii.gz"
    for value in (0, 2, 100):
        sitk.WriteImage(itk(np.full_like(PIXELS, value)), str(path))
        refused(path, "same value everywhere")
    for labels in (PIXELS % 4, PIXELS % 2, (PIXELS % 4).astype(np.float32)):
        sitk.WriteImage(itk(labels), str(path))
        refused(path, "label map")
    for pixels in (PIXELS % 5, PIXELS % 4 - 1, PIXELS % 4 + 1, (PIXELS % 4) / 2):
        sitk.WriteImage(itk(pixels), str(path))
        read_image(path, view="SA", phase="ED")


@pytest.mark.parametrize("labels", [PIXELS % 5, -(PIXELS % 2), (PIXELS % 4) / 2, PIXELS % 4 + 256 * (PIXELS % 2)])
def test_labels_that_are_none(tmp_path, labels):
    sitk.WriteImage(itk(labels), str(tmp_path / "a.nii.gz"))
    refused(tmp_path / "a.nii.gz", "labels 0, 1, 2, 3", read_mask)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x1f\x8b", b"\xff\xd8\xff\xe0" + bytes(900), bytes(2000)])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_no_image(tmp_path, suffix, content):
    (tmp_path / f"a{suffix}").write_bytes(content)
    refused(tmp_path / f"a{suffix}", "damaged|not a NIfTI")


def test_a_png_that_is_named_otherwise(tmp_path):
    sitk.WriteImage(sitk.Cast(itk()[:, :, 0], sitk.sitkUInt8), str(tmp_path / "a.png"))
    for suffix in SUFFIXES:
        (tmp_path / f"a{suffix}").write_bytes((tmp_path / "a.png").read_bytes())
        refused(tmp_path / f"a{suffix}", "damaged|not a NIfTI")
    refused(tmp_path / "a.png", "no format")


def test_files_that_do_not_open(tmp_path):
    refused(tmp_path / "absent.nii.gz", "cannot be opened")
    (tmp_path / "folder.nii.gz").mkdir()
    refused(tmp_path / "folder.nii.gz", "is a folder")


def test_no_permission(tmp_path, monkeypatch):
    path = nifti(tmp_path / "a.nii.gz")

    def forbid(*_, **__):  # root may read everything, so that chmod shows nothing there
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", forbid)
    refused(path, "cannot be opened .Permission denied.")


# DICOM ----------------------------------------------------------------------------------------------------------------


def write_dicom(
    folder: Path,
    *,
    times: int = 1,
    slices: int = 4,
    description: str = "SAX",
    skip=(),
    uid: str = "1.2.3.4",
    at: float = 0.0,
    aside: float = 0.0,
    tilt: float = 0.0,
):
    """A series whose pixel (time, slice, row, column) is 1000 time + 100 slice + column, in shuffled file order, numbered from
    the last to the first.

    It begins `at` times 8 mm along the normal, `aside` mm along the rows; its last slice is turned by `tilt` about its columns.
    """
    folder.mkdir(exist_ok=True)
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0]
    turn = turn * np.sign(np.linalg.det(turn))
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number, (time, place) in enumerate((t, s) for s in reversed(range(slices)) for t in range(times)):
        if (time, place) in skip:
            continue
        pixels = np.broadcast_to(1000 * time + 100 * (at + place) + np.arange(7), (1, 6, 7)).astype(np.int16)
        image = sitk.GetImageFromArray(pixels)
        image.SetSpacing((1.25, 1.5, 6.0))
        origin = np.array([10.0, 20.0, 30.0]) + 8.0 * (at + place) * turn[:, 2] + aside * turn[:, 0]
        rows = np.cos(tilt) * turn[:, 0] + np.sin(tilt) * turn[:, 2] if place == slices - 1 else turn[:, 0]
        for key, value in {
            "0008|0060": "MR", "0008|103e": description, "0020|000e": uid, "0020|000d": "1.2.3",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.4",
            "0008|0018": f"{uid}.{number + 1}", "0020|0013": str(999 - number), "0018|1060": str(30 * time),
            "0020|0032": "\\".join(f"{v:.6f}" for v in origin), "0018|0050": "6",
            "0020|0037": "\\".join(f"{v:.8f}" for v in (*rows, *turn[:, 1])),
        }.items():  # fmt: skip
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{uid}-{(number * 7) % 101:03d}.dcm"))
        writer.Execute(image)
    return turn


def test_a_dicom_series_is_a_stack(tmp_path):
    turn = write_dicom(tmp_path / "series")
    path = sorted((tmp_path / "series").iterdir())[2]
    image = read_image(path, view="SA", phase="ED")
    assert image.pixels.shape == image_shape(path) == (4, 6, 7)
    assert np.array_equal(image.pixels[:, 0, 0], [0, 100, 200, 300])
    assert_same_place(image.geometry, Geometry((10, 20, 30), (1.25, 1.5, 8), tuple(turn.ravel())), 1e-5)
    write_mask(mask_like(image), tmp_path / "mask.nii.gz")
    assert_same_place(read_mask(tmp_path / "mask.nii.gz", view="SA", phase="ED").geometry, image.geometry)


def test_repeated_positions_are_a_cine(tmp_path):
    write_dicom(tmp_path / "series", times=3)
    path = sorted((tmp_path / "series").iterdir())[0]
    cine = read_cine(path, view="SA")
    assert image_shape(path) == (3, 4, 6, 7)
    assert [frame.pixels[2, 0, 1] for frame in cine] == [201, 1201, 2201]


def test_a_series_with_a_tilted_slice_is_refused(tmp_path):
    write_dicom(tmp_path / "series", tilt=0.2)
    refused(sorted((tmp_path / "series").iterdir())[0], "tilted against each other")


def test_series_with_holes_are_refused(tmp_path):
    write_dicom(tmp_path / "missing", skip=[(0, 2)])
    refused(sorted((tmp_path / "missing").iterdir())[0], "unevenly spaced")
    write_dicom(tmp_path / "frames", times=2, skip=[(1, 2)])
    refused(sorted((tmp_path / "frames").iterdir())[0], "missing in some frames")


@pytest.mark.parametrize("kept", [0.6, 0.95])
def test_a_series_with_a_cut_slice_is_no_shorter_stack(tmp_path, kept):
    write_dicom(tmp_path / "series")
    (tmp_path / "series" / "SR.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"1.2.840.10008.5.1.4.1.1.88.11\0")
    first, *_, last = sorted((tmp_path / "series").glob("1*.dcm"))
    assert image_shape(last) == (4, 6, 7), "a report beside the images is none of them"
    first.write_bytes(first.read_bytes()[: int(kept * first.stat().st_size)])
    with pytest.raises(RVQCError, match=f"{first.name} is cut off or damaged"):
        read_image(last, view="SA", phase="ED")


def test_one_slice_takes_its_thickness(tmp_path):
    write_dicom(tmp_path / "series", slices=1)
    image = read_image(next((tmp_path / "series").iterdir()), view="LA", phase="ED")
    assert image.pixels.shape == (1, 6, 7) and image.geometry.spacing == (1.25, 1.5, 6)


def write_slices(
    folder: Path, *, places=(2, 0, 3, 1), times: int = 3, description: str = "cine SAX", **more
) -> list[Path]:
    """A series of one slice for each of the places, in an order that is not theirs; the files of the first."""
    for number, place in enumerate(places):
        uid = f"1.2.5.{number}"
        write_dicom(folder, times=times, slices=1, at=place, uid=uid, description=f"{description} {number}", **more)
    return sorted(folder.glob("1.2.5.0-*"))


def test_a_short_axis_saved_slice_by_slice_is_one_stack(tmp_path):
    write_dicom(tmp_path / "whole", times=3)
    whole = read_cine(next((tmp_path / "whole").iterdir()), view="SA")
    for name, description in (("named", "cine short axis"), ("unnamed", "tf2d14_retro")):
        path = write_slices(tmp_path / name, description=description)[0]
        assert [file.parent.name for file, _ in list_series(tmp_path / name)] == [name]
        assert image_shape(path) == (3, 4, 6, 7) and len(series_files(path)) == 12
        cine = read_cine(path, view="SA")
        assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(cine, whole, strict=True))
        assert_same_place(cine[0].geometry, whole[0].geometry, 1e-5)
    path = write_slices(tmp_path / "still", times=1, description="SA ED")[0]
    assert np.array_equal(read_image(path, view="SA", phase="ED").pixels, whole[0].pixels)


def test_series_that_are_no_short_axis_stay_apart(tmp_path):
    write_slices(tmp_path / "long", description="cine 4ch")
    write_slices(tmp_path / "two", places=(0, 1), description="cine")
    write_slices(tmp_path / "scouts", times=1, description="localizer")
    write_slices(tmp_path / "stacks", times=1)
    write_dicom(tmp_path / "stacks", times=3)
    counts = {folder.name: len(list_series(folder)) for folder in tmp_path.iterdir()}
    assert counts == {"long": 4, "two": 2, "scouts": 4, "stacks": 2}
    assert image_shape(next((tmp_path / "long").iterdir())) == (3, 1, 6, 7)


def test_slices_in_series_that_do_not_fit_are_refused(tmp_path):
    for name, words, more in (
        ("twice", "two of them lie in the same place", {"places": (0, 1, 2, 1)}),
        ("hole", "they are unevenly spaced", {"places": (0, 1, 2, 4)}),
        ("frames", "they have 2 to 3 frames", {}),
        ("aside", "they are shifted against each other", {"places": (0, 1, 2)}),
    ):
        path = write_slices(tmp_path / name, **more)[0]
        if name == "frames":
            next((tmp_path / name).glob("1.2.5.2-*")).unlink()
        if name == "aside":
            write_dicom(tmp_path / name, times=3, slices=1, at=3, uid="1.2.6", aside=3.0)
        for call in (lambda path: read_cine(path, view="SA"), lambda path: list_series(path.parent)):
            with pytest.raises(
                RVQCError, match=f"has 4 series that look like the slices of one short axis, but {words}"
            ):
                call(path)

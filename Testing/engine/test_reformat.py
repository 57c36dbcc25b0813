"""The four-chamber view out of a short-axis stack: where it lies, what it shows, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from RVQCLib.files import RVQCError
from RVQCLib.phantom import phantom_study, write_phantom
from RVQCLib.reformat import four_chamber, write_four_chamber
from RVQCLib.stack import LABELS, Geometry, Stack
from RVQCLib.study import find_studies

SPACING = (2.0, 1.0, 4.0)  # columns, rows, slices


def cylinders(tilt: float = 0.0) -> tuple[Stack, Stack]:
    """An LV of radius 20 mm whose axis leans by `tilt` mm a mm along the rows, an RV of radius 15 mm 40 mm beside it.

    Both narrow by nearly a third from the first slice to the last: the first one is the base.
    """
    z, y, x = np.meshgrid(np.arange(16) * 4.0, np.arange(160) * 1.0, np.arange(100) * 2.0, indexing="ij")
    shrink = 1 - 0.3 * z / 60
    labels = np.zeros(z.shape, np.uint8)
    for label, column, radius in ((2, 80, 25.0), (1, 80, 20.0), (3, 125, 15.0)):
        labels[np.hypot(y - 70 - tilt * z, x - column) < radius * shrink] = label
    labels[[0, 1, 14, 15]] = 0
    image = np.array([10, 500, 100, 400], np.float32)[labels]
    return (Stack(pixels, Geometry(spacing=SPACING), "SA", "ED") for pixels in (image, labels))


def heart_axes(structure: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the pixels of a boolean image: how far along the axis (base to apex, up right), how far across (up left)."""
    rows, columns = np.nonzero(structure)
    return (columns - rows) / np.sqrt(2), -(columns + rows) / np.sqrt(2)


@pytest.mark.parametrize("tilt", [0.0, 0.3])
def test_the_plane_holds_both_axes_in_true_size(tilt):
    image, mask = four_chamber(*cylinders(tilt), spacing_mm=1.0, size=144)
    assert (image.view, image.phase, image.pixels.shape) == ("LA", "ED", (1, 144, 144))
    labels, pixels = mask.pixels[0], image.pixels[0]
    length = 12 * 4 * np.hypot(1, tilt)  # twelve labelled slices, half a slice on either end
    for label, width, signal in ((LABELS["LV"], 34, 500), (LABELS["RV"], 25.5, 400)):
        along, across = heart_axes(labels == label)
        assert np.ptp(along) + 1 == pytest.approx(length, abs=6)
        middle = np.abs(along - along.mean()) < 3
        assert np.count_nonzero(middle) / 6 == pytest.approx(width, abs=3)
        assert np.ptp(across[middle]) + 1 == pytest.approx(width, abs=3)
        assert np.median(pixels[labels == label]) == pytest.approx(signal, rel=0.01)
    rv, lv = (heart_axes(labels == LABELS[s])[1].mean() for s in ("RV", "LV"))
    assert rv - lv == pytest.approx(45, abs=3)


def test_the_base_comes_first_whichever_slice_is_stored_first():
    image, mask = cylinders()
    turned = (one.with_pixels(np.ascontiguousarray(one.pixels[::-1])) for one in (image, mask))
    one, other = (four_chamber(*pair)[1].pixels[0] == LABELS["LV"] for pair in ((image, mask), turned))
    assert np.mean(one == other) > 0.99
    along, _ = heart_axes(one)
    widths = np.bincount(np.round(along - along.min()).astype(int))
    assert widths[2:10].mean() > widths[-10:-2].mean() + 0.5


def test_further_planes_lie_near_the_first():
    image, mask = cylinders()
    one, many = four_chamber(image, mask), four_chamber(image, mask, planes=4, seed=3)
    assert many[0].pixels.shape == many[1].pixels.shape == (4, 144, 144)
    assert all(np.array_equal(a.pixels[0], b.pixels[0]) for a, b in zip(one, many, strict=True))
    for labels in many[1].pixels[1:]:
        assert not np.array_equal(labels, one[1].pixels[0])
        shared = [np.mean((labels == k)[one[1].pixels[0] == k]) for k in (LABELS["LV"], LABELS["RV"])]
        assert shared[0] > 0.7 and shared[1] > 0.3
    again, other = (four_chamber(image, mask, planes=4, seed=seed)[1].pixels for seed in (3, 4))
    assert np.array_equal(again, many[1].pixels) and not np.array_equal(other, many[1].pixels)


def test_outside_the_stack_all_is_black():
    image, mask = four_chamber(*cylinders(), spacing_mm=1.5, size=144)
    beyond = image.pixels[0] == 0
    rows, columns = np.mgrid[:144, :144]
    far = np.abs(columns - rows) / np.sqrt(2) * 1.5 > 40  # the stack reaches 32 mm to either side along the axis
    assert beyond[far].all() and not beyond[~far].all() and not mask.pixels[0][beyond].any()


def test_it_is_nearly_the_long_axis_view_of_the_same_phantom():
    study = phantom_study(2, spacing=(1.5, 1.5, 3.0))
    short = four_chamber(study.stack("SA", "ED"), study.label("SA", "ED"))[1]
    long = study.label("LA", "ED")
    for label, low in ((LABELS["LV"], 0.85), (LABELS["RV"], 0.7)):
        areas = [np.count_nonzero(m.pixels == label) * np.prod(m.geometry.spacing[:2]) for m in (short, long)]
        assert low < areas[0] / areas[1] < 1 / low


def test_too_few_slices_are_refused_and_left_out(tmp_path, caplog):
    image, mask = cylinders()
    few = mask.with_pixels(np.where(np.arange(16)[:, None, None] < 5, mask.pixels, 0).astype(np.uint8))
    with pytest.raises(RVQCError, match="in 3 slices, too few for a long axis"):
        four_chamber(image, few)
    write_phantom(tmp_path / "sa", 2, 1, "acdc", size=(96, 96), spacing=(2.9, 2.9, 30.0))
    with pytest.raises(RVQCError, match="has no labelled short-axis stack with a long axis"):
        write_four_chamber(tmp_path / "sa", tmp_path / "none")
    assert "too few" in caplog.text and not (tmp_path / "none").exists()


def test_a_folder_of_stacks_becomes_a_folder_of_views(tmp_path):
    write_phantom(tmp_path / "sa", 2, 1, "acdc", size=(96, 96), spacing=(2.9, 2.9, 10.0))
    folders = write_four_chamber(tmp_path / "sa", tmp_path / "la")
    assert [folder.name for folder in folders] == ["patient001", "patient002"]
    (first, _) = (source.load(labels=True) for source in find_studies(tmp_path / "la"))
    assert [stack.name for stack in first.stacks] == ["LA_ED", "LA_ES"]
    assert set(np.unique(first.label("LA", "ES").pixels)) == {0, 1, 2, 3}
    with pytest.raises(RVQCError, match="0 planes cannot be cut"):
        write_four_chamber(tmp_path / "sa", tmp_path / "none", planes=0)
    write_four_chamber(tmp_path / "sa", tmp_path / "planes", planes=3)
    assert find_studies(tmp_path / "planes")[0].load(labels=True).label("LA", "ED").pixels.shape[0] == 3

"""Shifts of images are repeatable and graded, and keep the grid."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from test_mask_errors import heart

from RVQCLib import shifts
from RVQCLib.files import RVQCError
from RVQCLib.shifts import SEVERITIES, SHIFTS, seed_of, shift_stack
from RVQCLib.study import Geometry, Stack, Study, find_studies


def normalized(pixels: np.ndarray) -> np.ndarray:
    low, high = np.percentile(pixels, (0.5, 99.5))
    return np.clip((pixels - low) / (high - low), 0, 1)


def departure(stack: Stack, name: str, severity: int, seeds: Iterable[int]) -> float:
    """Mean absolute difference of the normalized images, mean over seeds."""
    clean = normalized(stack.pixels)
    shifted = (normalized(shift_stack(stack, name, severity, seed=seed).pixels) for seed in seeds)
    return float(np.mean([np.abs(image - clean).mean() for image in shifted]))


@pytest.fixture
def thorax() -> Stack:
    """Three slices of a heart of real size in pixels, in a body of smooth and fine structure."""
    rows, columns = np.mgrid[:96, :96]
    body = 0.35 + 0.15 * np.sin(rows / 9) * np.cos(columns / 7) + 0.05 * np.sin(rows * 1.3) * np.sin(columns * 1.1)
    labels = heart()[1:4]
    pixels = np.where(labels > 0, np.array([0, 0.9, 0.2, 0.8])[labels], body)
    return Stack((400 * pixels).astype(np.float32), Geometry(spacing=(1.5, 1.5, 9.0)), "SA", "ED")


@pytest.fixture
def stack(tiny_study: Study) -> Stack:
    found = tiny_study.stack("SA", "ED")
    assert found is not None
    return found


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_is_repeatable_finite_and_keeps_the_grid(stack: Stack, name: str, severity: int) -> None:
    before = stack.pixels.copy()
    shifted = shift_stack(stack, name, severity, seed=3)
    assert np.array_equal(shifted.pixels, shift_stack(stack, name, severity, seed=3).pixels)
    assert np.array_equal(stack.pixels, before)
    assert shifted.pixels.dtype == np.float32 and shifted.pixels.shape == before.shape
    assert np.isfinite(shifted.pixels).all() and not np.array_equal(shifted.pixels, before)
    assert shifted.geometry is stack.geometry and (shifted.view, shifted.phase) == (stack.view, stack.phase)


def test_a_shift_depends_on_seed_and_stack_but_not_on_the_file(stack: Stack) -> None:
    first = shift_stack(stack, "noise", 3, seed=0).pixels
    elsewhere = Stack(stack.pixels, stack.geometry, stack.view, stack.phase, source="elsewhere.nii.gz")
    other = Stack(stack.pixels, stack.geometry, stack.view, "ES")
    assert np.array_equal(first, shift_stack(elsewhere, "noise", 3, seed=0).pixels)
    assert not np.array_equal(first, shift_stack(stack, "noise", 3, seed=1).pixels)
    assert not np.array_equal(first, shift_stack(other, "noise", 3, seed=0).pixels)


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_departs_further_with_severity(thorax: Stack, name: str) -> None:
    """For every draw: what is drawn is the same at every severity, which only scales it."""
    for seed in range(10):
        departures = [departure(thorax, name, severity, [seed]) for severity in SEVERITIES]
        # Ghosts and rounded motions may fall on like pixels, so that a little less differs.
        assert all(later > 0.9 * earlier for earlier, later in zip(departures, departures[1:], strict=False))
        assert departures[-1] > 1.5 * departures[0] > 0


def test_no_two_studies_or_stacks_share_a_draw(stack: Stack) -> None:
    other = Stack(stack.pixels, stack.geometry, stack.view, "ES")
    seeds = {seed_of(seed, name, one) for seed in (0, 1) for name in ("a", "b") for one in (stack, other)}
    assert len(seeds) == 8 and seed_of(0, "a", stack) == seed_of(0, "a", stack.with_pixels(stack.pixels * 0))


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_departs_further_with_severity_on_a_patient(acdc: Path, name: str) -> None:
    image = find_studies(acdc)[0].load().stack("SA", "ED")
    assert image is not None
    middle = image.pixels.shape[0] // 2
    one = Stack(image.pixels[middle : middle + 1], image.geometry, "SA", "ED")
    mild, other_hospital, bad = (departure(one, name, severity, range(8)) for severity in (1, 3, 5))
    assert mild < other_hospital < bad
    assert mild < 0.07 and bad > 0.03


@pytest.mark.parametrize("fill", [0.0, 7.0])
@pytest.mark.parametrize("name", SHIFTS)
def test_a_constant_image_stays_finite(name: str, fill: float) -> None:
    constant = Stack(np.full((2, 40, 36), fill, np.float32), Geometry(), "SA", "ED")
    assert np.isfinite(shift_stack(constant, name, 5, seed=0).pixels).all()


def test_several_shifts_are_taken_one_after_the_other(stack: Stack) -> None:
    both = shift_stack(shift_stack(stack, "vendor", 3, seed=1), "noise", 3, seed=1)
    assert np.array_equal(shift_stack(stack, "vendor+noise", 3, seed=1).pixels, both.pixels)


@pytest.mark.parametrize(
    ("name", "severity"), [("fog", 1), ("noise", 0), ("noise", 6), ("noise+", 1), ("noise+fog", 1)]
)
def test_an_unknown_shift_or_severity_is_refused(stack: Stack, name: str, severity: int) -> None:
    with pytest.raises(RVQCError, match="no shift"):
        shift_stack(stack, name, severity, seed=0)


def test_a_blur_keeps_the_sum_and_the_width_that_it_says() -> None:
    """A point becomes a Gaussian: sum 1, standard deviation 2 pixels along both axes."""
    point = np.zeros((1, 41, 41), np.float32)
    point[0, 20, 20] = 1
    spread = shifts._smooth(point, 2.0)[0]
    offsets = np.arange(41) - 20
    assert spread.sum() == pytest.approx(1, abs=1e-5)
    for axis in (0, 1):
        assert np.sqrt((spread.sum(axis) * offsets**2).sum()) == pytest.approx(2.0, abs=0.05)


def test_lower_resolution_does_not_move_the_image() -> None:
    rows, columns = np.mgrid[:128, :128]
    blob = np.exp(-((rows - 60) ** 2 + (columns - 70) ** 2) / 200).astype(np.float32)
    coarse = shifts._resolution(blob[None], 1.0, np.random.default_rng(0))[0]
    center = [(coarse * index).sum() / coarse.sum() for index in (rows, columns)]
    assert center == pytest.approx([60, 70], abs=0.05)


def test_lower_resolution_keeps_a_constant_up_to_the_border() -> None:
    for shape in ((1, 120, 101), (2, 30, 5), (1, 1, 9)):
        coarse = shifts._resolution(np.ones(shape, np.float32), 1.0, np.random.default_rng(0))
        assert coarse.shape == shape and coarse == pytest.approx(1.0, abs=1e-3)

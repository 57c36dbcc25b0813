"""Shifts of images are repeatable and graded; errors of masks keep masks valid and really change them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from RVQCLib import shifts
from RVQCLib.files import RVQCError
from RVQCLib.shifts import ERRORS, SEVERITIES, SHIFTS, corrupt_mask, corrupt_slice, lose_end, shift_stack
from RVQCLib.study import Geometry, Stack, Study, find_studies

SURE = ("bite", "drop", "ragged", "shrink")
"""Errors that cannot miss; the others may fall on pixels that hold the label already."""


def normalized(pixels: np.ndarray) -> np.ndarray:
    low, high = np.percentile(pixels, (0.5, 99.5))
    return np.clip((pixels - low) / (high - low), 0, 1)


def departure(stack: Stack, name: str, severity: int, seeds: int) -> float:
    """Mean absolute difference of the normalized images, mean over seeds."""
    clean = normalized(stack.pixels)
    shifted = (normalized(shift_stack(stack, name, severity, seed=seed).pixels) for seed in range(seeds))
    return float(np.mean([np.abs(image - clean).mean() for image in shifted]))


def heart() -> np.ndarray:
    """Five slices of 96 x 96, uint8: empty, three of a heart (LV disc, ring of MYO, RV beside it), empty."""
    rows, columns = np.mgrid[:96, :96]
    labels = np.zeros((5, 96, 96), np.uint8)
    for k, size in ((1, 1.0), (2, 0.9), (3, 0.6)):
        from_lv = np.hypot(rows - 48, columns - 54)
        labels[k][np.hypot((rows - 48) / 1.3, columns - 32) < 15 * size] = 3
        labels[k][from_lv < 18 * size] = 2
        labels[k][from_lv < 12 * size] = 1
    return labels


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
    """On the mean of many seeds: a direction is drawn anew at every severity, so one seed alone need not be monotone."""
    departures = [departure(thorax, name, severity, 40) for severity in SEVERITIES]
    assert departures == sorted(departures)
    assert departures[-1] > 1.5 * departures[0] > 0


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_departs_further_with_severity_on_a_patient(acdc: Path, name: str) -> None:
    image = find_studies(acdc)[0].load().stack("SA", "ED")
    assert image is not None
    middle = image.pixels.shape[0] // 2
    one = Stack(image.pixels[middle : middle + 1], image.geometry, "SA", "ED")
    mild, other_hospital, bad = (departure(one, name, severity, 8) for severity in (1, 3, 5))
    assert mild < other_hospital < bad
    assert mild < 0.07 and bad > 0.03


@pytest.mark.parametrize("fill", [0.0, 7.0])
@pytest.mark.parametrize("name", SHIFTS)
def test_a_constant_image_stays_finite(name: str, fill: float) -> None:
    constant = Stack(np.full((2, 40, 36), fill, np.float32), Geometry(), "SA", "ED")
    assert np.isfinite(shift_stack(constant, name, 5, seed=0).pixels).all()


@pytest.mark.parametrize(("name", "severity"), [("fog", 1), ("noise", 0), ("noise", 6)])
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


@pytest.mark.xfail(strict=True, reason="the last coarse pixel ends before the image does, beyond it _resolution is 0")
def test_lower_resolution_keeps_a_constant_up_to_the_border() -> None:
    coarse = shifts._resolution(np.ones((1, 120, 101), np.float32), 1.0, np.random.default_rng(0))
    assert coarse == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_changes_the_mask_and_keeps_it_valid(name: str) -> None:
    labels = heart()[1]
    before = labels.copy()
    changed = 0
    for seed in range(60):
        wrong = ERRORS[name](labels, 1.0, np.random.default_rng(seed))
        assert wrong.dtype == np.uint8 and wrong.shape == labels.shape and wrong.max() <= 3
        changed += not np.array_equal(wrong, labels)
    assert np.array_equal(labels, before)
    assert changed == 60 if name in SURE else changed >= 30


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_of_an_empty_slice_or_of_one_structure_is_defined(name: str) -> None:
    full = heart()[1]
    for labels in (np.zeros_like(full), *(np.where(full == k, k, 0).astype(np.uint8) for k in (1, 2, 3))):
        for seed in range(10):
            wrong = ERRORS[name](labels, 0.6, np.random.default_rng(seed))
            assert wrong.dtype == np.uint8 and wrong.max() <= 3 and (labels.any() or not wrong.any())


def test_drop_takes_one_structure_or_all_and_leaves_the_rest() -> None:
    labels = heart()[1]
    for seed in range(30):
        wrong = ERRORS["drop"](labels, 0.5, np.random.default_rng(seed))
        lost = {k for k in (1, 2, 3) if not (wrong == k).any()}
        assert len(lost) in (1, 3)
        assert np.array_equal(wrong, np.where(np.isin(labels, list(lost)), 0, labels))


def test_shrink_and_bite_only_remove() -> None:
    labels = heart()[1]
    for name in ("shrink", "bite"):
        for seed in range(30):
            wrong = ERRORS[name](labels, 0.8, np.random.default_rng(seed))
            assert set(np.unique(wrong[wrong != labels])) == {0}


def test_growing_is_in_the_city_block_metric() -> None:
    point = np.zeros((9, 9), bool)
    point[4, 4] = True
    rows, columns = np.indices(point.shape)
    assert np.array_equal(shifts._grown(point, 2), abs(rows - 4) + abs(columns - 4) <= 2)


@given(seed=st.integers(0, 2**32 - 1), strength=st.floats(0.01, 1.0))
@settings(max_examples=60, deadline=None)
def test_corruption_is_repeatable_and_valid(seed: int, strength: float) -> None:
    labels = heart()
    before = labels.copy()
    wrong, again = (corrupt_mask(labels, rng=np.random.default_rng(seed), strength=strength) for _ in range(2))
    assert np.array_equal(wrong, again) and np.array_equal(labels, before)
    assert wrong.dtype == np.uint8 and wrong.shape == labels.shape and wrong.max() <= 3
    assert not np.array_equal(wrong, labels)
    assert not wrong[[0, 4]].any()


@pytest.mark.parametrize(
    "corrupt", [lambda m, r, s: corrupt_mask(m, rng=r, strength=s), lambda m, r, s: corrupt_slice(m[1], r, s)]
)
def test_strength_zero_and_empty_masks_come_back_as_copies(corrupt: Callable[..., np.ndarray]) -> None:
    labels, rng = heart(), np.random.default_rng(0)
    same = corrupt(labels, rng, 0.0)
    assert np.array_equal(same, labels if same.ndim == 3 else labels[1])
    assert not np.shares_memory(same, labels)
    assert not corrupt(np.zeros_like(labels), rng, 1.0).any()


@pytest.mark.parametrize("whole", [True, False], ids=["mask", "slice"])
def test_stronger_corruption_is_worse(whole: bool) -> None:
    """The share of the heart's pixels that change, mean over 200 draws."""
    labels = heart()

    def share(strength: float) -> float:
        changes = []
        for seed in range(200):
            rng = np.random.default_rng(seed)
            wrong = (
                corrupt_mask(labels, rng=rng, strength=strength) if whole else corrupt_slice(labels[1], rng, strength)
            )
            right = labels if whole else labels[1]
            changes.append((wrong != right).sum() / (right > 0).sum())
        return float(np.mean(changes))

    shares = [share(strength) for strength in (0.1, 0.5, 1.0)]
    assert shares == sorted(shares) and shares[2] > 2 * shares[0] > 0


def test_an_end_is_lost_whole_and_at_most_half_of_the_stack() -> None:
    labels = np.repeat(heart()[1:2], 8, axis=0)
    labels[0] = 0
    seen = set()
    for seed in range(60):
        wrong = lose_end(labels, 1.0, np.random.default_rng(seed))
        lost = np.flatnonzero((wrong != labels).any(axis=(1, 2)))
        assert not wrong[lost].any() and 1 <= len(lost) <= 4
        assert np.array_equal(lost, np.arange(1, 1 + len(lost))) or np.array_equal(lost, np.arange(8 - len(lost), 8))
        seen.add(bool(lost[0] == 1))
    assert seen == {True, False}

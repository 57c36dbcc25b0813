"""Stacks brought to the networks' grid and back: exact where grids coincide, close elsewhere, and no heart is cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from RVQCLib.bundle import load_bundle, shipped_bundle
from RVQCLib.dataset import training_crop
from RVQCLib.files import BundleError, RVQCError
from RVQCLib.slices import (
    Crop,
    Sampling,
    center_crop,
    crop_around,
    find_heart,
    from_network,
    labels_to_network,
    locator_crop,
    to_network,
)
from RVQCLib.study import Geometry, Stack, find_studies


def one_hot(labels: np.ndarray) -> np.ndarray:
    return np.stack([labels == k for k in range(4)], axis=1).astype(np.float32)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.sum(a & b) / (np.sum(a) + np.sum(b))


def stack_of(pixels: np.ndarray, row_mm: float = 1.5, column_mm: float = 1.5) -> Stack:
    return Stack(pixels, Geometry(spacing=(column_mm, row_mm, 8.0)), "SA", "ED")


def inside(crop: Crop, stack: Stack) -> np.ndarray:
    """Which native pixels, boolean (rows, columns), the crop covers, worked out in mm from the crop's edges."""
    covered = []
    for axis in (0, 1):
        spacing = stack.geometry.spacing_zyx[1 + axis]
        position = (np.arange(stack.pixels.shape[1 + axis]) - crop.center_rc[axis]) * spacing
        covered.append(np.abs(position) < crop.size * crop.spacing_mm / 2)
    return np.outer(*covered)


def disc(shape: tuple[int, int], center_rc: tuple[float, float], radius_mm: float, row_mm: float, column_mm: float):
    r, c = np.mgrid[: shape[0], : shape[1]]
    return np.hypot((r - center_rc[0]) * row_mm, (c - center_rc[1]) * column_mm) < radius_mm


def test_sampling_goes_to_json_and_back() -> None:
    sampling = Sampling(spacing_mm=1.25, size=96, clip_percentiles=(1.0, 99.0))
    assert Sampling.from_json(sampling.to_json()) == sampling
    assert isinstance(Sampling.from_json({**sampling.to_json(), "clip_percentiles": [1, 99]}).clip_percentiles, tuple)


@pytest.mark.parametrize("change", [{"zoom": 2}, {"clip_percentiles": None}])
def test_an_unknown_sampling_is_refused(change: dict) -> None:
    with pytest.raises(RVQCError, match="sampling"):
        Sampling.from_json({**Sampling().to_json(), **change})


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(5, 60),
    columns=st.integers(5, 60),
    center=st.tuples(st.integers(-10, 70), st.integers(-10, 70)),
    seed=st.integers(0, 1000),
)
def test_where_grids_coincide_the_way_back_is_exact(rows: int, columns: int, center: tuple, seed: int) -> None:
    """Even size, same spacing, centre between pixels: any labels come back as they were, in any off-centre crop, in
    images smaller and larger than the crop, and what the crop leaves out is background."""
    labels = np.random.default_rng(seed).integers(0, 4, (2, rows, columns)).astype(np.uint8)
    mask = stack_of(labels)
    crop = Crop((center[0] + 0.5, center[1] + 0.5), 1.5, 32)
    back = from_network(one_hot(labels_to_network(mask, crop)), crop, mask)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, labels * inside(crop, mask))


def test_where_grids_coincide_pixels_are_copied() -> None:
    pixels = np.arange(2 * 6 * 8, dtype=np.float32).reshape(2, 6, 8)
    crop = Crop((2.5, 3.5), 1.5, 4)
    network = to_network(stack_of(pixels), crop, Sampling(size=4, clip_percentiles=(0, 100)))
    window = pixels[:, 1:5, 2:6]
    np.testing.assert_allclose(network[:, 0], (window - window.min()) / np.ptp(window), atol=1e-6)
    assert network.shape == (2, 1, 4, 4) and network.dtype == np.float32


def test_half_a_pixel_away_the_mean_of_two_is_taken() -> None:
    pixels = np.array([[[0, 1, 4, 9]] * 4], np.float32)
    network = to_network(stack_of(pixels), Crop((1.5, 1.0), 1.5, 2), Sampling(size=2, clip_percentiles=(0, 100)))
    np.testing.assert_allclose(network[0, 0], [[0, 1], [0, 1]], atol=1e-6)  # 0.5 and 2.5, scaled by themselves
    exact = to_network(stack_of(pixels), Crop((1.5, 1.5), 1.5, 4), Sampling(size=4, clip_percentiles=(0, 100)))
    np.testing.assert_allclose(exact[0, 0, 0], np.array([0, 1, 4, 9]) / 9, atol=1e-6)


def test_intensities_are_cut_at_the_percentiles_of_the_crop() -> None:
    pixels = np.arange(101, dtype=np.float32).reshape(1, 1, 101).repeat(101, axis=1)
    network = to_network(stack_of(pixels), Crop((50, 50), 1.5, 101), Sampling(size=101, clip_percentiles=(10, 90)))
    np.testing.assert_allclose(network[0, 0, 7], np.clip((np.arange(101) - 10) / 80, 0, 1), atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    gain=st.floats(1e-2, 1e4),
    offset=st.floats(-1e3, 1e3),
    center=st.tuples(st.floats(0, 40), st.floats(0, 30)),
    spacing=st.floats(0.6, 3.0),
)
def test_network_input_is_bounded_and_ignores_gain_and_offset(gain: float, offset: float, center, spacing) -> None:
    pixels = np.random.default_rng(3).normal(100, 30, (3, 41, 31))
    crop, sampling = Crop(center, 1.5, 32), Sampling(size=32)
    plain = to_network(stack_of(pixels.astype(np.float32), spacing), crop, sampling)
    changed = to_network(stack_of((gain * pixels + offset).astype(np.float32), spacing), crop, sampling)
    assert plain.min() >= 0 and plain.max() <= 1 and np.isfinite(plain).all()
    np.testing.assert_allclose(changed, plain, atol=2e-2)


def test_beyond_the_image_is_black_whatever_its_intensities() -> None:
    pixels = np.random.default_rng(0).normal(5000, 10, (2, 20, 20)).astype(np.float32)
    network = to_network(stack_of(pixels), Crop((9.5, 9.5), 1.5, 32), Sampling(size=32))
    frame = np.ones((32, 32), bool)
    frame[6:26, 6:26] = False
    assert not network[:, 0, frame].any()
    assert network[:, 0, ~frame].std() > 0.1


def test_a_constant_image_and_an_image_outside_the_crop_stay_finite() -> None:
    flat = stack_of(np.full((1, 20, 20), 7, np.float32))
    assert np.array_equal(
        to_network(flat, center_crop(flat, Sampling(size=16)), Sampling(size=16)), np.zeros((1, 1, 16, 16))
    )
    away = Crop((500.0, 500.0), 1.5, 16)
    assert not to_network(flat, away, Sampling(size=16)).any()
    assert not from_network(one_hot(np.full((1, 16, 16), 3)), away, flat).any()


anisotropic = given(
    row_mm=st.floats(0.7, 2.2),
    column_mm=st.floats(0.7, 2.2),
    shift=st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)),
)


@settings(max_examples=40, deadline=None)
@anisotropic
def test_an_image_lands_in_the_middle_of_the_crop_to_a_hundredth_of_a_pixel(
    row_mm: float, column_mm: float, shift
) -> None:
    """A disc with a soft edge on an anisotropic grid: centred, round and as wide as it is, whatever the sub-pixel shift."""
    center = 70 + shift[0], 75 + shift[1]
    r, c = np.mgrid[:140, :150]
    distance = np.hypot((r - center[0]) * row_mm, (c - center[1]) * column_mm)
    stack = stack_of((1 / (1 + np.exp((distance - 25) / 2)))[None].astype(np.float32), row_mm, column_mm)
    sampling = Sampling(size=64, clip_percentiles=(0, 100))
    network = to_network(stack, Crop(center, 1.5, 64), sampling)[0, 0]
    position = np.arange(64) - 31.5
    assert network.sum(axis=1) @ position / network.sum() == pytest.approx(0, abs=0.01)
    assert network.sum(axis=0) @ position / network.sum() == pytest.approx(0, abs=0.01)
    there = np.hypot(*np.meshgrid(position, position)) * 1.5
    assert np.abs(network - 1 / (1 + np.exp((there - 25) / 2))).max() < 0.12


@settings(max_examples=40, deadline=None)
@anisotropic
def test_a_mask_lands_in_the_middle_and_comes_back(row_mm: float, column_mm: float, shift) -> None:
    """A hard disc of 25 mm is right to about half of the coarser pixel: its place, its area, and its place again."""
    center = 70 + shift[0], 75 + shift[1]
    labels = (3 * disc((140, 150), center, 25.0, row_mm, column_mm)[None]).astype(np.uint8)
    mask, crop = stack_of(labels, row_mm, column_mm), Crop(center, 1.5, 64)
    network = labels_to_network(mask, crop)
    half = max(row_mm, column_mm, 1.5) / 2
    r, c = (index * 1.5 for index in np.nonzero(network[0]))
    assert abs(np.mean(r) - 31.5 * 1.5) < half and abs(np.mean(c) - 31.5 * 1.5) < half
    assert len(r) * 1.5**2 == pytest.approx(np.pi * 25**2, rel=0.05)
    back = from_network(one_hot(network), crop, mask)
    moved = np.mean(np.nonzero(back[0]), axis=1) - center
    assert abs(moved[0]) * row_mm < half and abs(moved[1]) * column_mm < half
    assert dice(back == 3, labels == 3) > 0.95


def test_resampling_does_not_depend_on_where_the_patient_lies() -> None:
    labels = (2 * disc((60, 60), (30, 25), 20, 1.2, 1.2)[None]).astype(np.uint8)
    plain = Stack(labels, Geometry(spacing=(1.2, 1.2, 8.0)), "SA", "ED")
    oblique = Stack(labels, Geometry((5, -70, 30), (1.2, 1.2, 8.0), (0, 0, 1, -1, 0, 0, 0, -1, 0)), "SA", "ED")
    crop = Crop((30.0, 25.0), 1.5, 32)
    np.testing.assert_array_equal(labels_to_network(plain, crop), labels_to_network(oblique, crop))


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(8, 400), st.integers(8, 400)), spacing=st.tuples(st.floats(0.5, 3), st.floats(0.5, 3))
)
def test_the_locator_sees_the_whole_image(shape: tuple[int, int], spacing: tuple[float, float]) -> None:
    stack = stack_of(np.zeros((1, *shape), np.float32), *spacing)
    assert inside(locator_crop(stack, Sampling()), stack).mean() > 0.99


def test_the_crop_is_centred_on_the_bounding_box_of_the_heart() -> None:
    stack = stack_of(np.zeros((1, 100, 100), np.float32), 2.0, 1.0)
    coarse = Crop((49.5, 49.5), 4.0, 50)
    heart = np.zeros((50, 50), bool)
    heart[10:21, 30] = True
    heart[15, 26:34] = True
    crop = crop_around(heart, coarse, stack, Sampling())
    # Rows 10..20 have their middle 9.5 coarse pixels (38 mm, 19 rows) before the centre; columns 26..33 5 (20 mm) after it.
    assert crop.center_rc == pytest.approx((49.5 - 19, 49.5 + 20)) and crop.found
    assert not crop_around(np.zeros((50, 50), bool), coarse, stack, Sampling()).found


class Bright(nn.Module):
    """A locator that calls heart whatever is brighter than half."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(image), 100 * (image - 0.5)], dim=1)


@settings(max_examples=40, deadline=None)
@given(
    place=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    spacing=st.tuples(st.floats(0.9, 2.0), st.floats(0.9, 2.0)),
    radius=st.floats(20, 60),
)
def test_no_off_centre_heart_is_cut(place, spacing, radius: float) -> None:
    """Synthetic hearts of 40 to 120 mm anywhere in the image, cut by its border or not, beside a small bright spot."""
    shape = (180, 200)
    center = place[0] * (shape[0] - 1), place[1] * (shape[1] - 1)
    heart = disc(shape, center, radius, *spacing)
    spot = disc(shape, ((center[0] + 90) % shape[0], (center[1] + 100) % shape[1]), 8, *spacing)
    pixels = np.where(heart | spot, 1000.0, 100.0)[None].repeat(3, axis=0).astype(np.float32)
    stack = stack_of(pixels, *spacing)
    crop = find_heart(stack, Bright(), Sampling(clip_percentiles=(0, 100)))
    assert crop.found
    assert inside(crop, stack)[heart].all()


def test_the_region_with_most_heart_over_all_slices_is_the_heart() -> None:
    pixels = np.zeros((8, 100, 100), np.float32)
    pixels[:, disc((100, 100), (30, 30), 15, 1.5, 1.5)] = 1
    pixels[4, disc((100, 100), (70, 70), 20, 1.5, 1.5)] = 1  # larger, but in one slice only
    crop = find_heart(stack_of(pixels), Bright(), Sampling(size=32, clip_percentiles=(0, 100)))
    assert crop.center_rc == pytest.approx((30, 30), abs=1.5)


def test_without_a_heart_the_middle_of_the_image_is_used(caplog: pytest.LogCaptureFixture) -> None:
    stack = stack_of(np.zeros((2, 41, 61), np.float32))
    crop = find_heart(stack, Bright(), Sampling(size=32))
    assert (crop.center_rc, crop.found) == ((20.0, 30.0), False)
    assert "No heart was found" in caplog.text


def test_acdc_masks_come_back(acdc: Path) -> None:
    """Down to 1.5 mm and back: Dice above 0.95 for every structure of every stack, and nothing is cut."""
    sources = find_studies(acdc)[::9]
    assert len(sources) == 12
    for study in (source.load(labels=True) for source in sources):
        for mask in study.labels:
            image = study.stack(mask.view, mask.phase)
            crop = training_crop(image, mask, Sampling(), 128)
            assert inside(crop, mask)[mask.pixels.any(axis=0)].all()
            back = from_network(one_hot(labels_to_network(mask, crop)), crop, mask)
            scores = [dice(back == k, mask.pixels == k) for k in (1, 2, 3)]
            assert min(scores) > 0.95, (study.name, mask.name, scores)


def test_no_true_mask_of_acdc_is_cut_by_the_crop_that_the_shipped_bundle_finds(acdc: Path) -> None:
    try:
        models = load_bundle(shipped_bundle()).models("SA", "cpu")
    except BundleError as error:
        pytest.skip(f"there is no shipped bundle to try: {error}")
    cut, count = [], 0
    for study in (source.load(labels=True) for source in find_studies(acdc)):
        for mask in study.labels:
            image = study.stack(mask.view, mask.phase)
            crop = find_heart(image, models.locator, models.sampling)
            count += 1
            if not (crop.found and inside(crop, mask)[mask.pixels.any(axis=0)].all()):
                cut.append((study.name, mask.name, crop))
    assert count == 200 and not cut

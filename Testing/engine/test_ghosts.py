"""Ghosts: found where they are and nowhere else, and given as they were found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Generator

from RVQCLib.ghosts import LEAST, MORE, Ghosts, peak
from RVQCLib.phantom import phantom_study
from RVQCLib.shifts import shift_stack
from RVQCLib.slices import Sampling, center_crop, to_network
from RVQCLib.stack import Stack

SAMPLING = Sampling()


@pytest.fixture(scope="module")
def windows() -> list[np.ndarray]:
    """Windows (slices, 192, 192) of phantoms, three of them."""
    stacks = [phantom_study(seed, views=("SA",)).stacks[0] for seed in range(3)]
    return [_window(stack) for stack in stacks]


def _window(stack: Stack) -> np.ndarray:
    return to_network(stack, replace(center_crop(stack, SAMPLING), size=192), SAMPLING)[:, 0]


def with_ghost(images: np.ndarray, axis: int, distance: int, weight: float) -> np.ndarray:
    return (images + weight * np.roll(images, distance, axis)) / (1 + weight)


@pytest.mark.parametrize(("axis", "distance", "weight"), [(1, 60, 0.5), (2, 35, 0.4), (2, 90, 0.3)])
def test_axis_distance_and_weight_are_found(windows: list[np.ndarray], axis: int, distance: int, weight: float) -> None:
    for clean in windows:
        found = Ghosts.of([with_ghost(clean, axis, distance, weight)])
        assert found is not None
        assert (found.axis[0], found.distance[0]) == (axis, distance)
        # Beyond the window nothing is known, so part of a far ghost's likeness is lost.
        assert 0.5 * weight < found.weight[0] < 1.3 * weight


@pytest.mark.parametrize("shift", [None, "noise", "blur", "resolution", "bias", "gamma"])
def test_images_without_ghosts_have_none(shift: str | None) -> None:
    for seed in range(2):
        stack = phantom_study(seed, views=("SA",)).stacks[0]
        shifted = shift_stack(stack, shift, 5, seed=seed) if shift else stack
        assert peak(_window(shifted))[2] < LEAST
        assert Ghosts.of([_window(shifted)]) is None


def test_what_is_given_is_found_again(windows: list[np.ndarray]) -> None:
    ghosts = Ghosts.of([with_ghost(windows[0], 2, 50, 0.5), windows[1]])
    assert ghosts is not None and ghosts.weight[1] == 0
    labelled = torch.from_numpy(windows[2])[:, None]
    given = ghosts.give(labelled, generator=Generator().manual_seed(0))
    assert given.shape == labelled.shape and given.min() >= 0 and given.max() <= 1
    changed = (given - labelled).abs().amax((1, 2, 3)) > 1e-6
    assert 0 < changed.sum() < len(labelled)  # the second stack has none to give
    assert peak(given[changed][:, 0].numpy())[:2] == (2, 50)


def test_strength_stays_within_what_is_said_and_comes_from_the_generator(windows: list[np.ndarray]) -> None:
    ghosts = Ghosts(np.array([1]), np.array([40]), np.array([0.5]))
    spot = torch.zeros(60, 1, 192, 192)
    spot[:, :, 96, 96] = 1
    first, again, other = (ghosts.give(spot, generator=Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    row = first[:, 0, :, 96] / first[:, 0, 96:97, 96]
    near, far = row[:, [56, 136]], row[:, [16, 176]]
    assert torch.equal(row.count_nonzero(1), torch.full((60,), 3))
    for sides in (near, far):
        assert 10 < (sides[:, 0] > 0).sum() < 50  # on one side, and on the other
    assert near.sum(1).min() >= 0.5 - 1e-5 and near.sum(1).max() <= 0.5 * MORE + 1e-5 and near.sum(1).std() > 0.02
    assert (far.sum(1) <= near.sum(1)).all() and far.sum(1).std() > 0.1
    assert torch.allclose(first.sum((1, 2, 3)), torch.ones(60), atol=1e-5)

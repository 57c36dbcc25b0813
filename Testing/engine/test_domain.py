"""Whether a stack looks like the images that networks were refined on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from RVQCLib.dataset import training_crop
from RVQCLib.domain import LEVELS, RINGS, Domain, signature
from RVQCLib.shifts import shift_stack
from RVQCLib.slices import Crop, Sampling, to_network
from RVQCLib.study import Stack, find_studies

NOBODY = np.zeros((1, 8, 8), np.uint8)
"""A mask with nothing in it."""


def stacks(count: int, noise: float, seed: int) -> list[np.ndarray]:
    """Smooth random images with noise, (4, 32, 32) each, 0..1."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        coarse = rng.uniform(0.2, 0.8, (4, 4, 4)).repeat(8, axis=1).repeat(8, axis=2)
        found.append(np.clip(coarse + noise * rng.standard_normal(coarse.shape), 0, 1).astype(np.float32))
    return found


def test_the_means_lie_at_0_and_1_and_others_of_both_kinds_are_told_apart() -> None:
    old, new = stacks(12, 0.02, 0), stacks(3, 0.1, 1)
    domain = Domain.of(new, old)
    assert np.mean([domain.place(stack) for stack in old]) == pytest.approx(0, abs=1e-9)
    assert np.mean([domain.place(stack) for stack in new]) == pytest.approx(1, abs=1e-9)
    assert not any(domain.holds(stack, NOBODY) for stack in stacks(10, 0.02, 2))
    assert all(domain.holds(stack, NOBODY) for stack in stacks(10, 0.1, 3))


def test_a_signature_tells_power_by_ring_and_levels_and_not_where_things_are() -> None:
    rng = np.random.default_rng(0)
    white = rng.standard_normal((64, 128, 128)).astype(np.float32)
    found = signature(white)
    assert found.shape == (RINGS + len(LEVELS),)
    assert np.allclose(found[:RINGS], 0, atol=0.1)  # white noise of variance 1: power 1 at every frequency
    assert np.allclose(found[RINGS:], 5 * np.quantile(white, LEVELS))
    assert np.allclose(signature(2 * white)[:RINGS] - found[:RINGS], np.log(4), atol=1e-3)
    assert np.allclose(signature(white[:, ::-1, ::-1])[:RINGS], found[:RINGS], atol=1e-4)


def test_a_stack_with_an_rv_of_the_new_size_is_of_the_domain_whatever_it_looks_like() -> None:
    old = stacks(12, 0.02, 0)
    domain = replace(Domain.of(stacks(3, 0.1, 1), old), size=0.7)
    mask = np.zeros((1, 20, 20), np.uint8)
    mask[0, :10], mask[0, 10:16] = 1, 3  # 0.6 of the left heart
    assert not domain.holds(old[0], mask)
    mask[0, 16:18] = 3
    assert domain.holds(old[0], mask) and not replace(domain, size=None).holds(old[0], mask)
    assert Domain.from_json(domain.to_json()).size == 0.7
    older = {key: value for key, value in domain.to_json().items() if key != "size"}
    assert Domain.from_json(older).size is None


def test_it_goes_to_json_and_back_and_refuses_too_few() -> None:
    domain, image = Domain.of(stacks(2, 0.1, 0), stacks(5, 0.02, 1)), stacks(1, 0.05, 2)[0]
    assert Domain.from_json(domain.to_json()).place(image) == domain.place(image)
    with pytest.raises(ValueError, match="a new stack and two old ones"):
        Domain.of([], stacks(5, 0.02, 1))
    with pytest.raises(ValueError, match="features"):
        Domain.from_json({"origin": [0.0], "direction": [1.0]})


Seen = tuple[Stack, Crop]
"""A patient's image, and the window of it that networks see."""


@pytest.fixture(scope="module")
def patients(acdc: Path) -> Callable[[slice], list[Seen]]:
    """A part of ACDC's patients, each read once."""
    sources, sampling = find_studies(acdc), Sampling()

    @cache
    def read(number: int) -> Seen:
        study = sources[number].load(labels=True)
        image = study.stacks[0]
        truth = study.label(image.view, image.phase)
        assert truth is not None
        return image, training_crop(image, truth, sampling, sampling.size)

    return lambda part: [read(number) for number in range(len(sources))[part]]


@pytest.mark.parametrize(("shift", "severity"), [("noise", 5), ("blur", 5), ("resolution", 5), ("motion", 5)])
def test_shifted_patients_are_recognized_and_others_are_not_taken_for_them(
    patients: Callable[[slice], list[Seen]], shift: str, severity: int
) -> None:
    """From 4 shifted patients: 4 other shifted ones are recognized, 8 others without a shift are not taken for them."""

    def seen(part: slice, shifted: bool) -> list[np.ndarray]:
        found = []
        for image, crop in patients(part):
            image = shift_stack(image, shift, severity, seed=1) if shifted else image
            found.append(to_network(image, crop, Sampling())[:, 0])
        return found

    domain = Domain.of(seen(slice(0, 48, 12), True), seen(slice(1, 96, 4), False))
    assert sum(domain.holds(stack, NOBODY) for stack in seen(slice(2, 50, 12), True)) >= 3
    assert not any(domain.holds(stack, NOBODY) for stack in seen(slice(3, 99, 12), False))

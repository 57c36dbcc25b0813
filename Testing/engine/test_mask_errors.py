"""Errors of masks keep masks valid and really change them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from RVQCLib import mask_errors
from RVQCLib.mask_errors import ERRORS, corrupt_mask, corrupt_slice, lose_end

SURE = ("bite", "drop", "ragged", "shrink")
"""Errors that cannot miss; the others may fall on pixels that hold the label already."""


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
    assert np.array_equal(mask_errors._grown(point, 2), abs(rows - 4) + abs(columns - 4) <= 2)


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


def test_a_damaged_slice_is_always_changed() -> None:
    for k, labels in enumerate([heart()[1], *(np.where(heart()[1] == k, k, 0).astype(np.uint8) for k in (1, 2, 3))]):
        for seed in range(150):
            wrong = corrupt_slice(labels, np.random.default_rng(seed), 0.3)
            assert not np.array_equal(wrong, labels), (k, seed)


def test_a_gap_is_one_segment_of_the_ring() -> None:
    """Only myocardium is lost, within an angle of at most 180 degrees around the middle of the LV, in one piece."""
    labels = heart()[1]
    for seed in range(40):
        lost = np.argwhere(ERRORS["gap"](labels, 1.0, np.random.default_rng(seed)) != labels)
        assert set(labels[tuple(lost.T)]) == {2}
        angles = np.sort(np.degrees(np.arctan2(*(lost - (48, 54)).T)))
        around = np.diff([*angles, angles[0] + 360])
        assert 10 <= 360 - around.max() <= 185 and np.sort(around)[-2] < 12


def test_a_merge_joins_the_cavities_through_the_wall() -> None:
    labels = heart()[1]
    seen = set()
    for seed in range(40):
        wrong = ERRORS["merge"](labels, 0.8, np.random.default_rng(seed))
        changed = wrong != labels
        assert set(labels[changed]) <= {0, 2} and (labels[changed] == 2).any()
        (label,) = set(wrong[changed])
        seen.add(int(label))
        assert ((wrong == 3)[:, 1:] & (wrong == 1)[:, :-1]).any() or ((wrong == 1)[:, 1:] & (wrong == 3)[:, :-1]).any()
    assert seen == {1, 3}

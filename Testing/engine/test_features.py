"""Features: where a slice lies, what the image looks like, and that every mask has finite ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from RVQCLib.features import SLICE_FEATURES, STACK_FEATURES, appearance, confidence, features_of
from RVQCLib.inference import Chosen, Proposal
from RVQCLib.measures import measure
from RVQCLib.selection import Selection
from RVQCLib.slices import Crop
from RVQCLib.stack import STRUCTURES, Geometry, Stack

SPACING = (10.0, 2.0, 2.0)


def heart(rv: list[int], others: list[int]) -> np.ndarray:
    """A slice a pair: so many rows of four pixels of RV, and of LV within as many of MYO."""
    mask = np.zeros((len(rv), 32, 32), np.uint8)
    for plane, right, left in zip(mask, rv, others, strict=True):
        plane[4 : 4 + right, 4:8] = 3
        plane[4 : 4 + left, 10:14], plane[4 : 4 + left, 14:18] = 1, 2
    return mask


def given_mask(mask: np.ndarray, phase: str = "ES", spacing: tuple[float, float, float] = SPACING, voters: int = 2):
    """A proposal whose voters all propose `mask`, surely, and the mask as the chosen one."""
    images = np.where(mask > 0, 0.5, 0.1).astype(np.float32)
    candidates = np.stack([mask] * voters)
    probabilities = (candidates[:, :, None] == np.arange(4)[:, None, None]).astype(np.float32)
    found = measure(candidates, candidates, spacing)
    stack = Stack(images, Geometry(), "SA", phase)
    proposal = Proposal(
        stack, Crop((0, 0), 2.0, 32), images, candidates, probabilities, candidates, found, spacing, voters
    )
    chosen = Chosen(Selection((0,), "top", ""), mask, probabilities[0], mask, measure(mask[None], mask[None], spacing))
    return proposal, chosen


def column(features: np.ndarray, name: str) -> list[float]:
    """A feature of the RV in every slice."""
    return features[:, 0, SLICE_FEATURES.index(name)].tolist()


def test_the_first_slice_is_the_basal_one_whichever_way_the_stack_runs() -> None:
    mask = heart([0, 8, 7, 5, 0], [12, 12, 10, 8, 6])
    for way, order in ((mask, slice(None)), (mask[::-1], slice(None, None, -1))):
        slices = features_of(*given_mask(way)).slices[order]
        assert column(slices, "first") == column(slices, "first at end-systole") == [0, 1, 0, 0, 0]
        assert column(slices, "above") == [1, 0, 0, 0, 0]
    diastole = features_of(*given_mask(mask, "ED")).slices
    assert column(diastole, "first") == [0, 1, 0, 0, 0] and not any(column(diastole, "first at end-systole"))


def test_thin_slices_share_the_first_place() -> None:
    slices = features_of(*given_mask(heart([8, 8, 8, 8], [12] * 4), spacing=(5.0, 2.0, 2.0))).slices
    assert column(slices, "first") == [1, 1, 0, 0]


def test_the_features_of_a_stack_by_hand() -> None:
    """RV of 8 rows of 4 pixels in 5 slices of 4 mm2 and 10 mm: 160 pixels, 6.4 ml, perfectly sure and agreed on."""
    features = features_of(*given_mask(heart([8] * 5, [12] * 5)))
    row = dict(zip(STACK_FEATURES, features.with_slices(np.full((5, 3), 0.8))[0].tolist(), strict=True))
    best = np.log(0.99 / 0.01)
    for name in ("pDC", "agreement", "confidence", "others' agreement", "agreement with the chosen"):
        assert row[name] == pytest.approx(best)
    assert row["size"] == pytest.approx(6.4 / 40) and row["pHD"] == 0 and row["end-systole"] == 1
    assert row["unsure volume"] == pytest.approx(0, abs=1e-4)
    # The slices: (0.8 x 640 mm2 + 0.9) / (640 mm2 + 1)
    mean = (0.8 * 640 + 0.9) / 641
    assert row["slices"] == pytest.approx(np.log(mean / (1 - mean)))


def test_a_mask_that_no_voter_has_agrees_with_none() -> None:
    proposal, chosen = given_mask(heart([8] * 5, [12] * 5))
    other = np.roll(chosen.mask, 16, axis=1)
    moved = Chosen(chosen.selection, other, chosen.probabilities, other, measure(other[None], other[None], SPACING))
    place = STACK_FEATURES.index("agreement with the chosen")
    assert features_of(proposal, moved).stack[:, place].tolist() == [pytest.approx(np.log(0.01 / 0.99))] * 3


def test_blur_takes_texture_away_and_noise_spreads_blood() -> None:
    rng = np.random.default_rng(0)
    mask = heart([10] * 3, [14] * 3)
    image = np.where(mask == 2, 0.2, 0.6) + rng.normal(0, 0.05, mask.shape)
    blurred = (image + np.roll(image, 1, 2) + np.roll(image, -1, 2) + np.roll(image, 2, 2)) / 4
    texture, blood, muscle = appearance(image, mask)
    assert appearance(blurred, mask)[0] < texture
    assert blood == pytest.approx(0.05, rel=0.3) and muscle == pytest.approx(0.05, rel=0.3)
    assert appearance(image + rng.normal(0, 0.2, mask.shape), mask)[1] > 2 * blood
    assert appearance(np.zeros((1, 8, 8)), np.zeros((1, 8, 8), np.uint8))[1:] == (0.2, 0.2)


labels = arrays(np.uint8, (2, 3, 8, 9), elements=st.integers(0, 3))


@given(own=labels, again=labels)
@settings(max_examples=40, deadline=None)
def test_any_masks_have_finite_features(own: np.ndarray, again: np.ndarray) -> None:
    probabilities = np.full((2, 3, 4, 8, 9), 0.25, np.float32)
    images = np.zeros((3, 8, 9), np.float32)
    found = measure(own, again, SPACING)
    stack = Stack(images, Geometry(), "SA", "ED")
    proposal = Proposal(stack, Crop((0, 0), 2.0, 8), images, own, probabilities, again, found, SPACING, 2)
    features = features_of(
        proposal, Chosen(Selection((0,), "top", ""), own[0], probabilities[0], again[0], found.of(0))
    )
    assert features.slices.shape == (3, 3, len(SLICE_FEATURES)) and np.isfinite(features.slices).all()
    row = features.with_slices(np.zeros((3, 3)))
    assert row.shape == (len(STRUCTURES), len(STACK_FEATURES)) and np.isfinite(row).all()


def test_confidence_is_the_expected_dice_worked_by_hand() -> None:
    """RV: two pixels of the mask with p 0.8, one outside with p 0.4: (2 x 1.6 + 3) / (2 + 2.0 + 3) = 6.2 / 7."""
    mask = np.zeros((1, 4, 4), np.uint8)
    mask[0, 0, :2] = 3
    probabilities = np.zeros((1, 4, 4, 4))
    probabilities[0, 3, 0, :2] = 0.8
    probabilities[0, 3, 1, 0] = 0.4
    stack, slices = confidence(mask, probabilities)
    assert stack[0] == pytest.approx(6.2 / 7) and slices[0, 0] == pytest.approx(6.2 / 7)
    assert stack[1] == 1 and slices[0, 2] == 1


def test_the_first_slice_has_a_confidence_of_its_own() -> None:
    slices = features_of(*given_mask(heart([0, 8, 7, 5, 0], [12, 12, 10, 8, 6]))).slices
    surely = column(slices, "confidence of the first")
    assert surely == pytest.approx([0, column(slices, "confidence")[1] - 2.5, 0, 0, 0])
    assert surely == column(slices, "confidence of the first at end-systole") and surely[1] != 0


def test_agreement_is_told_of_the_stack_and_of_its_other_structures() -> None:
    proposal, chosen = given_mask(heart([8] * 5, [12] * 5))
    agreement = np.array([0.9, 0.8, 0.6])
    proposal = replace(proposal, measures=replace(proposal.measures, stack_agreement=agreement))
    features = features_of(proposal, chosen)
    assert column(features.slices, "stack's agreement") == pytest.approx([np.log(0.9 / 0.1)] * 5)
    assert column(features.slices, "stack's confidence") == pytest.approx([np.log(0.99 / 0.01)] * 5)
    others = features.stack[:, STACK_FEATURES.index("others' agreement")]
    assert others == pytest.approx([np.log(mean / (1 - mean)) for mean in (0.7, 0.75, 0.85)])

"""pDC, pHD and agreement of candidates: worked by hand, and against the metrics one mask at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from RVQCLib.measures import measure
from RVQCLib.metrics import dice, empty_reason, hausdorff
from RVQCLib.stack import LABELS, STRUCTURES

SPACING = (8.0, 1.5, 2.0)
RV = STRUCTURES.index("RV")

labels = arrays(np.uint8, (3, 2, 6, 7), elements=st.integers(0, 3))


def test_by_hand():
    # Two slices of 10 x 10; RV 4 x 5 = 20 pixels in slice 0, reconstructed one column (2 mm) to the right: 16 in common,
    # 2 * 16 / 40 = 0.8. Slice 1 has 4 x 5 that R does not see: pDC 0, pHD sqrt(15^2 + 20^2) = 25 mm.
    # Stack: 2 * 16 / (40 + 20) = 8/15.
    mask = np.zeros((1, 2, 10, 10), np.uint8)
    mask[:, :, 2:6, 1:6] = 3
    again = np.roll(mask, 1, axis=-1)
    again[:, 1] = 0
    found = measure(mask, again, SPACING)
    assert found.slice_pDC[0, :, RV].tolist() == pytest.approx([0.8, 0.0])
    assert found.slice_pHD[0, :, RV].tolist() == pytest.approx([2.0, 25.0])
    assert found.slice_reason[0].tolist() == [["", "", ""], ["invented", "", ""]]
    assert found.stack_pDC[0].tolist() == pytest.approx([8 / 15, 1.0, 1.0])
    # In space both slices of the mask are boundary throughout, as is the one of R: the farthest point is the left column
    # of slice 1, 8 mm below and 2 mm beside the reconstruction.
    assert found.stack_pHD[0].tolist() == pytest.approx([np.hypot(8, 2), 0.0, 0.0])
    assert found.slice_mm2[0, :, RV].tolist() == [60.0, 60.0]
    assert found.slice_again_mm2[0, :, RV].tolist() == [60.0, 0.0]
    # a single candidate has nobody to disagree with
    assert found.stack_agreement.tolist() == [1.0, 1.0, 1.0]


def test_agreement_is_the_mean_over_pairs():
    # RV columns 0..3, 1..4 and none: Dice 2 * 3 / 8 = 0.75, 0, 0; mean 0.25
    masks = np.zeros((3, 1, 6, 7), np.uint8)
    masks[0, :, 2, 0:4] = 3
    masks[1, :, 2, 1:5] = 3
    found = measure(masks, masks, SPACING)
    assert found.slice_agreement[0].tolist() == pytest.approx([0.25, 1.0, 1.0])
    assert found.stack_agreement.tolist() == pytest.approx([0.25, 1.0, 1.0])


def test_all_empty_is_defined():
    nothing = np.zeros((3, 4, 9, 9), np.uint8)
    found = measure(nothing, nothing, SPACING)
    assert (found.stack_pDC == 1).all() and (found.stack_pHD == 0).all() and (found.stack_agreement == 1).all()
    assert (found.slice_reason == "").all()


@settings(max_examples=40, deadline=None)
@given(own=labels, again=labels)
def test_against_the_metrics_one_by_one(own, again):
    found = measure(own, again, SPACING)
    for k, structure in enumerate(STRUCTURES):
        a, b = own == LABELS[structure], again == LABELS[structure]
        for i in range(3):
            assert found.stack_pDC[i, k] == pytest.approx(dice(a[i], b[i]))
            assert (found.stack_pHD[i, k], found.stack_HD95[i, k]) == pytest.approx(hausdorff(a[i], b[i], SPACING))
            for s in range(2):
                assert found.slice_pDC[i, s, k] == pytest.approx(dice(a[i, s], b[i, s]))
                expected = hausdorff(a[i, s], b[i, s], SPACING[1:])
                assert (found.slice_pHD[i, s, k], found.slice_HD95[i, s, k]) == pytest.approx(expected)
                assert found.slice_reason[i, s, k] == empty_reason(a[i, s], b[i, s])
        pairs = [(0, 1), (0, 2), (1, 2)]
        assert found.stack_agreement[k] == pytest.approx(np.mean([dice(a[i], a[j]) for i, j in pairs]))
        for s in range(2):
            expected = np.mean([dice(a[i, s], a[j, s]) for i, j in pairs])
            assert found.slice_agreement[s, k] == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(own=labels, again=labels, order=st.permutations(range(3)))
def test_scores_are_in_range_symmetric_and_follow_the_candidates(own, again, order):
    found, back, moved = (
        measure(own, again, SPACING),
        measure(again, own, SPACING),
        measure(own[order], again[order], SPACING),
    )
    for name in ("slice_pDC", "stack_pDC", "slice_agreement", "stack_agreement"):
        assert ((getattr(found, name) >= 0) & (getattr(found, name) <= 1)).all()
    for name in ("slice_pDC", "stack_pDC", "slice_pHD", "stack_pHD", "slice_HD95", "stack_HD95"):
        values = getattr(found, name)
        assert np.isfinite(values).all()
        np.testing.assert_allclose(getattr(back, name), values)
        np.testing.assert_array_equal(getattr(moved, name), values[order])
    np.testing.assert_allclose(moved.stack_agreement, found.stack_agreement)


@pytest.mark.parametrize("shape", [(0, 2, 5, 5), (1, 0, 5, 5), (2, 5, 5)])
def test_nothing_to_measure_is_refused(shape):
    with pytest.raises(ValueError, match="do not fit"):
        measure(np.zeros(shape, np.uint8), np.zeros(shape, np.uint8), SPACING)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        measure(np.zeros((1, 2, 5, 5), np.uint8), np.zeros((2, 2, 5, 5), np.uint8), SPACING)

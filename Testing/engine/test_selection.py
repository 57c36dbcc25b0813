"""Eqs. 3 and 4, the OoD rule and steps 1 to 5 of Sec. 2.3: every branch, with values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from RVQCLib.measures import measure
from RVQCLib.selection import Fences, cohort_fences, fences, is_ood, select, slice_position

LIMITS = Fences(th_low=0.80, th_up=12.0, n=40)


def test_fences_by_hand():
    # pDC: five values, Q1 is the second (0.84), Q3 the fourth (0.92); 0.84 - 1.5 * 0.08 = 0.72
    # pHD: Q1 = 4, Q3 = 8; 8 + 1.5 * 4 = 14
    found = fences([0.96, 0.80, 0.92, 0.84, 0.88], [20, 2, 8, 6, 4])
    assert (found.th_low, found.th_up, found.n) == (pytest.approx(0.72), pytest.approx(14.0), 5)


def test_fences_interpolate_between_values():
    # 1, 2, 3, 4: Q1 lies at place 0.75 (1.75), Q3 at place 2.25 (3.25), range 1.5;
    # th_low = 1.75 - 2.25 = -0.5, th_up = 3.25 + 2.25 = 5.5; with reach 3: -2.75 and 7.75
    values = [4.0, 2.0, 1.0, 3.0]
    assert (fences(values, values).th_low, fences(values, values).th_up) == pytest.approx((-0.5, 5.5))
    far = fences(values, values, reach=3.0)
    assert (far.th_low, far.th_up) == pytest.approx((-2.75, 7.75))


def test_a_constant_cohort_has_fences_that_nothing_breaks():
    found = fences([0.9] * 7, [5.0] * 7)
    assert (found.th_low, found.th_up) == (pytest.approx(0.9), pytest.approx(5.0))
    assert not is_ood([found.th_low] * 3, [found.th_up] * 3, found)


@pytest.mark.parametrize(
    ("pDC", "pHD"), [([], []), ([0.9, math.nan], [1, 2]), ([0.9], [math.inf]), ([0.9, 0.8], [1.0])]
)
def test_fences_need_finite_pairs(pDC, pHD):
    with pytest.raises(ValueError, match="finite"):
        fences(pDC, pHD)


def test_fences_to_json_and_back():
    assert Fences.from_json(LIMITS.to_json()) == LIMITS
    assert LIMITS.to_json() == {"th_low": 0.80, "th_up": 12.0, "n": 40}


OOD_CASES = {
    # name: (pDC, pHD, by the paper's rule, by the authors' rule)
    "all inside": ([0.90, 0.85], [5, 6], False, False),
    "all below th_low": ([0.70, 0.75], [5, 6], True, True),
    "all above th_up": ([0.90, 0.85], [13, 20], True, True),
    "one candidate is inside": ([0.70, 0.85, 0.60], [20, 6, 30], False, False),
    # Candidate 1 fails pDC, candidate 2 fails pHD: every one fails. Best pDC 0.90 and best pHD 5 both pass.
    "each fails in its own way": ([0.70, 0.90], [5, 13], True, False),
    "at the fences": ([0.80, 0.80], [12, 12], False, False),
    "one candidate, outside": ([0.79], [5], True, True),
}


@pytest.mark.parametrize("case", OOD_CASES)
def test_ood(case):
    pDC, pHD, paper, authors = OOD_CASES[case]
    assert is_ood(np.array(pDC), np.array(pHD, float), LIMITS) is paper
    assert is_ood(np.array(pDC), np.array(pHD, float), LIMITS, "authors") is authors


def test_ood_refuses_what_it_cannot_judge():
    with pytest.raises(ValueError, match="finite"):
        is_ood([math.nan], [1.0], LIMITS)
    with pytest.raises(ValueError, match="quantifier"):
        is_ood([0.9], [1.0], LIMITS, "both")


SELECTIONS = {
    # name: (pDC, pHD, indices, rule)
    # Step 2: the first by pDC is candidate 1 (0.95), its pHD 11 < 12.
    "top": ([0.90, 0.95, 0.85], [5, 11, 4], (1,), "top"),
    # Step 3: candidate 1 (0.95) has 30, the next by pDC is candidate 0 (0.90) with 5.
    "next": ([0.90, 0.95, 0.85], [5, 30, 4], (0,), "next"),
    # Step 4: candidates 1 and 0 are discarded, the last one has 4.
    "next after next": ([0.90, 0.95, 0.85], [13, 30, 4], (2,), "next"),
    # Step 2 says "<": a pHD of exactly th_up is discarded.
    "at th_up": ([0.95, 0.90], [12, 11], (1,), "next"),
    # A pDC below th_low does not matter to the selection.
    "low pDC": ([0.10, 0.20], [5, 6], (1,), "top"),
    # Step 5: none below 12; best pDC is candidate 1, best pHD candidate 2.
    "average": ([0.90, 0.95, 0.85], [20, 30, 15], (1, 2), "average"),
    # Step 5 when both bests are candidate 1.
    "average of one": ([0.90, 0.95, 0.85], [20, 13, 15], (1,), "average"),
    # Ties: the lower index, in step 1 and in both halves of step 5.
    "tie": ([0.90, 0.95, 0.95], [5, 6, 4], (1,), "top"),
    "tie in the average": ([0.95, 0.95, 0.90], [20, 13, 13], (0, 1), "average"),
    "one candidate": ([0.9], [5], (0,), "top"),
    "one candidate above th_up": ([0.9], [50], (0,), "average"),
}


@pytest.mark.parametrize("case", SELECTIONS)
def test_selection(case):
    pDC, pHD, indices, rule = SELECTIONS[case]
    found = select(np.array(pDC), np.array(pHD, float), LIMITS)
    assert (found.indices, found.rule) == (indices, rule)
    assert f"candidate {indices[0] + 1} (pDC {pDC[indices[0]]:.3f}, pHD {pHD[indices[0]]:.1f} mm)" in found.reason


def test_selection_without_fences_takes_the_first_by_pDC():
    found = select([0.8, 0.9], [90.0, 80.0], None)
    assert (found.indices, found.rule) == ((1,), "top")
    assert "no fence" in found.reason


def test_selection_refuses_scores_that_are_not_finite():
    with pytest.raises(ValueError, match="finite"):
        select([0.9, 0.8], [1.0, math.inf], LIMITS)


scores = st.lists(
    st.tuples(st.floats(0, 1, allow_nan=False), st.floats(0, 40, allow_nan=False)), min_size=1, max_size=5
)


@settings(deadline=None)
@given(scores=scores, order=st.randoms(use_true_random=False))
def test_the_order_of_candidates_matters_to_ties_only(scores, order):
    shuffled = list(range(len(scores)))
    order.shuffle(shuffled)
    pDC, pHD = np.array(scores).T
    first, second = select(pDC, pHD, LIMITS), select(pDC[shuffled], pHD[shuffled], LIMITS)
    # Where candidates tie in pDC, which of them is asked first may turn "top" into "next", not what is taken.
    assert (first.rule == "average") == (second.rule == "average")
    assert pDC[first.indices[0]] == pDC[shuffled][second.indices[0]]
    if len(set(pDC)) == len(set(pHD)) == len(scores):
        assert first.rule == second.rule
        assert first.indices == tuple(shuffled[i] for i in second.indices)


@settings(deadline=None)
@given(scores=scores)
def test_what_the_authors_rule_flags_the_papers_flags_too(scores):
    pDC, pHD = np.array(scores).T
    assert is_ood(pDC, pHD, LIMITS, "paper") >= is_ood(pDC, pHD, LIMITS, "authors")


def some_measures(shift: int):
    masks = np.zeros((2, 1, 12, 12), np.uint8)
    masks[:, :, 2:8, 2:8] = 3
    return measure(masks, np.roll(masks, shift, axis=-1), (10.0, 1.0, 1.0))


def test_cohort_fences_need_twenty_stacks():
    table, said = cohort_fences([some_measures(0)] * 19)
    assert table is None
    assert said == "Cohort fences need 20 stacks of a view and phase, here are 19."
    assert cohort_fences([])[0] is None


def test_cohort_fences_by_hand():
    # 10 stacks whose two candidates agree with R (pDC 1, pHD 0), 10 whose RV of 6 x 6 is moved by one column
    # (pDC 2 * 30 / 72 = 5/6, pHD 1): quartiles 5/6 and 1, 0 and 1; 5/6 - 1.5 / 6 = 7/12; 1 + 1.5 = 2.5
    table, said = cohort_fences([some_measures(0)] * 10 + [some_measures(1)] * 10)
    assert said == "Cohort fences from 20 stacks."
    assert (table["RV"].th_low, table["RV"].th_up, table["RV"].n) == (pytest.approx(7 / 12), pytest.approx(2.5), 20)
    # no stack has an LV: both empty is 1 and 0 throughout
    assert (table["LV"].th_low, table["LV"].th_up) == (1.0, 0.0)


POSITIONS = {
    "": [],
    "outside outside": [0, 0],
    "mid": [7],
    "outside mid outside": [0, 7, 0],
    "basal apical": [9, 7],
    "apical basal": [7, 9],
    "basal mid apical": [9, 9, 5],
    "basal basal mid mid apical apical": [9, 9, 8, 7, 5, 3],
    # thirds of 4: middles at 1/8, 3/8, 5/8, 7/8
    "basal mid mid apical": [9, 8, 5, 2],
    "outside apical mid basal outside outside": [0, 2, 6, 8, 0, 0],
    # a gap is judged by its place
    "basal mid apical outside": [9, 0, 4, 0],
    # equal ends: the first slice is the base
    "basal mid apical ": [5, 9, 5],
}


@pytest.mark.parametrize("expected", POSITIONS)
def test_slice_position(expected):
    assert slice_position(POSITIONS[expected]) == tuple(expected.split())

"""Physiological checks: each speaks about its own fault, and about no true heart."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import true_masks

from RVQCLib.anatomy import Finding, Plausible, areas_mm2, shared_failures, stack_checks, study_checks
from RVQCLib.stack import STRUCTURES
from RVQCLib.study import find_studies

SPACING = (10.0, 2.0, 2.0)


def heart(slices: int = 6) -> np.ndarray:
    """RV of 10 x 8 pixels (320 mm2), MYO of 10 x 10 around an LV of 6 x 6 (144 mm2), all slices alike."""
    mask = np.zeros((slices, 24, 30), np.uint8)
    mask[:, 6:16, 4:12] = 3
    mask[:, 6:16, 12:22] = 2
    mask[:, 8:14, 14:20] = 1
    return mask


def test_areas_by_hand():
    assert areas_mm2(heart(2), SPACING).tolist() == [[320.0, 144.0, 256.0]] * 2
    assert STRUCTURES == ("RV", "LV", "MYO")


@pytest.mark.parametrize("view", ["SA", "LA"])
def test_a_plain_heart_passes(view):
    assert shared_failures(heart(), SPACING, view) == ()
    assert stack_checks(heart(), SPACING, view) == ()


@pytest.mark.parametrize("view", ["SA", "LA"])
@pytest.mark.parametrize("slices", [1, 6])
def test_an_empty_mask_and_an_empty_rv_have_failed(view, slices):
    assert shared_failures(np.zeros_like(heart(slices)), SPACING, view) == ("failed: the mask has no RV",)
    without = np.where(heart(slices) == 3, 0, heart(slices))
    assert shared_failures(without, SPACING, view) == ("failed: the mask has no RV",)


def test_an_rv_that_is_too_small_has_failed():
    # 3 rows of 8 pixels: 96 mm2 in each of 6 slices, 5.76 ml
    small = heart()
    small[:, 9:16, 4:12] = 0
    assert shared_failures(small, SPACING, "SA") == (
        "failed: the RV's largest slice has 96 mm2, less than 150",
        "failed: the RV has 5.8 ml, less than 8",
    )
    # The volume says nothing about a slice, nor about a short stack.
    assert shared_failures(heart(1), SPACING, "LA") == shared_failures(heart(2), SPACING, "SA") == ()


@pytest.mark.parametrize(("spacing", "length"), [(1.0, "6"), (50.0, "300")])
def test_a_slice_spacing_that_no_heart_fits_has_failed(spacing, length):
    said = shared_failures(heart(), (spacing, *SPACING[1:]), "SA")
    assert said[-1] == (
        f"failed: the LV is {length} mm long, not 25 to 200; check the slice spacing of the image ({spacing:g} mm)"
    )
    assert shared_failures(heart(4), (4.0, *SPACING[1:]), "SA") == ()


def test_structures_absent_in_most_slices_have_failed():
    mask = heart(12)
    mask[2:][mask[2:] == 3] = 0
    mask[3:][mask[3:] == 1] = 0
    # RV: 2 of 12 < 1/5; 2 * 320 mm2 * 10 mm = 6.4 ml. LV: 3 of 12 < 1/3.
    assert shared_failures(mask, SPACING, "SA") == (
        "failed: the RV has 6.4 ml, less than 8",
        "failed: RV in only 2 of 12 slices",
        "failed: LV in only 3 of 12 slices",
    )
    assert shared_failures(mask, SPACING, "LA") == ()
    assert shared_failures(mask, SPACING, "SA", limits=Plausible(rv_ml=1, rv_slices=0.1, lv_slices=0.1)) == ()


def test_fragments_count_from_a_size_on():
    mask = heart()
    mask[1, 18:21, 4:8] = 3  # 12 pixels, 48 mm2
    mask[2, 18:21, 4:9] = 3  # 15 pixels, 60 mm2
    assert stack_checks(mask, SPACING, "SA") == (Finding("anatomy: RV in 2 pieces", 2),)


def test_rv_that_touches_the_lv_cavity():
    # The septum of slice 3 becomes RV over the LV's 6 rows: 6 edges of 2 mm; over 5 rows it is 10 mm, not more than 10.
    mask = heart()
    mask[3, 8:14, 12:14] = 3
    mask[4, 8:13, 12:14] = 3
    assert stack_checks(mask, SPACING, "LA") == (Finding("anatomy: RV touches the LV cavity over 12 mm", 3),)
    turned = np.swapaxes(mask, 1, 2)
    assert [f.index for f in stack_checks(turned, SPACING, "LA")] == [3]


def test_a_contact_is_as_long_as_its_edges():
    # 10 edges between columns, each a row of 2 mm long, not a column of 0.5
    mask = np.zeros((1, 30, 30), np.uint8)
    mask[0, 10:20, 5:10], mask[0, 10:20, 10:15] = 3, 1
    (found,) = stack_checks(mask, (10.0, 2.0, 0.5), "LA")
    assert found.text.endswith("over 20 mm")


def test_area_jumps():
    # slice 2: RV of 3 x 8 = 96 mm2 between 320 and 320, a gap of 224; slice 4 loses its LV of 144 mm2, too little to tell
    mask = heart()
    mask[2, 9:16, 4:12] = 0
    mask[4][mask[4] == 1] = 2
    assert stack_checks(mask, SPACING, "SA") == (Finding("anatomy: RV area jumps (320, 96, 320 mm2)", 2, "RV"),)
    assert stack_checks(mask, SPACING, "LA") == ()
    # the other way round: 320 mm2 between 96 and 96; from nothing to much, as at the base, is no jump
    peak = heart(3)
    peak[[0, 2], 9:16, 4:12] = 0
    assert stack_checks(peak, SPACING, "SA") == (Finding("anatomy: RV area jumps (96, 320, 96 mm2)", 1),)
    base = heart(3)
    base[0] = 0
    assert stack_checks(base, SPACING, "SA") == ()


def ml(rv: float, lv: float) -> dict[str, float]:
    return {"RV": rv, "LV": lv, "MYO": 100.0}


def test_study_checks():
    healthy = {("SA", "ED"): ml(150, 140), ("SA", "ES"): ml(60, 50), ("LA", "ED"): ml(20, 25), ("LA", "ES"): ml(12, 12)}
    assert study_checks(healthy) == ()
    assert study_checks({}) == study_checks({("SA", "ED"): ml(150, 140)}) == ()
    ill = {("SA", "ED"): ml(150, 140), ("SA", "ES"): ml(160, 139), ("LA", "ED"): ml(20, 25), ("LA", "ES"): ml(21, 1)}
    assert study_checks(ill) == (
        "anatomy: SA RV is larger at end-systole than at end-diastole",
        "anatomy: SA LV ejection fraction is 1 %, out of range",  # 1 of 140
        "anatomy: LA RV is larger at end-systole than at end-diastole",
    )
    # 140 of 150 is 93 %; an empty RV at end-diastole has no fraction
    assert study_checks({("SA", "ED"): ml(0, 150), ("SA", "ES"): ml(0, 10)}) == (
        "anatomy: SA LV ejection fraction is 93 %, out of range",
    )


def test_true_hearts_pass(acdc):
    # Of all 200 true stacks one is spoken against; a fifth of them keep the test short.
    sources = find_studies(acdc)[::5]
    spoken = []
    for truth in true_masks(sources):
        spacing = truth.geometry.spacing_zyx
        assert shared_failures(truth.pixels, spacing, "SA") == ()
        spoken += stack_checks(truth.pixels, spacing, "SA")
    assert len(spoken) <= len(sources) * 2 * 0.02

"""The slice above the base at ES: which one it is, when it is left alone, and a mask without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from RVQCLib import pipeline
from RVQCLib.basal import slice_above_base, without_rv
from RVQCLib.bundle import load_bundle
from RVQCLib.inference import choose, propose_stack
from RVQCLib.stack import LABELS, STRUCTURES, Stack, Study


def areas(*rv: float, left: Sequence[float] = ()) -> np.ndarray:
    """(slices, 3); the LV in every slice with an RV, or as given."""
    order = {s: k for k, s in enumerate(STRUCTURES)}
    found = np.zeros((len(rv), 3))
    found[:, order["RV"]], found[:, order["LV"]] = rv, left or [min(area, 1.0) for area in rv]
    return found


def says(*rv: float) -> np.ndarray:
    return np.array([[dice if structure == "RV" else 0.0 for structure in STRUCTURES] for dice in rv])


@pytest.mark.parametrize(
    ("rv", "dice", "found"),
    [
        ([300, 900, 700, 400], [0.4, 0.9, 0.9, 0.9], 0),
        ([0, 300, 900, 700, 400], [0.0, 0.4, 0.9, 0.9, 0.9], 1),
        ([200, 500, 900, 300], [0.9, 0.9, 0.9, 0.4], 3),  # the base is where the larger slices are
        ([300, 900, 700, 400], [0.51, 0.9, 0.9, 0.9], None),
        ([300, 900, 700, 400], [0.9, 0.4, 0.9, 0.1], None),  # not the most basal one
        ([900, 800, 700, 100], [0.4, 0.9, 0.9, 0.9], None),  # too much of the RV
        ([300, 0, 900, 700, 400], [0.4, 0.0, 0.9, 0.9, 0.9], None),  # not beside the others
        ([300, 900, 700], [0.4, 0.9, 0.9], None),
        ([0, 0, 0], [0.0, 0.0, 0.0], None),
    ],
)
def test_which_slice_it_is(rv: Sequence[float], dice: Sequence[float], found: int | None) -> None:
    assert slice_above_base(areas(*rv), says(*dice)) == found


def test_an_rv_of_which_much_is_missing_is_not_shortened() -> None:
    rv, dice = [300, 900, 700, 400, 0, 0, 0], says(0.4, 0.9, 0.9, 0.9, 0, 0, 0)
    assert slice_above_base(areas(*rv, left=[9, 9, 9, 9, 9, 9, 0]), dice) == 0
    assert slice_above_base(areas(*rv, left=[9, 9, 9, 9, 9, 9, 9]), dice) is None


@pytest.fixture
def stack(tiny_study: Study) -> Stack:
    return replace(tiny_study.stacks[0], view="SA", phase="ES")


def test_a_mask_without_it_is_reconstructed_and_measured_anew(tiny_bundle: Path, stack: Stack) -> None:
    models = load_bundle(tiny_bundle).models("SA", "cpu")
    proposal = propose_stack(stack, models)
    chosen = choose(proposal, None, models)
    mask = np.full_like(chosen.mask, LABELS["MYO"])
    mask[:, 4:12, 4:12] = LABELS["RV"]
    chosen = replace(chosen, mask=mask)
    less = without_rv(chosen, 1, proposal, models)
    assert not (less.mask[1] == LABELS["RV"]).any() and (less.mask[1][mask[1] != LABELS["RV"]] == LABELS["MYO"]).all()
    others = np.arange(len(mask)) != 1
    assert np.array_equal(less.mask[others], mask[others])
    assert np.array_equal(less.probabilities[others], chosen.probabilities[others])
    rv = mask[1] == LABELS["RV"]
    assert (less.probabilities[1].argmax(0)[rv] == 0).all(), "background in the place of the RV"
    assert np.array_equal(less.probabilities[1][:, ~rv], chosen.probabilities[1][:, ~rv]), "all else as it was"
    assert less.measures.slice_mm2[0, 1, 0] == 0 < less.measures.slice_mm2[0, 0, 0]
    assert chosen.mask is mask and (mask[1] == LABELS["RV"]).any()


@pytest.mark.parametrize(("phase", "shortened"), [("ES", True), ("ED", False)])
def test_it_is_left_out_of_the_mask_and_said(
    phase: str, shortened: bool, calibrated_bundle: Path, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = load_bundle(calibrated_bundle).models("SA", "cpu")
    stack = replace(stack, phase=phase)
    whole = pipeline.look("s", stack, models).result
    monkeypatch.setattr(pipeline, "slice_above_base", lambda areas, predicted: 1)
    less = pipeline.look("s", stack, models).result
    assert ("above_base" in less.judgement) == shortened and "above_base" not in whole.judgement
    expected = whole.mask.pixels.copy()
    if shortened:
        expected[1][expected[1] == LABELS["RV"]] = 0
        assert less.judgement["slices"][1]["structures"]["RV"]["area_mm2"] == 0
    assert np.array_equal(less.mask.pixels, expected)


def test_the_study_says_that_the_rv_was_shortened(
    calibrated_bundle: Path, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "slice_above_base", lambda areas, predicted: 1)
    result = pipeline.segment_study(Study("s", (stack,)), load_bundle(calibrated_bundle), device="cpu")
    (said,) = [check for check in result.checks if "atrium" in check]
    dice = result.stacks[0].judgement["above_base"]["predicted_dice"]
    assert (
        said
        == f"SA ES: slice 2 probably shows the atrium (predicted Dice of the RV {dice:.2f}), so the RV was left out of it"
    )

"""Pictures of failures: the right slice, both outlines where they are, the worst first."""

from __future__ import annotations

import numpy as np
import pytest

from RVQCLib.failures import FOUND, SIDE, TRUE, Failure, border, picture, worst
from RVQCLib.stack import Geometry, Stack


def test_a_border_by_hand() -> None:
    mask = np.zeros((7, 7), bool)
    mask[1:6, 1:6] = True
    inner = np.zeros_like(mask)
    inner[2:5, 2:5] = True
    assert np.array_equal(border(mask, 1), mask & ~inner)
    assert border(mask, 2).sum() == 24 and not border(mask, 2)[3, 3]
    whole = np.ones((3, 3), bool)
    assert border(whole, 1).sum() == 8  # the edge of the picture is an edge of the mask


@pytest.mark.parametrize("axis", [0, 1])
def test_the_slice_that_differs_most_with_both_outlines(axis: int) -> None:
    geometry = Geometry(spacing=(1.0, 1.0, 8.0))
    true, found = np.zeros((2, 3, 100, 100), np.uint8)
    true[:, 40:60, 40:60] = 3
    found[0] = true[0]  # as it should be
    found[1, 45:60, 40:60] = 3  # 100 pixels lost
    found[2] = np.roll(true[2], 12, axis)  # 480 differ
    pixels = np.stack([np.full((100, 100), value, np.float32) for value in (0.0, 50.0, 100.0)])
    pixels[:, 0, 0] = 200  # so that a slice has a window to be grey in
    image, mask, truth = (Stack(p, geometry, "SA", "ED") for p in (pixels, found, true))
    shown = picture(image, mask, truth)
    assert shown.shape == (SIDE, SIDE, 3) and shown.dtype == np.uint8
    blue, orange = ((shown == colour).all(axis=2) for colour in (TRUE, FOUND))
    assert blue.any() and orange.any()
    middle = [np.argwhere(border_).mean(axis=0) for border_ in (blue | orange, orange)]
    places = np.argwhere(orange)
    extent = np.ptp(places, axis=0)
    assert abs(extent[0] - extent[1]) <= 3  # a square of 20 by 20 mm stays one
    assert middle[1][axis] > middle[0][axis] + 3 and abs(middle[1][1 - axis] - middle[0][1 - axis]) < 3


def test_a_picture_keeps_the_shape_of_pixels_that_are_not_square() -> None:
    geometry, found = Geometry(spacing=(2.0, 1.0, 8.0)), np.zeros((1, 100, 100), np.uint8)
    found[0, 30:50, 40:50] = 3
    image, mask, truth = (
        Stack(p, geometry, "SA", "ED") for p in (found.astype(np.float32), found, np.zeros_like(found))
    )
    extent = np.ptp(np.argwhere((picture(image, mask, truth) == FOUND).all(axis=2)), axis=0)
    assert abs(extent[0] - extent[1]) <= 6


def test_without_an_rv_there_is_still_a_picture() -> None:
    geometry = Geometry(spacing=(1.5, 1.5, 8.0))
    nothing = Stack(np.zeros((2, 30, 40), np.uint8), geometry, "SA", "ED")
    image = Stack(np.random.default_rng(0).random((2, 30, 40)).astype(np.float32), geometry, "SA", "ED")
    shown = picture(image, nothing, nothing)
    assert shown.shape == (SIDE, SIDE, 3) and not (shown == TRUE).all(axis=2).any()


def test_the_worst_come_first() -> None:
    grey = np.zeros((2, 2, 3), np.uint8)
    rows = [
        {"study": f"p{k}", "view": "SA", "phase": "ED", "RV_dice": d}
        for k, d in enumerate((0.9, 0.1, 0.5, 0.1, 0.7, 0.8))
    ]
    assert [one.name for one in worst(Failure(row, grey) for row in rows)] == [
        "p1_SA_ED",
        "p3_SA_ED",
        "p2_SA_ED",
        "p4_SA_ED",
        "p5_SA_ED",
    ]

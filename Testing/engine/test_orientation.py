"""Upright images: the same heart is laid down alike however a file stores it, and a mask finds its way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from RVQCLib.dataset import training_crop
from RVQCLib.inference import one_hot
from RVQCLib.orientation import AS_STORED, TURNS, Turn, says_nothing, upright
from RVQCLib.phantom import phantom_study
from RVQCLib.reformat import four_chamber
from RVQCLib.slices import Sampling, from_network, labels_to_network, to_network
from RVQCLib.stack import LABELS, Geometry, Stack

SAMPLING = Sampling(spacing_mm=1.8, size=96, upright=True)


def stored(stack: Stack, turn: Turn) -> Stack:
    """The same stack as a scanner or converter would store it whose rows and columns run another way."""
    geometry = stack.geometry
    column, row, through = np.reshape(geometry.direction, (3, 3)).T
    dx, dy, dz = geometry.spacing
    rows, columns = stack.pixels.shape[1:]
    origin = np.array(geometry.origin)
    if turn.transpose:
        column, row, dx, dy, rows, columns = row, column, dy, dx, columns, rows
    if turn.reverse_rows:
        origin, row = origin + row * dy * (rows - 1), -row
    if turn.reverse_columns:
        origin, column = origin + column * dx * (columns - 1), -column
    direction = np.stack([column, row, through], axis=1).ravel()
    pixels = np.ascontiguousarray(turn.apply(stack.pixels))
    return replace(stack, pixels=pixels, geometry=Geometry(tuple(origin), (dx, dy, dz), tuple(direction)))


@pytest.mark.parametrize("turn", TURNS)
def test_a_turn_is_undone(turn: Turn) -> None:
    pixels = np.arange(2 * 5 * 5).reshape(2, 5, 5)
    np.testing.assert_array_equal(turn.undo(turn.apply(pixels)), pixels)


def test_the_turns_are_the_eight_of_the_square() -> None:
    pixels = np.arange(9).reshape(3, 3)
    oracle = {np.rot90(one, k).tobytes() for one in (pixels, pixels[::-1]) for k in range(4)}
    assert {turn.apply(pixels).tobytes() for turn in TURNS} == oracle


def tilted(direction: Sequence[float]) -> Geometry:
    """Directions turned by some degrees, as those of a plane through the heart."""
    a, b = np.radians(8), np.radians(5)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    return Geometry(direction=tuple((about_x @ about_y @ np.reshape(direction, (3, 3))).ravel()))


def test_an_axial_slice_is_seen_from_the_feet() -> None:
    """LPS: columns to the left and rows to the back need no turn; a NIfTI made for display from the head does."""
    assert upright(tilted((1, 0, 0, 0, 1, 0, 0, 0, 1)), "LA") == AS_STORED
    assert upright(tilted((-1, 0, 0, 0, 1, 0, 0, 0, 1)), "LA") == Turn(reverse_columns=True)
    assert upright(tilted((1, 0, 0, 0, -1, 0, 0, 0, 1)), "LA") == Turn(reverse_rows=True)
    assert upright(tilted((0, 1, 0, 1, 0, 0, 0, 0, 1)), "LA") == Turn(transpose=True)


@pytest.mark.parametrize("view", ["SA", "LA"])
@pytest.mark.parametrize(
    "direction", [(1, 0, 0, 0, 1, 0, 0, 0, 1), (-1, 0, 0, 0, -1, 0, 0, 0, 1), (0, 1, 0, 0, 0, -1, 1, 0, 0)]
)
def test_a_header_along_the_patient_s_axes_says_nothing(view: str, direction: tuple[int, ...]) -> None:
    """No plane through the heart lies so; ACDC's headers are the first."""
    assert upright(Geometry(direction=direction), view) == AS_STORED and says_nothing(Geometry(direction=direction))
    assert not says_nothing(tilted(direction))


@pytest.mark.parametrize("angle", [-35, 0, 35])
@pytest.mark.parametrize("turn", TURNS)
def test_a_short_axis_lies_with_the_rv_at_the_left_and_the_diaphragm_below(turn: Turn, angle: int) -> None:
    """The plane of a usual heart, whose apex points to the left, to the front and to the feet; its field may be rotated."""
    axis = np.array([0.65, -0.6, -0.47])
    across = np.array([0.7, 0.7, 0.0]) - axis * (axis @ [0.7, 0.7, 0.0]) / (axis @ axis)  # from the RV to the LV
    across /= np.linalg.norm(across)
    down = np.cross(across, axis / np.linalg.norm(axis))
    assert down[2] < -0.8
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    along, below = c * across + s * down, c * down - s * across
    direction = np.stack([along, below, np.cross(along, below)], axis=1).ravel()
    image = Stack(np.zeros((2, 8, 8), np.float32), Geometry(direction=tuple(direction)), "SA", "ED")
    other = stored(image, turn)
    assert upright(image.geometry, "SA") == AS_STORED
    pixels = np.arange(64).reshape(8, 8)
    np.testing.assert_array_equal(upright(other.geometry, "SA").apply(turn.apply(pixels)), pixels)


@pytest.mark.parametrize("view", ["SA", "LA"])
@pytest.mark.parametrize("turn", TURNS)
def test_networks_see_the_same_however_an_image_is_stored(turn: Turn, view: str) -> None:
    study = phantom_study(3, views=(view,), spacing=(1.3, 1.5))
    image, mask = study.stack(view, "ED"), study.label(view, "ED")
    other, other_mask = stored(image, turn), stored(mask, turn)
    crop, other_crop = training_crop(image, mask, SAMPLING, 96), training_crop(other, other_mask, SAMPLING, 96)
    np.testing.assert_allclose(
        to_network(other, other_crop, SAMPLING), to_network(image, crop, SAMPLING), rtol=0, atol=1e-4
    )
    seen = labels_to_network(other_mask, other_crop)
    assert (seen != labels_to_network(mask, crop)).mean() < 1e-3  # ties between labels only
    back = from_network(one_hot(seen), other_crop, other_mask)
    assert (back != other_mask.pixels).mean() < 0.02


@pytest.mark.parametrize("seed", range(6))
def test_the_phantom_s_heart_lies_as_in_a_textbook(seed: int) -> None:
    """RV up left of the LV, as in a four-chamber image seen from the feet."""
    study = phantom_study(seed, views=("LA",))
    for mask in (stored(study.label("LA", "ED"), turn) for turn in TURNS):
        seen = labels_to_network(mask, training_crop(mask.with_pixels(mask.pixels), mask, SAMPLING, 96))[0]
        lv, rv = (np.argwhere(seen == LABELS[s]).mean(axis=0) for s in ("LV", "RV"))
        assert rv[1] < lv[1] - 5 and rv[0] < lv[0] + 5


def test_a_short_axis_stack_cut_to_the_long_axis_lies_as_in_a_textbook() -> None:
    study = phantom_study(4, views=("SA",))
    _, mask = four_chamber(study.stack("SA", "ED"), study.label("SA", "ED"))
    lv, rv = (np.argwhere(mask.pixels[0] == LABELS[s]).mean(axis=0) for s in ("LV", "RV"))
    assert rv[1] < lv[1] - 5 and rv[0] < lv[0] - 5


@pytest.mark.parametrize("seed", range(4))
def test_the_phantom_s_short_axis_is_upright(seed: int) -> None:
    study = phantom_study(seed, views=("SA",))
    assert upright(study.stack("SA", "ED").geometry, "SA") == AS_STORED


def test_as_stored_is_the_default_and_old_bundles_mean_it() -> None:
    values = Sampling().to_json()
    assert values.pop("upright") is False
    assert Sampling.from_json({**values, "clip_percentiles": [0.5, 99.5]}) == Sampling()

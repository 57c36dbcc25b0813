"""How an image must be turned so that every patient's heart lies the same way in it, whatever the scanner or a converter did.

Upright is as in the textbooks. A four-chamber image is a slice seen from the patient's feet: his left is at the right edge,
what is anterior is above. In the short axis, seen from the apex, the RV is at the left edge, and the diaphragm below. Only
quarter turns and mirrors, which move pixels and change none.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from RVQCLib.stack import Geometry


@dataclass(frozen=True)
class Turn:
    """One of the eight ways to lay a square image down: transpose it or not, then reverse its rows, its columns."""

    transpose: bool = False
    reverse_rows: bool = False
    reverse_columns: bool = False

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """`pixels` (…, size, size), turned."""
        turned = pixels.swapaxes(-1, -2) if self.transpose else pixels
        return turned[..., :: -1 if self.reverse_rows else 1, :: -1 if self.reverse_columns else 1]

    def undo(self, pixels: np.ndarray) -> np.ndarray:
        """What `apply` made into `pixels` (…, size, size)."""
        plain = pixels[..., :: -1 if self.reverse_rows else 1, :: -1 if self.reverse_columns else 1]
        return plain.swapaxes(-1, -2) if self.transpose else plain


AS_STORED = Turn()
TURNS = tuple(Turn(*flags) for flags in product((False, True), repeat=3))
UPRIGHT = {"SA": ((0.7, 0.7, 0.0), (0.0, 0.0, -1.0)), "LA": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))}
"""By view where columns and rows grow to in an upright image, LPS: in the short axis to the left and back, from the RV to the
free wall of the LV, and to the feet; in the four-chamber view to the left, and to the back."""
PARALLEL = 0.9999
"""Cosine from which an axis is one of the patient's own. Planes through the heart are oblique: such a header says nothing."""


def says_nothing(geometry: Geometry) -> bool:
    """Whether rows and columns run along the patient's own axes, as where a converter or a data set left the directions out."""
    column, row = np.reshape(geometry.direction, (3, 3)).T[:2]
    return bool(min(np.abs(column).max(), np.abs(row).max()) > PARALLEL)


def upright(geometry: Geometry, view: str) -> Turn:
    """The turn after which columns and rows grow most nearly to where they do in an upright image of `view` (`UPRIGHT`).

    From the direction cosines (LPS) alone. Of the eight turns the four are left that show the slice from the right side, of
    those the one that agrees best; a slice that is seen from its edge, as a sagittal one is from the feet, may be mirrored.
    Where the header says nothing the image is left as stored.
    """
    if says_nothing(geometry):
        return AS_STORED
    column, row = np.reshape(geometry.direction, (3, 3)).T[:2]
    wanted_along, wanted_down = np.array(UPRIGHT[view])
    toward = np.cross(wanted_along, wanted_down)

    def agreement(turn: Turn) -> tuple[bool, float]:
        down, along = (column, row) if turn.transpose else (row, column)
        down = -down if turn.reverse_rows else down
        along = -along if turn.reverse_columns else along
        return bool(np.cross(along, down) @ toward >= 0), float(along @ wanted_along + down @ wanted_down)

    return max(TURNS, key=agreement)

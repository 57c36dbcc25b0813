"""How an image must be turned so that every patient's heart lies the same way in it, whatever the scanner or a converter did.

Upright is the four-chamber image of the textbooks, a slice seen from the patient's feet: his left is at the right edge,
what is anterior is above. Only quarter turns and mirrors, which move pixels and change none.
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


def upright(geometry: Geometry) -> Turn:
    """The turn after which columns grow most nearly to the patient's left and rows to his back, seen from the feet.

    From the direction cosines (LPS) alone. Of the eight turns the four are left that show the slice from the feet, of
    those the one that agrees best; a slice that is seen from the feet and from the head alike, as a sagittal one, may
    be mirrored. Headers without directions (identity) leave the image as stored.
    """
    column, row = np.reshape(geometry.direction, (3, 3)).T[:2]

    def agreement(turn: Turn) -> tuple[bool, float]:
        down, along = (column, row) if turn.transpose else (row, column)
        down = -down if turn.reverse_rows else down
        along = -along if turn.reverse_columns else along
        return bool(np.cross(along, down)[2] >= 0), float(along[0] + down[1])

    return max((Turn(*flags) for flags in product((False, True), repeat=3)), key=agreement)

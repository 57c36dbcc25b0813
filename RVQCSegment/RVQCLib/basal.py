"""The slice above the base at ES. The base has moved toward the apex, and what lies in the slice that it left is the atrium, which
networks that see one slice take for a ventricle. What the candidates and R say of that slice tells, in their calibrated sum
(Docs/evidence.md has what that is worth).
"""

from __future__ import annotations

import numpy as np

from RVQCLib.bundle import ViewModels
from RVQCLib.inference import Chosen, Proposal, one_hot, with_mask
from RVQCLib.selection import from_base
from RVQCLib.stack import LABELS, STRUCTURES

LEAST = 0.5
"""Predicted Dice of the most basal slice of the RV below which it is rather the atrium."""
PART = 1 / 3
"""An RV is not shortened by so much of its volume or more."""
SLICES, COVER = 4, 0.6
"""Nor is one that lies in fewer slices, or beside a smaller part of the left heart's: more of it may be missing than too much."""


def most_basal(areas: np.ndarray) -> int | None:
    """The most basal slice of the RV of a mask, from 0, where the RV may end below it; else None.

    Parameters
    ----------
    areas
        (slices, 3) in the order of `STRUCTURES`, as in `Measures.slice_mm2`.
    """
    rv = areas[:, STRUCTURES.index("RV")]
    there, left = np.flatnonzero(rv > 0), (areas.sum(axis=1) - rv > 0).sum()
    if len(there) < max(SLICES, COVER * left):
        return None
    order = there if from_base(areas.sum(axis=1)) else there[::-1]
    first, second = int(order[0]), int(order[1])
    return None if abs(first - second) > 1 or rv[first] >= PART * rv.sum() else first


def slice_above_base(areas: np.ndarray, predicted: np.ndarray) -> int | None:
    """The slice of an SA stack at ES, from 0, in which the RV of a mask is rather the atrium; None where there is none.

    `areas` are as in `most_basal`, `predicted` is the Dice predicted of the slices, of the same shape.
    """
    first = most_basal(areas)
    return None if first is None or predicted[first, STRUCTURES.index("RV")] >= LEAST else first


def without_rv(chosen: Chosen, index: int, proposal: Proposal, models: ViewModels) -> Chosen:
    """The chosen mask with no RV in one slice, reconstructed and measured anew."""
    probabilities = chosen.probabilities.copy()
    background = one_hot(np.zeros((1, 1, 1), np.uint8))[0]
    probabilities[index] = np.where(chosen.mask[index] == LABELS["RV"], background, probabilities[index])
    return with_mask(chosen, cleared(chosen.mask, index), probabilities, proposal, models)


def cleared(mask: np.ndarray, index: int) -> np.ndarray:
    """A copy of labels (slices, rows, columns) with no RV in one slice."""
    less = mask.copy()
    less[index][less[index] == LABELS["RV"]] = 0
    return less

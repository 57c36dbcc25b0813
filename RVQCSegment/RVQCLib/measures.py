"""The pseudo-measures of Sec. 2.3, pDC and pHD of candidates and reconstructions, and the candidates' agreement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from RVQCLib.metrics import hausdorff, hausdorff_of_slices
from RVQCLib.stack import LABELS, STRUCTURES


@dataclass(frozen=True, eq=False)
class Measures:
    """What is measured on the candidates of one stack; the last axis is the structure in the order of `STRUCTURES`.

    Parameters
    ----------
    slice_pDC, slice_pHD, slice_HD95
        (m, slices, 3): Dice, and HD and HD95 in the plane in mm, of a candidate and its reconstruction.
    slice_reason
        (m, slices, 3) of str: ``lost`` where only the reconstruction has the structure, ``invented`` where only the
        candidate has it, else empty.
    stack_pDC, stack_pHD, stack_HD95
        (m, 3): the same over the whole stack, distances in space in mm.
    slice_agreement, stack_agreement
        (slices, 3) and (3,): mean Dice over all pairs of candidates; 1 of a single candidate.
    slice_mm2, slice_again_mm2
        (m, slices, 3): area of a candidate and of its reconstruction in mm2.
    """

    slice_pDC: np.ndarray
    slice_pHD: np.ndarray
    slice_HD95: np.ndarray
    slice_reason: np.ndarray
    stack_pDC: np.ndarray
    stack_pHD: np.ndarray
    stack_HD95: np.ndarray
    slice_agreement: np.ndarray
    stack_agreement: np.ndarray
    slice_mm2: np.ndarray
    slice_again_mm2: np.ndarray

    def of(self, candidate: int) -> Measures:
        """The measures of one candidate alone (m = 1), whose agreement with itself is 1."""
        return replace(
            self.among([candidate]),
            slice_agreement=np.ones_like(self.slice_agreement),
            stack_agreement=np.ones_like(self.stack_agreement),
        )

    def among(self, candidates: Sequence[int]) -> Measures:
        """The measures of some candidates; the agreement stays that of all."""
        picked = list(candidates)
        return replace(
            self, **{f.name: getattr(self, f.name)[picked] for f in fields(self) if "agreement" not in f.name}
        )


def measure(
    candidates: np.ndarray, reconstructions: np.ndarray, spacing_zyx: Sequence[float], *, voters: int | None = None
) -> Measures:
    """Compare every candidate with its reconstruction, and the candidates with each other.

    Parameters
    ----------
    candidates, reconstructions
        Labels, uint8 (m, slices, rows, columns).
    spacing_zyx
        Of slices, rows and columns in mm.
    voters
        How many of the first candidates count for the agreement; by default all. The mean of the others has no vote.

    Raises
    ------
    ValueError
        The shapes differ or have no candidate.
    """
    if candidates.shape != reconstructions.shape or candidates.ndim != 4 or 0 in candidates.shape:
        raise ValueError(
            f"measure: candidates {candidates.shape} and reconstructions {reconstructions.shape} do not fit."
        )
    overlaps = [_overlaps(a, b) for a, b in zip(candidates, reconstructions, strict=True)]
    counts = [_pair_counts(overlap) for overlap in overlaps]
    slice_hd, stack_hd = _distances(candidates, reconstructions, spacing_zyx)
    slice_agreement, stack_agreement = _agreement(candidates[:voters])
    pixel_mm2 = spacing_zyx[1] * spacing_zyx[2]
    return Measures(
        slice_pDC=np.stack([_dice(*count) for count in counts]),
        slice_pHD=slice_hd[..., 0],
        slice_HD95=slice_hd[..., 1],
        slice_reason=np.stack([_reasons(own, again) for _, own, again in counts]),
        stack_pDC=np.stack([_dice(*(part.sum(axis=0) for part in count)) for count in counts]),
        stack_pHD=stack_hd[..., 0],
        stack_HD95=stack_hd[..., 1],
        slice_agreement=slice_agreement,
        stack_agreement=stack_agreement,
        slice_mm2=np.stack([own for _, own, _ in counts]) * pixel_mm2,
        slice_again_mm2=np.stack([again for _, _, again in counts]) * pixel_mm2,
    )


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pixels of label i in `a` and j in `b` in every slice, (slices, 4, 4): all Dice of two masks in one pass."""
    place = np.arange(len(a))[:, None, None] * 16 + (a * np.uint8(4) + b)
    return np.bincount(place.ravel(), minlength=16 * len(a)).reshape(-1, 4, 4)


def _pair_counts(overlaps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels in both masks, in the first, in the second, each (slices, 3)."""
    labels = [LABELS[structure] for structure in STRUCTURES]
    return (
        overlaps[:, labels, labels],
        overlaps.sum(axis=2)[:, labels],
        overlaps.sum(axis=1)[:, labels],
    )


def _dice(both: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    total = first + second
    return np.where(total > 0, 2.0 * both / np.maximum(total, 1), 1.0)


def _reasons(own: np.ndarray, again: np.ndarray) -> np.ndarray:
    """`metrics.empty_reason` from pixel counts (slices, 3)."""
    return np.where((own == 0) & (again > 0), "lost", np.where((own > 0) & (again == 0), "invented", ""))


def _distances(
    candidates: np.ndarray, reconstructions: np.ndarray, spacing_zyx: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """(HD, HD95) of slices (m, slices, 3, 2) and of stacks (m, 3, 2)."""
    m, depth, rows, columns = candidates.shape
    slices, stacks = np.zeros((m, depth, len(STRUCTURES), 2)), np.zeros((m, len(STRUCTURES), 2))
    for k, structure in enumerate(STRUCTURES):
        own, again = candidates == LABELS[structure], reconstructions == LABELS[structure]
        flat = (masks.reshape(m * depth, rows, columns) for masks in (own, again))
        slices[:, :, k] = hausdorff_of_slices(*flat, spacing_zyx[1:]).reshape(m, depth, 2)
        for i in range(m):
            stacks[i, k] = hausdorff(own[i], again[i], spacing_zyx)
    return slices, stacks


def _agreement(candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean pairwise Dice of slices (slices, 3) and of the stack (3,)."""
    m, depth = candidates.shape[:2]
    pairs = [_pair_counts(_overlaps(candidates[i], candidates[j])) for i in range(m) for j in range(i + 1, m)]
    if not pairs:
        return np.ones((depth, len(STRUCTURES))), np.ones(len(STRUCTURES))
    slices = np.mean([_dice(*pair) for pair in pairs], axis=0)
    return slices, np.mean([_dice(*(part.sum(axis=0) for part in pair)) for pair in pairs], axis=0)

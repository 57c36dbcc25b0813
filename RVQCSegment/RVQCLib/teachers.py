"""What flagged slices are taught without labels: the consensus of slow-moving candidates, corrected by R.

A slice's lesson weighs as much as the two opinions trust it: the candidates' agreement and pDC. What nobody can see is
not taught: a stack in which the primary structure is missing altogether, a gap inside the heart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from RVQCLib.bundle import ViewModels
from RVQCLib.inference import Proposal, hard_masks, reconstruct
from RVQCLib.measures import Measures, measure
from RVQCLib.metrics import dice
from RVQCLib.selection import Reference
from RVQCLib.slices import to_network
from RVQCLib.stack import LABELS, STRUCTURES, Stack

LEAST, ENOUGH = 0.5, 0.9
"""Trust (mean of agreement and pDC) at which a slice begins to be taught, and from which it counts fully."""


@dataclass(frozen=True, eq=False)
class Flagged:
    """One flagged stack of the new domain, ready to learn from.

    Parameters
    ----------
    images
        As the networks see it, float32 (slices, 1, size, size).
    source
        The same place in a larger window, float16 (slices, source, source), so that augmentation can move the crop.
    spacing_zyx
        Of `images` in mm.
    quality
        Predicted Dice of the mask that the bundle chose, (3,) in the order of `STRUCTURES`.
    voters
        Class probabilities of every segmenter of the bundle, float16 (m, slices, 4, size, size).
    """

    study: str
    stack: Stack
    images: np.ndarray
    source: np.ndarray
    spacing_zyx: tuple[float, float, float]
    quality: np.ndarray
    voters: np.ndarray

    @property
    def phase(self) -> str:
        """Phase of the stack."""
        return self.stack.phase


def flagged_stack(study: str, proposal: Proposal, quality: np.ndarray, models: ViewModels, source: int) -> Flagged:
    """What is kept of a stack that was flagged; `source` is the larger window's size in pixels."""
    wide = replace(proposal.crop, size=source)
    images = to_network(proposal.stack, proposal.crop, models.sampling)
    pixels = to_network(proposal.stack, wide, models.sampling)[:, 0].astype(np.float16)
    voters = proposal.voters.astype(np.float16)
    return Flagged(study, proposal.stack, images, pixels, proposal.spacing_zyx, quality, voters)


@dataclass(frozen=True, eq=False)
class Lesson:
    """Labels, uint8 (slices, size, size), and the weight 0..1 of every slice, float32 (slices,)."""

    labels: np.ndarray
    weights: np.ndarray


def lesson(
    own: np.ndarray, adapted: np.ndarray, others: np.ndarray, models: ViewModels, *, reconstruction: float
) -> Lesson:
    """What one stack teaches.

    Parameters
    ----------
    own
        Class probabilities of the slow-moving copy of the candidate that learns (slices, 4, size, size).
    adapted
        Those of the candidates that have been refined before (k, slices, 4, size, size), none for the first. Only they
        and `own` make the consensus, because candidates that have not met the new domain pull back.
    others
        Masks of all other candidates, uint8 (m - 1, slices, size, size): for the trust all count.
    reconstruction
        Weight of R's opinion. The label of a pixel is ``argmax(consensus + reconstruction * R(consensus))``: R decides
        only where the consensus is in doubt.
    """
    consensus = np.concatenate([own[None], adapted]).astype(np.float32).mean(axis=0)
    mask, _ = hard_masks(consensus)
    again = reconstruct(mask, models)
    labels = mask
    if reconstruction > 0:
        corrected = consensus + reconstruction * (again[:, None] == np.arange(4, dtype=np.uint8)[:, None, None])
        labels, _ = hard_masks(corrected)
    mine = own.argmax(axis=1).astype(np.uint8)
    return Lesson(labels, trust(np.concatenate([mine[None], others]), mask, again))


def trust(masks: np.ndarray, mask: np.ndarray, again: np.ndarray) -> np.ndarray:
    """Weight 0..1 of every slice, float32 (slices,).

    Parameters
    ----------
    masks
        Of every voter, uint8 (m, slices, size, size); `mask` is their consensus, `again` its reconstruction by R.
    """
    if not (mask == LABELS["RV"]).any():
        return np.zeros(len(mask), np.float32)
    heart = np.flatnonzero(mask.any(axis=(1, 2)))
    weights = np.zeros(len(mask), np.float32)
    for s in range(len(mask)):
        inside = heart[0] <= s <= heart[-1]
        if inside and not mask[s].any():
            continue
        shape = np.mean([dice(mask[s] == k, again[s] == k) for k in LABELS.values()])
        pairs = list(combinations(masks[:, s], 2))
        agreed = np.mean([dice(a == k, b == k) for a, b in pairs for k in LABELS.values()]) if pairs else shape
        weights[s] = np.clip(((shape + agreed) / 2 - LEAST) / (ENOUGH - LEAST), 0.0, 1.0)
    return weights


@dataclass(frozen=True)
class Standing:
    """How one candidate stands on the flagged stacks: how many it would flag alone, and what both opinions say of its RV.

    `shape` is the mean pDC, `agreement` the mean Dice with the other candidates; an RV that is missing counts 0 in both.
    """

    flagged: int
    shape: float
    agreement: float

    @property
    def trust(self) -> float:
        """Mean of both opinions."""
        return (self.shape + self.agreement) / 2


def standing(
    own: Sequence[np.ndarray], others: Sequence[np.ndarray], stacks: Sequence[Flagged], models: ViewModels
) -> Standing:
    """Judge one candidate on the flagged stacks; `own` and `others` hold a stack's probabilities, and masks, as in
    `lesson`."""
    flagged, shapes, agreements = 0, [], []
    for mine, theirs, stack in zip(own, others, stacks, strict=True):
        mask, _ = hard_masks(mine.astype(np.float32))
        measures = measure(mask[None], reconstruct(mask, models)[None], stack.spacing_zyx)
        rv = mask == LABELS["RV"]
        agreement = float(np.mean([dice(rv, other == LABELS["RV"]) for other in theirs])) if len(theirs) else 1.0
        agreements.append(agreement if rv.any() else 0.0)
        shapes.append(float(measures.stack_pDC[0, 0]) if rv.any() else 0.0)
        flagged += not rv.any() or _unusual(measures, models, stack.phase)
    count = max(len(stacks), 1)
    return Standing(flagged, float(sum(shapes) / count), float(sum(agreements) / count))


def _unusual(measures: Measures, models: ViewModels, phase: str) -> bool:
    """Whether the RV breaks its fences. That it differs from candidates that did not learn yet is no fault."""
    if models.calibration is None:
        return False
    k, fence = STRUCTURES.index("RV"), Reference.from_calibration(models.calibration, phase).stack["RV"]
    return fence.broken_by(float(measures.stack_pDC[0, k]), float(measures.stack_pHD[0, k]))

"""What is measured of a chosen mask without its true mask, as the features from which its Dice is predicted.

Slices are graded first, each by its own measures, those of its stack, and by where in the ventricle it lies: in the most
basal slice of a structure, at end-systole above all, masks and readers differ most. The stack is then graded by its own
measures, by what the image looks like under the mask, and by its slices' predicted Dice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from RVQCLib.inference import Chosen, Proposal
from RVQCLib.prediction import logit
from RVQCLib.selection import from_base
from RVQCLib.stack import LABELS, STRUCTURES

STACK_FEATURES = (
    *("constant", "pDC", "agreement", "confidence", "pHD", "size", "others' agreement", "texture", "spread of blood"),
    *("spread of muscle", "unsure volume", "agreement with the chosen", "end-systole", "slices"),
)
SLICE_FEATURES = (
    *("constant", "pDC", "agreement", "confidence", "pHD", "size", "stack's confidence", "stack's agreement"),
    *("end-systole", "first", "first at end-systole", "above", "above at end-systole"),
    *("confidence of the first", "confidence of the first at end-systole"),
)
FIRST_MM = 6.0
"""Slices begin this near to the first slice of a structure to count as its first."""


@dataclass(frozen=True, eq=False)
class Features:
    """Of one chosen mask: `stack` (3, len(STACK_FEATURES) - 1), without the last feature, which `with_slices` adds;
    `slices` (slices, 3, len(SLICE_FEATURES)); `mm2` (slices, 3), the structures' areas. Structures in their order."""

    stack: np.ndarray
    slices: np.ndarray
    mm2: np.ndarray

    def with_slices(self, predicted: np.ndarray) -> np.ndarray:
        """The stack's features (3, len(STACK_FEATURES)) given its slices' predicted Dice (slices, 3)."""
        # One mm2 of a good mask keeps a structure that is nowhere defined.
        mean = ((predicted * self.mm2).sum(axis=0) + 0.9) / (self.mm2.sum(axis=0) + 1.0)
        return np.concatenate([self.stack, logit(mean)[:, None]], axis=1)


def features_of(proposal: Proposal, chosen: Chosen) -> Features:
    """Measure a chosen mask beside the candidates of its stack."""
    own, everyone = chosen.measures, proposal.measures
    mean = proposal.voters.mean(axis=0)
    expected, of_slices = confidence(chosen.mask, mean)
    systole = np.full(3, float(proposal.stack.phase == "ES"))
    area = own.slice_mm2[0]
    volume = area.sum(axis=0) * proposal.spacing_zyx[0] / 1000.0
    agreement = everyone.stack_agreement
    stack = [
        *(np.ones(3), logit(own.stack_pDC[0]), logit(agreement), logit(expected), np.log1p(own.stack_pHD[0])),
        *(np.minimum(volume / 40.0, 1.0), logit((agreement.sum() - agreement) / 2)),
        *(np.full(3, value) for value in appearance(proposal.images, chosen.mask)),
        np.log((_unsure_ml(mean, proposal) + 5.0) / (volume + 5.0)),
        logit(_with_voters(chosen.mask, proposal.masks[: proposal.n_voters])),
        systole,
    ]
    whole = [np.broadcast_to(logit(values), area.shape) for values in (expected, agreement)]
    slices = [
        *(np.ones_like(area), logit(own.slice_pDC[0]), logit(everyone.slice_agreement), logit(of_slices)),
        *(np.log1p(own.slice_pHD[0]), np.minimum(np.sqrt(area) / 30.0, 1.0), *whole),
        *_place(area, proposal.spacing_zyx[0], systole, logit(of_slices)),
    ]
    return Features(np.stack(stack, axis=1), np.stack(slices, axis=-1), area)


def _place(area: np.ndarray, thickness: float, systole: np.ndarray, sure: np.ndarray) -> list[np.ndarray]:
    """Where slices lie between base and apex, each (slices, 3); from `SLICE_FEATURES`, "end-systole" to the last."""
    order = np.arange(len(area)) if from_base(area.sum(axis=1)) else np.arange(len(area))[::-1]
    begins = np.where((area > 0).any(axis=0), (area[order] > 0).argmax(axis=0), len(area))
    below = np.empty(area.shape)  # slices from the first one with the structure towards the apex
    below[order] = np.arange(len(area))[:, None] - begins
    first = ((below >= 0) & (below * thickness < FIRST_MM)).astype(float)
    above = (below < 0).astype(float)
    late, known = np.broadcast_to(systole, area.shape), first * (sure - 2.5)
    return [late, first, first * late, above, above * late, known, known * late]


def appearance(images: np.ndarray, mask: np.ndarray) -> tuple[float, float, float]:
    """What the image looks like, which is what a bad scan changes.

    Parameters
    ----------
    images
        (slices, size, size) in 0..1.
    mask
        Labels of the same shape.

    Returns
    -------
    The log of the share of the images' power at 0.1 to 0.25 cycles a pixel, which blur takes away and noise levels; the
    standard deviations of the intensity in the LV cavity and in the myocardium, 0.2 where there is none.
    """
    power = np.abs(np.fft.fft2(images - images.mean(axis=(1, 2), keepdims=True))) ** 2
    rows, columns = (np.fft.fftfreq(n) for n in images.shape[1:])
    frequency = np.hypot(rows[:, None], columns[None, :])
    middle = power[:, (frequency > 0.1) & (frequency <= 0.25)].sum() / max(power.sum(), 1e-9)
    spreads = [images[mask == LABELS[name]] for name in ("LV", "MYO")]
    blood, muscle = (float(values.std()) if len(values) else 0.2 for values in spreads)
    return float(np.log(middle + 1e-5)), blood, muscle


def _unsure_ml(mean: np.ndarray, proposal: Proposal) -> np.ndarray:
    """Volume (3,) in ml that the structures have when all probabilities are made less sure, by their square root."""
    unsure = np.sqrt(mean)
    unsure = unsure / np.maximum(unsure.sum(axis=1, keepdims=True), 1e-6)
    ml = float(np.prod(proposal.spacing_zyx)) / 1000.0
    return unsure.sum(axis=(0, 2, 3))[[LABELS[name] for name in STRUCTURES]] * ml


def _with_voters(mask: np.ndarray, voters: np.ndarray) -> np.ndarray:
    """Mean Dice (3,) of the chosen mask with every voter's."""
    found = []
    for name in STRUCTURES:
        own, others = mask == LABELS[name], voters == LABELS[name]
        both, total = (own & others).sum(axis=(1, 2, 3)), own.sum() + others.sum(axis=(1, 2, 3))
        found.append(float(np.where(total > 0, 2.0 * both / np.maximum(total, 1), 1.0).mean()))
    return np.array(found)


def confidence(masks: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The Dice that the candidates' mean probabilities expect of a mask: ``2 sum p m / sum (p + m)``.

    Parameters
    ----------
    masks
        The selected labels, uint8 (slices, size, size).
    probabilities
        Mean over the candidates, float (slices, 4, size, size).

    Returns
    -------
    (3,) of the stack and (slices, 3), structures in the order of `STRUCTURES`; 1 where nothing is nor is expected.
    """
    stack, slices = [], []
    for structure in STRUCTURES:
        label = LABELS[structure]
        mask, p = masks == label, probabilities[:, label]
        overlap = (p * mask).sum(axis=(1, 2))
        total = p.sum(axis=(1, 2)) + mask.sum(axis=(1, 2))
        # Three pixels of expectation in an empty slice are not yet a lost structure.
        slices.append((2 * overlap + 3.0) / (total + 3.0))
        stack.append((2 * overlap.sum() + 3.0) / (total.sum() + 3.0))
    return np.array(stack), np.stack(slices, axis=1)

"""Predicted Dice: from what can be measured without truth to the Dice that a mask probably has, with a lower bound.

A fractional logit model (Papke & Wooldridge, 1996): ``Dice = sigmoid(w . x)``, fitted by penalized Newton steps on
labelled stacks that no network has seen. The bound is split conformal (Vovk et al.; Lei et al., 2018), with residuals that
every patient's stacks got from a model fitted without that patient, scaled by ``SPREAD + 1 - prediction``, because a poor
mask is harder to grade than a good one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from RVQCLib.stack import STRUCTURES

FEATURES = ("constant", "pDC", "agreement", "confidence", "pHD", "size", "context")
SPREAD = 0.03
_PENALTY = 1.0


@dataclass(frozen=True)
class DiceModel:
    """The weights w of one structure over `FEATURES` after centring by `mean` and `scale`, and the conformal quantile."""

    weights: tuple[float, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    quantile: float
    n: int

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predicted Dice and its 90 % lower bound, each (…,), of features (…, len(FEATURES)); both in 0..1."""
        predicted = _sigmoid(_design(features, np.array(self.mean), np.array(self.scale)) @ np.array(self.weights))
        return predicted, np.clip(predicted - self.quantile * (SPREAD + 1 - predicted), 0.0, 1.0)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> DiceModel:
        """The inverse of `to_json`."""
        return DiceModel(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})


def fit(
    features: np.ndarray, dice: np.ndarray, patients: Sequence[str], *, coverage: float = 0.9, folds: int = 10
) -> DiceModel:
    """Fit one structure's model.

    Parameters
    ----------
    features, dice
        (n, len(FEATURES)) and the real Dice (n,).
    patients
        Who each row is of: rows of a patient are never used to grade that patient.
    """
    mean, scale = features.mean(axis=0), features.std(axis=0)
    mean[0], scale = 0.0, np.where(scale > 1e-6, scale, 1.0)
    scale[0] = 1.0
    design = _design(features, mean, scale)
    weights = _newton(design, dice)
    names = sorted(set(patients))
    fold = np.array([names.index(patient) % min(folds, max(2, len(names))) for patient in patients])
    outside = np.empty(len(dice))
    for k in np.unique(fold):
        others = fold != k
        use = others if others.any() else np.ones(len(dice), bool)
        outside[fold == k] = _sigmoid(design[fold == k] @ _newton(design[use], dice[use]))
    scores = np.sort((outside - dice) / (SPREAD + 1 - outside))
    rank = min(len(scores) - 1, int(np.ceil((len(scores) + 1) * coverage)) - 1)
    return DiceModel(
        tuple(weights.tolist()), tuple(mean.tolist()), tuple(scale.tolist()), float(scores[rank]), len(dice)
    )


def _design(features: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    # Far outside what was seen, a feature counts as the farthest that was nearly seen: no extrapolation to certainty.
    return np.clip((features - mean) / scale, -4.0, 4.0)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.clip(x, -30, 30)))


def _newton(design: np.ndarray, dice: np.ndarray, steps: int = 50) -> np.ndarray:
    """Penalized quasi-likelihood estimate of the fractional logit; the constant is not penalized."""
    penalty = np.full(design.shape[1], _PENALTY)
    penalty[0] = 1e-6
    weights = np.zeros(design.shape[1])
    for _ in range(steps):
        predicted = _sigmoid(design @ weights)
        gradient = design.T @ (dice - predicted) - penalty * weights
        curvature = (design * (predicted * (1 - predicted) + 1e-6)[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        weights = weights + step * min(1.0, 2.0 / max(np.abs(step).max(), 1e-12))
        if np.abs(step).max() < 1e-8:
            break
    return weights


def stack_features(
    pDC: np.ndarray, pHD: np.ndarray, agreement: np.ndarray, confidence: np.ndarray, volume_ml: np.ndarray
) -> np.ndarray:
    """Features (3, len(FEATURES)) of one stack; every argument (3,) in the order of `STRUCTURES`.

    The context of a structure is the mean agreement of the other two.
    """
    others = (agreement.sum() - agreement) / 2
    return _columns(pDC, agreement, confidence, pHD, np.minimum(volume_ml / 40.0, 1.0), others)


def slice_features(
    pDC: np.ndarray,
    pHD: np.ndarray,
    agreement: np.ndarray,
    confidence: np.ndarray,
    area_mm2: np.ndarray,
    stack_predicted: np.ndarray,
) -> np.ndarray:
    """Features (slices, 3, len(FEATURES)); arguments (slices, 3), and the stack's predicted Dice (3,) as the context."""
    context = np.broadcast_to(stack_predicted, pDC.shape)
    return _columns(pDC, agreement, confidence, pHD, np.minimum(np.sqrt(np.maximum(area_mm2, 0)) / 30.0, 1.0), context)


def _columns(
    pDC: np.ndarray,
    agreement: np.ndarray,
    confidence: np.ndarray,
    pHD: np.ndarray,
    size: np.ndarray,
    context: np.ndarray,
) -> np.ndarray:
    columns = [
        np.ones_like(pDC),
        _logit(pDC),
        _logit(agreement),
        _logit(confidence),
        np.log1p(pHD),
        size,
        _logit(context),
    ]
    return np.stack(columns, axis=-1)


def _logit(values: np.ndarray) -> np.ndarray:
    inside = np.clip(values, 0.01, 0.99)
    return np.log(inside / (1 - inside))


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
        label = ("LV", "MYO", "RV").index(structure) + 1
        mask, p = masks == label, probabilities[:, label]
        overlap = (p * mask).sum(axis=(1, 2))
        total = p.sum(axis=(1, 2)) + mask.sum(axis=(1, 2))
        # Three pixels of expectation in an empty slice are not yet a lost structure.
        slices.append((2 * overlap + 3.0) / (total + 3.0))
        stack.append((2 * overlap.sum() + 3.0) / (total.sum() + 3.0))
    return np.array(stack), np.stack(slices, axis=1)

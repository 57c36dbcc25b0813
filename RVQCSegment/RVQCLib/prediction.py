"""Predicted Dice: from what can be measured without truth to the Dice that a mask probably has, with a lower bound.

A fractional logit model (Papke & Wooldridge, 1996): ``Dice = sigmoid(w . x)``, fitted by penalized Newton steps on
labelled stacks that no network has seen. The bound is split conformal (Vovk et al.; Lei et al., 2018), with residuals that
every patient's stacks got from a model fitted without that patient. They are scaled by their expected size, a second model
of the same features: an image that is hard to segment is hard to grade as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

FOLDS = 10
SPREAD = 0.02
"""Least expected error of a prediction."""
_PENALTY, _SPREAD_PENALTY = 1.0, 3.0


@dataclass(frozen=True)
class DiceModel:
    """The weights of one structure over features after centring by `mean` and `scale`, those of the expected error over the
    same and the prediction, and the conformal quantile of error over expected error; from `n` rows."""

    weights: tuple[float, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    spread: tuple[float, ...]
    quantile: float
    n: int

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predicted Dice and its 90 % lower bound, each (…,), of features (…, k) as fitted; both in 0..1."""
        design = _design(features, np.array(self.mean), np.array(self.scale))
        predicted = _sigmoid(design @ np.array(self.weights))
        error = SPREAD + _sigmoid(_wider(design, predicted) @ np.array(self.spread))
        return predicted, np.clip(predicted - self.quantile * error, 0.0, 1.0)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> DiceModel:
        """The inverse of `to_json`."""
        return DiceModel(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted model, and what its kind predicts of every row when the row's patient is left out: (n,)."""

    model: DiceModel
    outside: np.ndarray


def fit(features: np.ndarray, dice: np.ndarray, patients: Sequence[str], *, coverage: float = 0.9) -> Fit:
    """Fit one structure's model.

    Parameters
    ----------
    features, dice
        (n, k), the first column 1, and the real Dice (n,).
    patients
        Who each row is of: rows of a patient are never used to grade that patient.
    """
    mean, scale = features.mean(axis=0), features.std(axis=0)
    mean[0], scale = 0.0, np.where(scale > 1e-6, scale, 1.0)
    scale[0] = 1.0
    design = _design(features, mean, scale)
    fold = _folds(patients)
    outside = _left_out(design, dice, fold, _PENALTY)
    error = np.abs(outside - dice)
    wider = _wider(design, outside)
    expected = SPREAD + _left_out(wider, error, fold, _SPREAD_PENALTY)
    scores = np.sort((outside - dice) / expected)
    rank = min(len(scores) - 1, int(np.ceil((len(scores) + 1) * coverage)) - 1)
    parts = (_newton(design, dice, _PENALTY), mean, scale, _newton(wider, error, _SPREAD_PENALTY))
    return Fit(DiceModel(*(tuple(part.tolist()) for part in parts), float(scores[rank]), len(dice)), outside)


def _folds(patients: Sequence[str]) -> np.ndarray:
    names = {name: k for k, name in enumerate(sorted(set(patients)))}
    return np.array([names[patient] % min(FOLDS, max(2, len(names))) for patient in patients])


def _left_out(design: np.ndarray, target: np.ndarray, fold: np.ndarray, penalty: float) -> np.ndarray:
    """What models fitted on the other folds predict of each fold; a single fold has to do with its own."""
    outside = np.empty(len(target))
    for k in np.unique(fold):
        others = fold != k
        use = others if others.any() else np.ones(len(target), bool)
        outside[fold == k] = _sigmoid(design[fold == k] @ _newton(design[use], target[use], penalty))
    return outside


def _design(features: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    # Far outside what was seen, a feature counts as the farthest that was nearly seen: no extrapolation to certainty.
    return np.clip((features - mean) / scale, -4.0, 4.0)


def _wider(design: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """The design with the prediction as one more column."""
    return np.concatenate([design, logit(predicted)[..., None] - 2.0], axis=-1)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.clip(x, -30, 30)))


def logit(values: np.ndarray) -> np.ndarray:
    """The logit of values in 0..1, which count as at least 0.01 away from both ends."""
    inside = np.clip(values, 0.01, 0.99)
    return np.log(inside / (1 - inside))


def _newton(design: np.ndarray, target: np.ndarray, strength: float, steps: int = 50) -> np.ndarray:
    """Penalized quasi-likelihood estimate of the fractional logit; the constant is not penalized."""
    penalty = np.full(design.shape[1], strength)
    penalty[0] = 1e-6
    weights = np.zeros(design.shape[1])
    for _ in range(steps):
        predicted = _sigmoid(design @ weights)
        gradient = design.T @ (target - predicted) - penalty * weights
        curvature = (design * (predicted * (1 - predicted) + 1e-6)[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        weights = weights + step * min(1.0, 2.0 / max(np.abs(step).max(), 1e-12))
        if np.abs(step).max() < 1e-8:
            break
    return weights


@dataclass(frozen=True)
class Trust:
    """From which predicted Dice on a stack may be trusted: the least at which no more than `missed` of the bad stacks
    (real Dice below `bad_below`) of the calibration were, each predicted without its own patient.

    `missed_bad` and `good_trusted` are what this gave there, None where nothing was bad or good; `note` says what is special.
    """

    least: float
    bad_below: float
    n_bad: int
    missed_bad: float | None
    good_trusted: float | None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


def trust(outside: np.ndarray, dice: np.ndarray, *, bad_below: float = 0.8, missed: float = 0.05) -> Trust:
    """Where to trust predictions `outside` (n,) of the real Dice `dice` (n,)."""
    bad = dice < bad_below
    if not bad.any():
        note = f"no calibration stack has a Dice below {bad_below}, so predictions are trusted from {bad_below} on"
        return Trust(bad_below, bad_below, 0, None, _share(outside >= bad_below, ~bad), note)
    ranked = np.sort(outside[bad])[::-1]
    # Just above the first bad prediction that may not be trusted any more.
    least = max(bad_below, float(np.nextafter(ranked[int(missed * len(ranked))], 2.0)))
    trusted = outside >= least
    return Trust(least, bad_below, int(bad.sum()), _share(trusted, bad), _share(trusted, ~bad))


def _share(hit: np.ndarray, among: np.ndarray) -> float | None:
    return float(hit[among].mean()) if among.any() else None

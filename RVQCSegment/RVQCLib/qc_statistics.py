"""Statistics of how well a score grades masks: ROC, precision, ranks, risk and coverage; None where undefined.

All but `in_words` take arrays (n,), a value a row, with integer weights, the times that a row was drawn, and ranks for scores, so that a
bootstrap sorts nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


def auroc(scores: np.ndarray, bad: np.ndarray, weights: np.ndarray | None = None) -> float | None:
    """Probability that a bad row has a lower score than a good one, ties one half (Mann-Whitney U / n m).

    Parameters
    ----------
    scores
        (n,) high is good. Integers are taken as ranks from 0 on, which costs no sorting.
    bad
        (n,) bool.
    weights
        Times that every row counts, integers (n,).

    Returns
    -------
    None where no row is bad or none is good.
    """
    n_bad, n_all = _by_level(scores, bad, weights)
    n_good = n_all - n_bad
    if not n_bad.sum() or not n_good.sum():
        return None
    above = n_good.sum() - np.cumsum(n_good) + n_good / 2
    return float((n_bad * above).sum() / (n_bad.sum() * n_good.sum()))


def auprc(scores: np.ndarray, bad: np.ndarray, weights: np.ndarray | None = None) -> float | None:
    """Average precision of finding bad rows by a low score: sum of precision times the step in recall, no interpolation.

    Arguments and None as in `auroc`; rows of equal score are one step.
    """
    n_bad, n_all = _by_level(scores, bad, weights)
    if not n_bad.sum() or n_bad.sum() == n_all.sum():
        return None
    precision = np.cumsum(n_bad) / np.maximum(np.cumsum(n_all), 1)
    return float((n_bad * precision).sum() / n_bad.sum())


def spearman(a: np.ndarray, b: np.ndarray, weights: np.ndarray | None = None) -> float | None:
    """Spearman's rank correlation with average ranks; None for fewer than two rows or when one side is constant."""
    w = np.ones(len(a)) if weights is None else np.asarray(weights, float)
    if w.sum() < 2:
        return None
    x, y = _ranks(a, w), _ranks(b, w)
    x, y = x - (w * x).sum() / w.sum(), y - (w * y).sum() / w.sum()
    spread = (w * x * x).sum() * (w * y * y).sum()
    return float((w * x * y).sum() / np.sqrt(spread)) if spread > 1e-9 else None


def aurc(scores: np.ndarray, error: np.ndarray, weights: np.ndarray | None = None) -> float | None:
    """Area under the risk-coverage curve: mean over k of the mean `error` of the k best-scored rows.

    Rows of equal score count in the mean of all their orders, so that the order of rows never matters: from K rows of
    summed error E on, w rows with mean error m add ``sum (E + t m) / (K + t), t = 1..w``.
    """
    w = np.ones(len(scores), int) if weights is None else np.asarray(weights)
    if not w.sum():
        return None
    level = levels(scores)
    count = np.bincount(level, w)[::-1].astype(int)
    summed = np.bincount(level, w * error)[::-1]
    count, summed = count[count > 0], summed[count > 0]
    rows_before, error_before = np.cumsum(count) - count, np.cumsum(summed) - summed
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, count.sum() + 1))])
    average = summed / count
    steps = harmonic[rows_before + count] - harmonic[rows_before]
    return float((summed + (error_before - rows_before * average) * steps).sum() / count.sum())


def mae(predicted: np.ndarray, real: np.ndarray, weights: np.ndarray | None = None) -> float | None:
    """Mean absolute error; None without rows."""
    return mean(np.abs(np.asarray(predicted, float) - real), weights)


def coverage(bound: np.ndarray, real: np.ndarray, weights: np.ndarray | None = None) -> float | None:
    """Share of rows whose real value is not below the bound; None without rows."""
    return mean((np.asarray(real) >= bound).astype(float), weights)


def mean(values: np.ndarray, weights: np.ndarray | None = None) -> float | None:
    """Weighted mean; None where nothing counts."""
    w = np.ones(len(values)) if weights is None else weights
    return float((w * values).sum() / w.sum()) if w.sum() else None


def levels(values: np.ndarray) -> np.ndarray:
    """Ranks from 0 on in which equal values are equal; integers are such ranks already."""
    values = np.asarray(values)
    return values if values.dtype.kind in "iu" else np.unique(values, return_inverse=True)[1]


def _by_level(scores: np.ndarray, bad: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Bad rows and all rows at every score, from the lowest on."""
    level = levels(scores)
    w = np.ones(len(level)) if weights is None else weights
    return np.bincount(level, w * np.asarray(bad)), np.bincount(level, w)


def _ranks(values: np.ndarray, w: np.ndarray) -> np.ndarray:
    level = levels(values)
    count = np.bincount(level, w)
    return (np.cumsum(count) - count / 2)[level]


def in_words(qc: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """By level, and view where there are two: the statistics of the predicted Dice in a summary's ``qc``, "" of none."""
    for view, found in qc.get("by_view", {"": qc}).items():
        for level in ("stack", "slice"):
            said = [f"{key} {value:.3f}" for key, value in found[level]["combined"].items() if isinstance(value, float)]
            yield f"{level}, {view}" if view else level, ", ".join(said)

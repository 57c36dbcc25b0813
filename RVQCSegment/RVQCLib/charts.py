"""The charts of a page: axes, box plots, ROC and risk-coverage curves, worked out in pixels for the SVG templates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

GOOD_DICE = 0.8  # below it, a mask counts as bad in the QC's curves (summary.json: auroc_below_0.8)
CHANNELS = {"combined": ("predicted_dice", 1), "pDC": ("pDC", 1), "agreement": ("agreement", 1), "pHD": ("pHD_mm", -1)}


def finite(value: Any) -> bool:
    """Whether `value` is a number that can be shown."""
    return isinstance(value, (int, float, np.number)) and math.isfinite(value)


def distinct(rows: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """The values of `key`; phases and views in the order of the heart beat and of the paper, others sorted."""
    order = {"SA": 0, "LA": 1, "ED": 0, "ES": 1}
    return sorted({str(row.get(key) or "") for row in rows}, key=lambda value: (order.get(value, 2), value))


def shift_name(row: Mapping[str, Any]) -> str:
    """The image shift of a row and its severity, ``noise 3``; ``clean`` without severity; empty where it names none."""
    return f"{row.get('shift', '')} {row.get('severity') or ''}".strip()


@dataclass(frozen=True)
class Axis:
    """A chart's axis: values `low` to `high` drawn from pixel `start` to pixel `end`, with labelled `ticks`."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Pixel of `value`, clipped to the axis, to a tenth of a pixel."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def label(self, tick: float) -> str:
        """A tick's text, with the decimals that its step needs."""
        step = self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else 1
        return f"{tick:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def axis(low: float, high: float, start: float, end: float, *, count: int = 5) -> Axis:
    """An axis over at least [low, high] with about `count` ticks at round numbers (1, 2, 5 times a power of ten)."""
    span = max(high - low, 1e-6)
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power * count >= span * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil((low + span) / step - 1e-9)
    ticks = tuple(round(i * step, 10) for i in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], start, end, ticks)


def box(values: Sequence[float], names: Sequence[str]) -> dict[str, Any]:
    """Tukey's box of `values`: quartiles, whiskers at the last value within 1.5 interquartile ranges, outliers by name.

    Raises
    ------
    ValueError
        No values.
    """
    if not len(values):
        raise ValueError("A box plot needs at least one value.")
    data = np.asarray(values, float)
    q1, median, q3 = (float(q) for q in np.percentile(data, (25, 50, 75)))
    inside = (data >= q1 - 1.5 * (q3 - q1)) & (data <= q3 + 1.5 * (q3 - q1))
    outliers = [(float(value), name) for value, name, kept in zip(data, names, inside, strict=True) if not kept]
    return {
        "q1": q1,
        "median": median,
        "q3": q3,
        "low": float(data[inside].min()),
        "high": float(data[inside].max()),
        "mean": float(data.mean()),
        "n": len(data),
        "outliers": outliers,
    }


def roc(scores: np.ndarray, bad: np.ndarray) -> tuple[np.ndarray, np.ndarray, float] | None:
    """ROC of finding `bad` stacks by a LOW score: false alarm rate, detection rate, area under the curve.

    Parameters
    ----------
    scores : np.ndarray
        (n,) finite, high is good. Equal scores are one step of the curve.
    bad : np.ndarray
        (n,) bool.

    Returns
    -------
    tuple or None
        None unless there are both bad and good stacks.
    """
    if bad.all() or not bad.any():
        return None
    order = np.argsort(scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)
    found = np.concatenate([[0], np.cumsum(bad[order])[last]]) / bad.sum()
    alarms = np.concatenate([[0], np.cumsum(~bad[order])[last]]) / (~bad).sum()
    area = float(np.sum(np.diff(alarms) * (found[1:] + found[:-1]) / 2))
    return alarms, found, area


def risk_coverage(scores: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean `error` of the best-scored share of the stacks: coverage k / n, risk, and the mean risk (AURC).

    `scores` (n,) high is good; stacks of equal score count with their mean error, which is the mean over their orders.
    `error` (n,) is 1 - Dice.
    """
    level = np.unique(-scores, return_inverse=True)[1]
    alike = np.bincount(level, error) / np.bincount(level)
    counts = np.arange(1, len(scores) + 1)
    risk = np.cumsum(alike[np.sort(level)]) / counts
    return counts / len(scores), risk, float(risk.mean())


def points(horizontal: Axis, vertical: Axis, x: Sequence[float], y: Sequence[float]) -> str:
    """The points attribute of an SVG polyline through (x, y)."""
    return " ".join(f"{horizontal.at(a)},{vertical.at(b)}" for a, b in zip(x, y, strict=True))


def box_chart(rows: Sequence[Mapping[str, Any]], structure: str, metric: str) -> dict[str, Any]:
    """Horizontal box plots of one metric: a band a view and group, in it a box a phase."""
    key, bands, top = f"{structure}_{metric}", [], 8
    rows = [row for row in rows if finite(row.get(key))]
    values = [row[key] for row in rows]
    dice = metric == "dice"
    scale = axis(min(values) if dice else 0, 1 if dice else max(values), 130, 510, count=5)
    views = distinct(rows, "view")
    for view in views:
        for group in distinct(rows, "group"):
            members = [row for row in rows if row["view"] == view and (row.get("group") or "") == group]
            boxes = []
            for phase in distinct(members, "phase"):
                part = [row for row in members if row["phase"] == phase]
                boxes.append(
                    {
                        "phase": phase,
                        "y": top + 9 + 17 * len(boxes),
                        **box([row[key] for row in part], [row["study"] for row in part]),
                    }
                )
            if boxes:
                name = " ".join(([view] if len(views) > 1 else []) + [group or "(no group)"])
                bands.append({"name": name, "top": top, "height": 17 * len(boxes) + 6, "boxes": boxes})
                top += 17 * len(boxes) + 10
    return {"structure": structure, "metric": metric, "axis": scale, "bands": bands, "bottom": top}


def qc_charts(rows: Sequence[Mapping[str, Any]], structure: str) -> dict[str, Any]:
    """Predicted against real Dice, ROC and risk-coverage of one structure over the stacks that have all they need."""
    rows = [row for row in rows if finite(row.get(f"{structure}_dice"))]
    predicted = [row for row in rows if finite(row.get(f"{structure}_predicted_dice"))]
    values = [row[f"{structure}_{key}"] for row in predicted for key in ("predicted_dice", "dice")]
    low = min([*values, GOOD_DICE - 0.1])
    return {
        "structure": structure,
        "n": len(rows),
        "bad": sum(row[f"{structure}_dice"] < GOOD_DICE for row in rows),
        "scatter": [
            {
                "x": row[f"{structure}_predicted_dice"],
                "y": row[f"{structure}_dice"],
                "name": f"{row['study']} {row['view']} {row['phase']} {shift_name(row)}".strip(),
                "phase": row["phase"],
            }
            for row in predicted
        ],
        "x": axis(low, 1, 48, 308, count=5),
        "y": axis(low, 1, 260, 12, count=5),
        **_qc_curves(rows, structure),
    }


def _qc_curves(rows: Sequence[Mapping[str, Any]], structure: str) -> dict[str, Any]:
    across, up = axis(0, 1, 48, 308), axis(0, 1, 260, 12)
    found, covered = [], []
    for channel, (key, sign) in CHANNELS.items():
        usable = [row for row in rows if finite(row.get(f"{structure}_{key}"))]
        if not usable:
            continue
        scores = sign * np.array([row[f"{structure}_{key}"] for row in usable], float)
        dice = np.array([row[f"{structure}_dice"] for row in usable], float)
        covered.append((channel, risk_coverage(scores, 1 - dice)))
        if curve := roc(scores, dice < GOOD_DICE):
            found.append({"channel": channel, "area": curve[2], "points": points(across, up, *curve[:2])})
    worst = max((float(curve[1].max()) for _, curve in covered), default=0.1)
    risk = axis(0, worst, 260, 12, count=4)
    return {
        "share": across,
        "rate": up,
        "risk": risk,
        "roc": found,
        "coverage": [
            {"channel": channel, "area": curve[2], "points": points(across, risk, *curve[:2])}
            for channel, curve in covered
        ],
    }

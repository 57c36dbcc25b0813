"""Fences, the OoD rule and the selection among candidates (Sec. 2.3, eqs. 3 and 4): rules on plain numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from RVQCLib.stack import STRUCTURES

COHORT = 20
"""Stacks from which a cohort may set its own fences."""


@dataclass(frozen=True)
class Fences:
    """th_low on pDC (eq. 3) and th_up on pHD in mm (eq. 4), from `n` stacks or slices."""

    th_low: float
    th_up: float
    n: int

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Fences:
        """The inverse of `to_json`."""
        return Fences(float(values["th_low"]), float(values["th_up"]), int(values["n"]))

    def broken_by(self, pDC: float, pHD: float) -> bool:
        """Whether one candidate is outside: ``pDC < th_low`` or ``pHD > th_up``."""
        return bool(pDC < self.th_low or pHD > self.th_up)


def fences(
    pDC: Sequence[float] | np.ndarray, pHD: Sequence[float] | np.ndarray, *, reach: float = 1.5, n: int | None = None
) -> Fences:
    """Tukey's fences: ``th_low = Q1 - reach (Q3 - Q1)`` of pDC, ``th_up = Q3 + reach (Q3 - Q1)`` of pHD (eqs. 3, 4).

    `n` is how many stacks or slices gave the values, where each has several candidates; by default one each.
    Both may have any shape, as every value counts alike. Quartiles are linearly interpolated. All values equal: both fences are that value, and nothing breaks them.

    Raises
    ------
    ValueError
        No values, another number of pDC than of pHD, or a value that is not finite.
    """
    dc, hd = np.asarray(pDC, float).ravel(), np.asarray(pHD, float).ravel()
    _check(dc, hd)
    q1, q3 = np.quantile(dc, (0.25, 0.75))
    r1, r3 = np.quantile(hd, (0.25, 0.75))
    return Fences(float(q1 - reach * (q3 - q1)), float(r3 + reach * (r3 - r1)), len(dc) if n is None else n)


def _check(pDC: np.ndarray, pHD: np.ndarray) -> None:
    if len(pDC) == 0 or pDC.shape != pHD.shape or not (np.isfinite(pDC).all() and np.isfinite(pHD).all()):
        raise ValueError(f"pDC {pDC.shape} and pHD {pHD.shape} must be as many finite numbers, at least one.")


class Scored(Protocol):
    """Anything with pDC and pHD of a stack's candidates, (m, 3) each: `measures.Measures`, or read from a file."""

    @property
    def stack_pDC(self) -> np.ndarray: ...

    @property
    def stack_pHD(self) -> np.ndarray: ...


def cohort_fences(measures: Sequence[Scored], *, at_least: int = COHORT) -> tuple[dict[str, Fences] | None, str]:
    """The paper's own rule: fences from the judged stacks themselves, by structure, over all their candidates.

    Give stacks of one view and phase. Fewer than `at_least` of them: None, with the sentence that says so.
    """
    if len(measures) < at_least:
        return None, f"Cohort fences need {at_least} stacks of a view and phase, here are {len(measures)}."
    pDC, pHD = (np.concatenate([getattr(m, name) for m in measures]) for name in ("stack_pDC", "stack_pHD"))
    table = {structure: fences(pDC[:, k], pHD[:, k], n=len(measures)) for k, structure in enumerate(STRUCTURES)}
    return table, f"Cohort fences from {len(measures)} stacks."


@dataclass(frozen=True)
class Reference:
    """What is usual on held-out labelled stacks: fences of stacks by structure and of slices by position and structure,
    and the least usual agreement (eq. 3) of both. What was never seen is missing, and then never spoken against."""

    stack: Mapping[str, Fences]
    slices: Mapping[str, Mapping[str, Fences]] = field(default_factory=dict)
    agreement: Mapping[str, float] = field(default_factory=dict)
    slice_agreement: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @staticmethod
    def from_calibration(calibration: Mapping[str, Any], phase: str) -> Reference:
        """From a bundle's calibration of one view; a phase that it lacks has the fences of all phases together."""
        stack = calibration["fences"].get(phase, calibration["fences"]["all"])
        agreement = calibration.get("agreement_fences", {})
        return Reference(
            {s: Fences.from_json(values) for s, values in stack.items()},
            {
                p: {s: Fences.from_json(v) for s, v in row.items()}
                for p, row in calibration.get("slice_fences", {}).items()
            },
            agreement.get("stack", {}),
            agreement.get("slice", {}),
        )


def is_ood(pDC: np.ndarray, pHD: np.ndarray, limits: Fences, quantifier: str = "paper") -> bool:
    """Whether a stack with candidates' scores (m,), (m,) is out of distribution.

    Parameters
    ----------
    quantifier
        ``paper``: every candidate has pDC < th_low or pHD > th_up. ``authors`` (their public code): the best pDC is
        below th_low or the best pHD above th_up, where the two bests may be of different candidates. What the authors'
        rule flags, the paper's flags too, not the other way round.

    Raises
    ------
    ValueError
        The scores are not finite, or the quantifier is unknown.
    """
    dc, hd = np.asarray(pDC, float), np.asarray(pHD, float)
    _check(dc, hd)
    if quantifier == "paper":
        return bool(((dc < limits.th_low) | (hd > limits.th_up)).all())
    if quantifier == "authors":
        return limits.broken_by(dc.max(), hd.min())
    raise ValueError(f'The quantifier must be "paper" or "authors", not {quantifier!r}.')


@dataclass(frozen=True)
class Selection:
    """The candidate whose mask is taken, or the two whose average is; the rule, and the reason in words."""

    indices: tuple[int, ...]
    rule: str
    reason: str


def select(pDC: np.ndarray, pHD: np.ndarray, limits: Fences | None) -> Selection:
    """Steps 1 to 5 of Sec. 2.3 on candidates' scores (m,), (m,). Ties go to the lower index.

    Rule ``top``: the first by pDC has pHD < th_up. ``next``: one further down has. ``average``: none has; the best by
    pDC and the best by pHD are averaged, which is one index where they are the same. Without fences (a bundle that was
    not calibrated) the first by pDC is taken.

    Raises
    ------
    ValueError
        The scores are not finite or not as many.
    """
    dc, hd = np.asarray(pDC, float), np.asarray(pHD, float)
    _check(dc, hd)
    ranked = [int(i) for i in np.argsort(-dc, kind="stable")]
    if limits is None:
        return Selection((ranked[0],), "top", f"{_who(ranked[0], dc, hd)} has the highest pDC; no fence is known.")
    for place, i in enumerate(ranked):
        if hd[i] < limits.th_up:
            rule = "next" if place else "top"
            which = f"is number {place + 1} by pDC, the first" if place else "has the highest pDC, and it is the first"
            return Selection((i,), rule, f"{_who(i, dc, hd)} {which} with pHD below {limits.th_up:.1f} mm.")
    best, nearest = ranked[0], int(np.argmin(hd))
    none = f"No candidate has pHD below {limits.th_up:.1f} mm"
    if best == nearest:
        return Selection((best,), "average", f"{none}; {_who(best, dc, hd)} is the best by pDC and by pHD.")
    who = f"the best by pDC ({_who(best, dc, hd)}) and the best by pHD ({_who(nearest, dc, hd)})"
    return Selection((best, nearest), "average", f"{none}; {who} are averaged.")


def _who(i: int, pDC: np.ndarray, pHD: np.ndarray) -> str:
    return f"candidate {i + 1} (pDC {pDC[i]:.3f}, pHD {pHD[i]:.1f} mm)"


def from_base(areas: Sequence[float] | np.ndarray) -> bool:
    """Whether the first of the slices is the nearest to the base, by the area (S,) of all structures: the half of their
    range with the larger mean is basal; a tie or no structure: it is."""
    area = np.asarray(areas, float)
    filled = np.flatnonzero(area > 0)
    if len(filled) == 0:
        return True
    inside = area[filled[0] : filled[-1] + 1]
    half = max(1, len(inside) // 2)
    return bool(inside[:half].mean() >= inside[-half:].mean())


def slice_position(areas: Sequence[float] | np.ndarray) -> tuple[str, ...]:
    """``basal``, ``mid``, ``apical`` or ``outside`` for every slice, from the area (S,) of all structures in it.

    The range from the first to the last slice with a structure is cut in thirds; beyond it is ``outside``, a gap in it
    is not. Stacks come in both orders, so the base is the end whose half of the range has the larger mean area (a tie:
    the first slice). One slice is ``mid``.
    """
    area = np.asarray(areas, float)
    filled = np.flatnonzero(area > 0)
    if len(filled) == 0:
        return ("outside",) * len(area)
    first, count = int(filled[0]), int(filled[-1] - filled[0]) + 1
    names = [("basal", "mid", "apical")[min(2, int(3 * (i + 0.5) / count))] for i in range(count)]
    names = names if from_base(area) else names[::-1]
    return ("outside",) * first + tuple(names) + ("outside",) * (len(area) - first - count)

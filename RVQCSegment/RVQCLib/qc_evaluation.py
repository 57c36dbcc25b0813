"""How good the QC itself is: what it said of masks, clean and damaged, against their real Dice.

Every labelled stack is segmented as it is and under graded image shifts by the one path that users run; the selected masks of
the clean stacks are also damaged by hand. A detector gives every mask a score (high is good), and a mask is bad when its
real RV Dice is below a threshold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from RVQCLib.bundle import ViewModels
from RVQCLib.calibration import STRENGTHS, damage, opinion
from RVQCLib.charts import CHANNELS, GOOD_DICE, finite, shift_name
from RVQCLib.files import RVQCError
from RVQCLib.inference import choose, propose_stack
from RVQCLib.metrics import dice
from RVQCLib.pipeline import segment_stack
from RVQCLib.qc_statistics import auprc, aurc, auroc, coverage, levels, mae, mean, spearman
from RVQCLib.quality import QCOptions, Reference, judge
from RVQCLib.result import StackResult
from RVQCLib.shifts import SEVERITIES, SHIFTS, is_shift, seed_of, shift_stack
from RVQCLib.slices import from_network
from RVQCLib.stack import LABELS, STRUCTURES, VIEWS, Stack

Row = dict[str, Any]

THRESHOLDS = (0.8, 0.7)
_SAID = ("predicted_dice", "lower_bound_90", "pDC", "pHD_mm", "agreement")


@dataclass
class QCRows:
    """A row a stack and a row a slice and structure, of clean and shifted stacks and of masks with injected errors."""

    stacks: list[Row] = field(default_factory=list)
    slices: list[Row] = field(default_factory=list)
    injected: list[Row] = field(default_factory=list)
    injected_slices: list[Row] = field(default_factory=list)

    def extend(self, others: QCRows) -> None:
        """Add all of the others' rows."""
        for name in ("stacks", "slices", "injected", "injected_slices"):
            getattr(self, name).extend(getattr(others, name))

    def of(self, view: str) -> QCRows:
        """The rows of one view."""
        return QCRows(**{name: [row for row in rows if row["view"] == view] for name, rows in vars(self).items()})


# ---- rows ------------------------------------------------------------------------------------------------------------


def graded(shifts: Sequence[str], severities: Sequence[int]) -> tuple[tuple[str, int], ...]:
    """Every shift (as `shift_stack` knows it) at every severity, each once.

    Raises
    ------
    RVQCError
        There is none, or a shift or a severity that is unknown.
    """
    if not severities or set(severities) - set(SEVERITIES):
        given = " ".join(str(severity) for severity in severities)
        raise RVQCError(f"The severities of --severities must be among 1 to 5, not {given or 'none'}.")
    if not shifts or not all(map(is_shift, shifts)):
        raise RVQCError(
            f"The shifts of --shifts must be among {', '.join(SHIFTS)}, several at once with + between, not "
            f"{' '.join(shifts) or 'none'}."
        )
    return tuple((name, severity) for name in dict.fromkeys(shifts) for severity in sorted(set(severities)))


def add_stack(
    rows: QCRows,
    head: Row,
    clean: StackResult,
    truth: Stack,
    models: ViewModels,
    shifts: Sequence[tuple[str, int]],
    *,
    seed: int,
) -> None:
    """Add what the QC says of one labelled stack: as it is, under every one of `shifts` (`graded`), and of its mask with injected
    errors.

    Parameters
    ----------
    head
        Columns that name the stack: study, group, vendor, view, phase.
    clean
        What the pipeline said of the stack as it is.
    seed
        Shifts and errors differ between studies and stacks, and do not depend on the order of studies.
    """
    own = seed_of(seed, head["study"], clean.image)
    _add(rows.stacks, rows.slices, head | {"shift": "clean", "severity": 0}, clean.mask, truth, clean.judgement)
    for name, severity in shifts:
        image = shift_stack(clean.image, name, severity, seed=own)
        result = segment_stack(head["study"], image, models)
        line = head | {"shift": name, "severity": severity}
        _add(rows.stacks, rows.slices, line, result.mask, truth, result.judgement)
    for strength, mask, judgement in _injected(clean.image, models, np.random.default_rng(own)):
        line = head | {"shift": "injected", "severity": strength}
        _add(rows.injected, rows.injected_slices, line, mask, truth, judgement)


def _add(stacks: list[Row], slices: list[Row], head: Row, mask: Stack, truth: Stack, judgement: Row) -> None:
    found = {s: (mask.pixels == LABELS[s], truth.pixels == LABELS[s]) for s in STRUCTURES}
    row = head | {"verdict": judgement["verdict"], "ood": judgement["ood"], "reasons": "; ".join(judgement["reasons"])}
    for s, said in judgement["structures"].items():
        row |= {f"{s}_dice": dice(*found[s])} | {f"{s}_{key}": said[key] for key in _SAID}
    stacks.append(row)
    for entry in judgement["slices"]:
        line = head | {"slice": entry["index"], "position": entry["position"]}
        for s, said in entry["structures"].items():
            own, true = (pixels[entry["index"]] for pixels in found[s])
            if own.any() or true.any():
                said = {"flag": said["flag"]} | {key: said[key] for key in _SAID}
                slices.append(line | {"structure": s, "dice": dice(own, true)} | said)


def _injected(image: Stack, models: ViewModels, rng: np.random.Generator) -> Iterator[tuple[float, Stack, Row]]:
    """The selected mask as it is (strength 0) and with errors of growing strength, each judged beside the same candidates."""
    options, calibration = QCOptions(), models.calibration
    reference = Reference.from_calibration(calibration, image.phase) if calibration else None
    proposal = propose_stack(image, models)
    chosen = choose(proposal, reference.stack[options.primary] if reference else None, models)
    for strength in (0.0, *STRENGTHS):
        spoilt = damage(proposal, chosen, models, strength, rng)
        judgement = judge(
            proposal.measures,
            spoilt.measures,
            spoilt.selection,
            mask=spoilt.mask,
            spacing_zyx=proposal.spacing_zyx,
            view=image.view,
            reference=reference,
            predicted=opinion(calibration, proposal, spoilt) if calibration else None,
            options=options,
        )
        yield strength, image.with_pixels(from_network(spoilt.probabilities, proposal.crop, image)), judgement.to_json()


# ---- the summary -----------------------------------------------------------------------------------------------------


def summarize_qc(
    rows: QCRows, *, shifts: Sequence[tuple[str, int]], seed: int, resamples: int = 1000
) -> dict[str, Any]:
    """The ``qc`` of summary.json, all about the RV.

    Per stack and per slice, over clean and shifted images together, every detector's statistics with 95 % intervals from a
    bootstrap of patients; the same per shift, without intervals; the verdict as the user gets it (`operating_point`); and
    masks with injected errors, among them those without. Where there are two views, ``by_view`` has the same of each: all together
    mixes them, and to tell one view from the other is not to tell bad masks from good ones.
    """
    slices, spoilt = _of_rv(rows.slices), _of_rv(rows.injected_slices)
    options = {"seed": seed, "resamples": resamples}
    there = {row.get("view") for row in rows.stacks}
    views = [view for view in VIEWS if view in there and len(there) > 1]
    by_view = {view: summarize_qc(rows.of(view), shifts=shifts, **options) for view in views}
    return {
        **({"by_view": by_view} if by_view else {}),
        "stack": detectors(rows.stacks, "RV_", **options),
        "slice": detectors(slices, "", **options),
        "by_shift": _by_shift(rows.stacks),
        "operating_point": {
            "bad_below": GOOD_DICE,
            **operating_point(rows.stacks, **options),
            "clean": operating_point([row for row in rows.stacks if row["shift"] == "clean"], **options),
            "slice": operating_point(slices, **options),
        },
        "injected": {
            **detectors(rows.injected, "RV_", **options),
            "slice": detectors(spoilt, "", **options),
            "operating_point": operating_point(rows.injected, **options),
            "strengths": [0.0, *STRENGTHS],
        },
        "n_stacks": len(rows.stacks),
        "n_bad": _n_bad(rows.stacks, "RV_"),
        "n_slices": len(slices),
        "n_bad_slices": _n_bad(slices, ""),
        "severities": sorted({severity for _, severity in shifts}),
        "shifts": list(dict.fromkeys(name for name, _ in shifts)),
    }


def _of_rv(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["structure"] == "RV"]


def _n_bad(rows: Sequence[Row], prefix: str) -> int:
    return sum(row[f"{prefix}dice"] < GOOD_DICE for row in rows)


def detectors(rows: Sequence[Row], prefix: str, *, seed: int, resamples: int) -> dict[str, dict[str, Any]]:
    """`statistics` of every detector over `rows`, whose columns begin with `prefix`, with ``intervals`` if resampled."""
    draws = _draws(rows, seed, resamples)
    found = {}
    for name, (key, sign) in CHANNELS.items():
        known = np.array([finite(row[prefix + key]) for row in rows], bool)
        some = [row for row, use in zip(rows, known, strict=True) if use]
        columns = _Columns.of(some, prefix, key, sign)
        found[name] = columns.numbers()
        if resamples:
            again = [columns.numbers(weights) for weights in draws[:, known]]
            found[name]["intervals"] = {measure: _interval([n[measure] for n in again]) for measure in again[0]}
    return found


@dataclass(frozen=True)
class _Columns:
    """One detector's scores as ranks with the real Dice; prediction and bound for the one that predicts."""

    level: np.ndarray
    real: np.ndarray
    real_level: np.ndarray
    predicted: np.ndarray | None = None
    bound: np.ndarray | None = None

    @staticmethod
    def of(rows: Sequence[Row], prefix: str, key: str, sign: int) -> _Columns:
        def column(name: str) -> np.ndarray:
            return np.array([row[prefix + name] for row in rows], float)

        score, real = sign * column(key), column("dice")
        predicts = key == "predicted_dice"
        extra = (column(key), column("lower_bound_90")) if predicts else (None, None)
        return _Columns(levels(score), real, levels(real), *extra)

    def numbers(self, weights: np.ndarray | None = None) -> dict[str, float | None]:
        result: dict[str, float | None] = {}
        for threshold in THRESHOLDS:
            bad = self.real < threshold
            result[f"auroc_below_{threshold}"] = auroc(self.level, bad, weights)
            result[f"auprc_below_{threshold}"] = auprc(self.level, bad, weights)
        if self.predicted is not None and self.bound is not None:
            result["mae"] = mae(self.predicted, self.real, weights)
            result["coverage_90"] = coverage(self.bound, self.real, weights)
        result["spearman"] = spearman(self.level, self.real_level, weights)
        result["aurc"] = aurc(self.level, 1 - self.real, weights)
        return result


def _draws(rows: Sequence[Row], seed: int, resamples: int) -> np.ndarray:
    """Times that every row counts in every resample of the patients, integers (resamples, rows)."""
    names, patient = np.unique([row["study"] for row in rows], return_inverse=True)
    if not resamples or not len(names):
        return np.zeros((resamples, len(rows)), int)
    drawn = np.random.default_rng(seed).integers(0, len(names), (resamples, len(names)))
    times = np.stack([np.bincount(draw, minlength=len(names)) for draw in drawn])
    return times.astype(np.int16)[:, patient]


def _interval(values: Sequence[float | None]) -> list[float] | None:
    """The 2.5th and 97.5th percentile; None when the number is undefined in most resamples."""
    known = [value for value in values if value is not None]
    if 2 * len(known) <= len(values):
        return None
    return [float(value) for value in np.percentile(known, (2.5, 97.5))]


def _by_shift(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(shift_name(row), []).append(row)
    return {
        name: {
            "n_stacks": len(some),
            "n_bad": _n_bad(some, "RV_"),
            "dice": float(np.mean([row["RV_dice"] for row in some])),
            **detectors(some, "RV_", seed=0, resamples=0),
            "operating_point": operating_point(some, seed=0, resamples=0),
        }
        for name, some in groups.items()
    }


def operating_point(rows: Sequence[Row], *, seed: int, resamples: int) -> dict[str, Any]:
    """What a user who looks only at what is not trusted would miss, and would look at for nothing.

    A stack is trusted by its verdict, a slice when it is not flagged. ``missed_bad``: share of the bad rows (real Dice below
    `GOOD_DICE`) that are trusted; ``good_not_trusted``: share of the good rows that are not; ``bad_among_trusted``: share of
    the trusted rows that are bad.
    """
    trusted = np.array([row["verdict"] == "trusted" if "verdict" in row else not row["flag"] for row in rows], bool)
    bad = np.array([row["RV_dice" if "verdict" in row else "dice"] < GOOD_DICE for row in rows], bool)

    def shares(w: np.ndarray) -> dict[str, float | None]:
        return {
            "missed_bad": mean(trusted, w * bad),
            "good_not_trusted": mean(~trusted, w * ~bad),
            "bad_among_trusted": mean(bad, w * trusted),
        }

    result: dict[str, Any] = {"n": len(rows), "n_bad": int(bad.sum()), "n_trusted": int(trusted.sum())}
    result |= shares(np.ones(len(rows), int))
    if resamples:
        again = [shares(weights) for weights in _draws(rows, seed, resamples)]
        result["intervals"] = {key: _interval([one[key] for one in again]) for key in again[0]}
    return result

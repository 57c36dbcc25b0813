"""Quality control of one stack: what measures, fences and anatomy say together, as a verdict with reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from RVQCLib.anatomy import Plausible, shared_failures, stack_checks, study_checks
from RVQCLib.measures import Measures, measure
from RVQCLib.options import Limits, QCOptions
from RVQCLib.selection import Fences, Reference, Selection, cohort_fences, fences, is_ood, select, slice_position
from RVQCLib.stack import STRUCTURES

__all__ = [
    "Fences",
    "Graded",
    "Judgement",
    "Limits",
    "Measures",
    "Plausible",
    "QCOptions",
    "Reference",
    "Scores",
    "Selection",
    "cohort_fences",
    "fences",
    "is_ood",
    "judge",
    "measure",
    "rejudge",
    "select",
    "slice_position",
    "study_checks",
]


class Graded(Protocol):
    """Predicted Dice and its 90 % lower bound: (3,) of a stack and (slices, 3) of its slices, order of `STRUCTURES`; and
    from which predicted Dice on a stack is trusted by the structure (3,)."""

    stack: np.ndarray
    stack_bound: np.ndarray
    slices: np.ndarray
    slices_bound: np.ndarray
    trusted_from: np.ndarray


@dataclass(frozen=True)
class Judgement:
    """What RVQC says of one stack: the parts of its entry in quality.json that do not depend on files."""

    ood: bool
    verdict: str
    reasons: tuple[str, ...]
    structures: Mapping[str, Mapping[str, Any]]
    slices: tuple[Mapping[str, Any], ...]
    candidates: tuple[Mapping[str, Any], ...]
    fences: Mapping[str, Any]
    selection: Selection
    evidence: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The keys of quality.json, all values plain and finite."""
        return {
            "selected": list(self.selection.indices),
            "selection_rule": self.selection.rule,
            "selection_reason": self.selection.reason,
            "ood": self.ood,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "fences": dict(self.fences),
            "structures": dict(self.structures),
            "candidates": list(self.candidates),
            "slices": list(self.slices),
            "evidence": dict(self.evidence),
        }


def judge(
    measures: Measures,
    chosen: Measures,
    selection: Selection,
    *,
    mask: np.ndarray,
    spacing_zyx: Sequence[float],
    view: str,
    reference: Reference | None,
    cohort: Mapping[str, Fences] | None = None,
    predicted: Graded | None = None,
    volumes_ml: Mapping[str, float] | None = None,
    networks: Sequence[str] = (),
    options: QCOptions = QCOptions(),
) -> Judgement:
    """Judge one stack.

    The verdict is ``ood`` when the primary structure is out of distribution (`is_ood` over all candidates) or the mask
    shows a failure that all candidates may share; else ``look`` when there is any reason; else ``trusted``. With a predicted
    Dice the reasons are: that of the primary structure is below its `Graded.trusted_from`, the lower bound of any below
    `Limits.lower_bound`, or flagged slices hold more than `Limits.share` of a structure. The two opinions then say why, and
    the shape of another structure counts only where its lower bound is low as well. Without a predicted Dice, candidates
    that disagree and any unusual shape are reasons by themselves. A reason begins with who speaks:
    ``failed``, ``unusual shape`` (distance from the reconstruction), ``candidates disagree`` (their mutual Dice),
    ``anatomy``, ``low predicted Dice`` or ``not calibrated``. In words, slices count from 1.

    Parameters
    ----------
    measures, chosen
        Of all candidates, and of the selected mask alone (m = 1), which may be an average.
    mask
        The selected labels, uint8 (slices, rows, columns), with `spacing_zyx` in mm.
    reference, cohort
        Fences by structure; `options.fences` says which judge the stack. Slices are always judged by the reference.
        Without any the verdict is ``look`` at best.
    predicted
        Predicted Dice, where the bundle is calibrated for it.
    volumes_ml
        By structure on the image's own grid; by default those of `mask`.
    networks
        Names of the candidates.
    """
    slices = _judge_slices(measures, chosen, reference, predicted, options.limits)
    for finding in stack_checks(mask, spacing_zyx, view):
        slices[finding.index]["reasons"].append(finding.text)
        slices[finding.index]["structures"][finding.structure]["flag"] = slices[finding.index]["flag"] = True
    used = "cohort" if options.fences == "cohort" and cohort else "reference"
    table = cohort if used == "cohort" else reference.stack if reference else None
    shapes = _shape_reasons(measures.stack_pDC, measures.stack_pHD, table, options.quantifier)
    evidence = {
        "failed": list(shared_failures(mask, spacing_zyx, view)),
        "doubts": _stack_doubts(measures, reference, predicted, options),
        "sound": _sound(predicted, options),
        "flagged_share": _flagged_share(slices, measures, chosen),
    }
    conclusion = _conclude(evidence, shapes, slices, table is not None, options)
    return Judgement(
        **conclusion,
        structures=_structures(measures, chosen, predicted, volumes_ml or _volumes(chosen, spacing_zyx)),
        slices=tuple(slices),
        candidates=_candidates(measures, networks),
        fences=_fences(used, options.fences, reference.stack if reference else None, cohort),
        selection=selection,
        evidence=evidence,
    )


def _conclude(
    evidence: Mapping[str, Any],
    shapes: Mapping[str, str],
    slices: Sequence[Mapping[str, Any]],
    calibrated: bool,
    options: QCOptions,
) -> dict[str, Any]:
    """Whether the stack is OoD, its verdict and its reasons."""
    shapes = {structure: said for structure, said in shapes.items() if structure not in evidence["sound"]}
    ood = bool(evidence["failed"]) or options.primary in shapes
    reasons = [*evidence["failed"], *shapes.values(), *evidence["doubts"]]
    reasons += [] if calibrated else ["not calibrated: no fences are known for this view"]
    if reasons or evidence["flagged_share"] > options.limits.share:
        reasons += _slice_doubts(slices)
    return {"ood": ood, "verdict": "ood" if ood else "look" if reasons else "trusted", "reasons": tuple(reasons)}


def rejudge(
    entry: Mapping[str, Any], cohort: Mapping[str, Fences] | None, note: str, options: QCOptions
) -> dict[str, Any]:
    """A stack's entry of quality.json with the fences of its cohort, which are known only after the last stack.

    With the option ``cohort`` they judge it, as `judge` would have done; the selection stays as the reference made it.

    Parameters
    ----------
    cohort, note
        What `cohort_fences` says of the stacks of this view and phase.
    """
    fences = {**entry["fences"], "cohort": _table(cohort), "cohort_note": note}
    if options.fences != "cohort":
        return {**entry, "fences": fences}
    if cohort is None:
        return {**entry, "fences": {**fences, "note": note}}
    scores = Scores.of(entry)
    shapes = _shape_reasons(scores.stack_pDC, scores.stack_pHD, cohort, options.quantifier)
    said = _conclude(entry["evidence"], shapes, entry["slices"], True, options)
    fences.update(used="cohort", note="Cohort fences judge; the selection was made by the reference fences.")
    return {**entry, **said, "reasons": list(said["reasons"]), "fences": fences}


@dataclass(frozen=True, eq=False)
class Scores:
    """pDC and pHD in mm of a stack's candidates, each (m, 3) in the order of `STRUCTURES`."""

    stack_pDC: np.ndarray
    stack_pHD: np.ndarray

    @staticmethod
    def of(entry: Mapping[str, Any]) -> Scores:
        """From a stack's entry of quality.json."""
        pDC, pHD = ([[c[key][s] for s in STRUCTURES] for c in entry["candidates"]] for key in ("pDC", "pHD_mm"))
        return Scores(np.asarray(pDC, float), np.asarray(pHD, float))


def _shape_reasons(
    pDC: np.ndarray, pHD: np.ndarray, table: Mapping[str, Fences] | None, quantifier: str
) -> dict[str, str]:
    """The structures that are out of distribution by candidates' scores (m, 3), with the sentence that says so."""
    said = {}
    for k, structure in enumerate(STRUCTURES):
        limits, dc, hd = table.get(structure) if table else None, pDC[:, k], pHD[:, k]
        if limits is not None and is_ood(dc, hd, limits, quantifier):
            best = f"best pDC {dc.max():.2f}, usual from {limits.th_low:.2f}"
            nearest = f"best pHD {hd.min():.1f} mm, usual up to {limits.th_up:.1f} mm"
            said[structure] = f"unusual shape: {structure} of every candidate ({best}; {nearest})"
    return said


def _sound(predicted: Graded | None, options: QCOptions) -> list[str]:
    """Structures but the primary one that are probably good, whatever their shape."""
    if predicted is None:
        return []
    bounds = zip(STRUCTURES, predicted.stack_bound, strict=True)
    return [s for s, bound in bounds if s != options.primary and bound >= options.limits.lower_bound]


def _stack_doubts(
    measures: Measures, reference: Reference | None, predicted: Graded | None, options: QCOptions
) -> list[str]:
    """A predicted Dice that is or may be too low, and disagreement over the whole stack."""
    said, limits = [], options.limits
    for k, structure in enumerate(STRUCTURES):
        doubt = _low_prediction(predicted, k, options)
        usual = reference.agreement.get(structure) if reference else None
        agreement = float(measures.stack_agreement[k])
        disagree = usual is not None and agreement < min(usual, limits.stack_dice)
        if disagree and (doubt or predicted is None):
            said.append(f"candidates disagree: {structure} agreement {agreement:.2f}, usual from {usual:.2f}")
        said += [doubt] if doubt else []
    return said


def _low_prediction(predicted: Graded | None, k: int, options: QCOptions) -> str:
    """The sentence that a structure's predicted Dice is too low, or nothing."""
    if predicted is None:
        return ""
    structure, dice, bound = STRUCTURES[k], predicted.stack[k], predicted.stack_bound[k]
    if structure == options.primary and dice < predicted.trusted_from[k]:
        least = predicted.trusted_from[k]
        digits = 3 if f"{dice:.3f}" != f"{least:.3f}" else 6
        return f"low predicted Dice: {structure} {dice:.{digits}f}, trusted from {least:.{digits}f}"
    if bound < options.limits.lower_bound:
        return f"low predicted Dice: {structure} {dice:.2f}, with 90 % confidence at least {bound:.2f}"
    return ""


def _flagged_share(slices: Sequence[Mapping[str, Any]], measures: Measures, chosen: Measures) -> float:
    """The largest part of a structure that lies in its flagged slices, by the largest area that anyone gives it there."""
    area = np.maximum(measures.slice_mm2.max(axis=0), chosen.slice_again_mm2[0])
    flags = np.array([[entry["structures"][structure]["flag"] for structure in STRUCTURES] for entry in slices])
    return float(((area * flags).sum(axis=0) / np.maximum(area.sum(axis=0), 1e-9)).max())


def _slice_doubts(slices: Sequence[Mapping[str, Any]]) -> list[str]:
    """The slices' reasons by who speaks: one sentence each."""
    speakers: dict[str, list[str]] = {}
    for entry in slices:
        for who in sorted({reason.split(":")[0] for reason in entry["reasons"]}):
            speakers.setdefault(who, []).append(str(entry["index"] + 1))
    return [f"{who}: slice{'s' if len(s) > 1 else ''} {', '.join(s)}" for who, s in speakers.items()]


def _judge_slices(
    measures: Measures, chosen: Measures, reference: Reference | None, predicted: Graded | None, limits: Limits
) -> list[dict[str, Any]]:
    positions = slice_position(chosen.slice_mm2[0].sum(axis=1))
    return [_judge_slice(s, p, measures, chosen, reference, predicted, limits) for s, p in enumerate(positions)]


def _judge_slice(
    s: int,
    position: str,
    measures: Measures,
    chosen: Measures,
    reference: Reference | None,
    predicted: Graded | None,
    limits: Limits,
) -> dict[str, Any]:
    """One slice's entry of quality.json."""
    reasons, structures = [], {}
    for k, structure in enumerate(STRUCTURES):
        usual = reference.slices.get(position, {}).get(structure) if reference else None
        agreed = reference.slice_agreement.get(position, {}).get(structure) if reference else None
        dice = 0.0 if predicted is None else float(predicted.slices[s, k])
        said = []
        if dice < limits.sure:
            said += _shape_of_slice(s, k, chosen, usual, limits)
            said += _agreement_of_slice(s, k, measures, agreed, limits)
        if predicted is not None and dice < limits.predicted and chosen.slice_mm2[0, s, k] > 0:
            said.append(f"low predicted Dice: {structure} {dice:.2f}")
        reasons += said
        structures[structure] = {
            "pDC": float(chosen.slice_pDC[0, s, k]),
            "pHD_mm": float(chosen.slice_pHD[0, s, k]),
            "pHD95_mm": float(chosen.slice_HD95[0, s, k]),
            "agreement": float(measures.slice_agreement[s, k]),
            "predicted_dice": None if predicted is None else float(predicted.slices[s, k]),
            "lower_bound_90": None if predicted is None else float(predicted.slices_bound[s, k]),
            "area_mm2": float(chosen.slice_mm2[0, s, k]),
            "reason": str(chosen.slice_reason[0, s, k]),
            "flag": bool(said),
        }
    return {"index": s, "position": position, "flag": bool(reasons), "reasons": reasons, "structures": structures}


def _shape_of_slice(s: int, k: int, chosen: Measures, usual: Fences | None, limits: Limits) -> list[str]:
    pDC, pHD = float(chosen.slice_pDC[0, s, k]), float(chosen.slice_pHD[0, s, k])
    reason, structure = str(chosen.slice_reason[0, s, k]), STRUCTURES[k]
    if max(chosen.slice_mm2[0, s, k], chosen.slice_again_mm2[0, s, k]) < limits.slice_mm2:
        return []
    if reason:
        return [f"unusual shape: {structure} {reason}"]
    if usual is not None and pDC < min(usual.th_low, limits.slice_dice):
        return [f"unusual shape: {structure} pDC {pDC:.2f}, usual from {usual.th_low:.2f}"]
    if usual is not None and pHD > max(usual.th_up, limits.slice_mm):
        return [f"unusual shape: {structure} pHD {pHD:.1f} mm, usual up to {usual.th_up:.1f} mm"]
    return []


def _agreement_of_slice(s: int, k: int, measures: Measures, usual: float | None, limits: Limits) -> list[str]:
    agreement = float(measures.slice_agreement[s, k])
    if usual is None or measures.slice_mm2[:, s, k].max() < limits.slice_mm2:
        return []
    if agreement >= min(usual, limits.slice_dice):
        return []
    return [f"candidates disagree: {STRUCTURES[k]} agreement {agreement:.2f}, usual from {usual:.2f}"]


def _structures(
    measures: Measures, chosen: Measures, predicted: Graded | None, volumes_ml: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    return {
        structure: {
            "pDC": float(chosen.stack_pDC[0, k]),
            "pHD_mm": float(chosen.stack_pHD[0, k]),
            "pHD95_mm": float(chosen.stack_HD95[0, k]),
            "agreement": float(measures.stack_agreement[k]),
            "predicted_dice": None if predicted is None else float(predicted.stack[k]),
            "lower_bound_90": None if predicted is None else float(predicted.stack_bound[k]),
            "volume_ml": float(volumes_ml[structure]),
        }
        for k, structure in enumerate(STRUCTURES)
    }


def _volumes(chosen: Measures, spacing_zyx: Sequence[float]) -> dict[str, float]:
    volumes = chosen.slice_mm2[0].sum(axis=0) * spacing_zyx[0] / 1000.0
    return dict(zip(STRUCTURES, volumes.tolist(), strict=True))


def _candidates(measures: Measures, networks: Sequence[str]) -> tuple[dict[str, Any], ...]:
    return tuple(
        {
            "network": networks[i] if i < len(networks) else f"candidate {i + 1}",
            "pDC": dict(zip(STRUCTURES, measures.stack_pDC[i].tolist(), strict=True)),
            "pHD_mm": dict(zip(STRUCTURES, measures.stack_pHD[i].tolist(), strict=True)),
        }
        for i in range(len(measures.stack_pDC))
    )


def _fences(
    used: str, asked: str, reference: Mapping[str, Fences] | None, cohort: Mapping[str, Fences] | None
) -> dict[str, Any]:
    note = "" if used == asked else "cohort fences were asked for, but none are known here"
    return {"used": used, "note": note, "reference": _table(reference), "cohort": _table(cohort)}


def _table(table: Mapping[str, Fences] | None) -> dict[str, Any] | None:
    return None if table is None else {structure: limits.to_json() for structure, limits in table.items()}

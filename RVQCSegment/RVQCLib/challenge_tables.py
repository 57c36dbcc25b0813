"""The paper's tables from the masks of a challenge's studies: Table 1 by disease, Fig. 2 by part, Fig. 3 from an ablation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from RVQCLib.challenge import DISEASES, Challenge
from RVQCLib.evaluation import compare, interval
from RVQCLib.images import read_mask
from RVQCLib.parallel import in_order
from RVQCLib.stack import VIEWS
from RVQCLib.study import StudySource

Row = dict[str, Any]
WEIGHTS = {"SA": 0.75, "LA": 0.25}
"""Of the views in AVG; with them the averages that the paper's authors printed follow from their SA and LA."""
_MEASURES = (("dice", "DC", 3), ("hd_mm", "HD (mm)", 2))


def mask_rows(masks: str | Path, challenge: Challenge, *, jobs: int = 1) -> list[Row]:
    """One row a stack that has both a mask in `masks` and a true mask: part, study, group, vendor, view, phase, measures."""
    rows: list[Row] = []
    for part in ("validation", "test"):
        sources = [source for source in getattr(challenge, part) if source.labels]
        for found in in_order(partial(_rows_of, masks=Path(masks)), sources, jobs):
            rows += [{"part": part, **row} for row in found]
    return rows


def _rows_of(source: StudySource, *, masks: Path) -> list[Row]:
    rows = []
    for truth in source.load(labels=True).labels:
        file = _mask_of(source, truth.view, truth.phase, masks)
        if file.is_file():
            head = {"study": source.name, "group": source.group, "vendor": source.vendor}
            head |= {"view": truth.view, "phase": truth.phase}
            rows.append(head | compare(read_mask(file, view=truth.view, phase=truth.phase), truth))
    return rows


def _mask_of(source: StudySource, view: str, phase: str, masks: Path) -> Path:
    return masks / source.name / f"{source.name}_{view}_{phase}.nii.gz"


def without_masks(masks: str | Path, challenge: Challenge) -> dict[str, Any]:
    """``n_studies`` that are judged and have true masks, and of which of these ``studies`` a mask is missing in `masks`."""
    judged = [source for source in challenge.judged if source.labels]
    lacking = [
        source.name
        for source in judged
        if not all(_mask_of(source, view, phase, Path(masks)).is_file() for view, phase in source.labels)
    ]
    return {"n_studies": len(judged), "studies": lacking}


def tables(rows: Sequence[Row], unseen: Sequence[str], *, seed: int) -> dict[str, Any]:
    """Table 1 and Fig. 2 of `rows` as JSON: RV Dice and HD (3-D, mm), mean, sd and the 95 % interval over patients.

    Returns
    -------
    ``{"fig2": {part: {"SA"|"LA"|"AVG": {"n", "dice", "hd_mm"}}}, "table1": {disease: {"name", "unseen", "SA"|"LA": …}}}``.
    Table 1 is that of the test part, where it has true masks, else of the validation part; ``table1_part`` says which.
    """
    parts = {part: [row for row in rows if row["part"] == part] for part in ("validation", "test")}
    shown = "test" if parts["test"] else "validation"
    groups = sorted({row["group"] for row in parts[shown]}, key=lambda g: ([*DISEASES, g].index(g), g))
    table1 = {}
    for group in groups:
        some = [row for row in parts[shown] if row["group"] == group]
        table1[group] = {"name": DISEASES.get(group, group), "unseen": group in unseen, **_by_view(some, seed)}
    fig2 = {part: _by_view(some, seed) | _average(some, seed) for part, some in parts.items() if some}
    return {"seed": seed, "fig2": fig2, "table1_part": shown, "table1": table1}


def _by_view(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    found = {}
    for view in VIEWS:
        if some := [row for row in rows if row["view"] == view]:
            patients = [row["study"] for row in some]
            measures = {m: interval([r[f"RV_{m}"] for r in some], patients, seed=seed) for m, _, _ in _MEASURES}
            found[view] = {"n": len(some), **measures}
    return found


def _average(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """AVG: every patient's weighted mean of both views; patients who lack a view are left out."""
    patients = sorted({r["study"] for r in rows if r["view"] == "SA"} & {r["study"] for r in rows if r["view"] == "LA"})
    if not patients:
        return {}

    def value(patient: str, measure: str) -> float:
        own = {v: [r[f"RV_{measure}"] for r in rows if (r["study"], r["view"]) == (patient, v)] for v in WEIGHTS}
        return sum(weight * float(np.mean(own[view])) for view, weight in WEIGHTS.items())

    measures = {m: interval([value(p, m) for p in patients], patients, seed=seed) for m, _, _ in _MEASURES}
    return {"AVG": {"n": len(patients), **measures}}


def as_markdown(found: Mapping[str, Any], ablation: Mapping[str, Any] | None) -> str:
    """The tables for people. Brackets hold 95 % bootstrap intervals over patients; n counts stacks, for AVG patients."""
    return "\n".join([*_missing(found), *_table1(found), *_fig2(found), *_fig3(ablation)])


def _missing(found: Mapping[str, Any]) -> Iterator[str]:
    lacking = found.get("without_masks", {"studies": ()})
    if names := lacking["studies"]:
        said = f"{len(names)} of {lacking['n_studies']} studies have no mask, or not all of them, which these tables leave out"
        yield f"{said}: {', '.join(names)}; studies/cohort.csv says why.\n"


def _table1(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"## Table 1: the RV by disease ({found['table1_part']} part)\n"
    yield from _head(["", *(f"{view} {name}" for view in VIEWS for _, name, _ in _MEASURES)])
    for row in found["table1"].values():
        name = row["name"] + (" (not in training)" if row["unseen"] else "")
        yield _line([name, *(cell for view in VIEWS for cell in _cells(row.get(view)))])


def _fig2(found: Mapping[str, Any]) -> Iterator[str]:
    yield "\n## Fig. 2: the RV by view and part (AVG is 0.75 SA + 0.25 LA)\n"
    yield from _head(["", *(f"{part} {name}" for part in found["fig2"] for _, name, _ in _MEASURES)])
    for view in (*VIEWS, "AVG"):
        yield _line([view, *(cell for part in found["fig2"].values() for cell in _cells(part.get(view)))])


def _fig3(ablation: Mapping[str, Any] | None) -> Iterator[str]:
    yield "\n## Fig. 3: ablation (all judged stacks; differences to the best single network of the same kind)\n"
    if ablation is None:
        yield "Not made: the judged studies have no true masks here."
        return
    yield "The rule of the slice above the base at ES is applied to the masks of every row.\n"
    yield from _head(["view", "method", "RV DC", "difference", "RV HD (mm)", "difference"])
    for view, methods in ablation["views"].items():
        for method, row in methods.items():
            cells = []
            for measure, _, digits in _MEASURES:
                own, less = row["RV"][measure], row["minus_single"]["RV"][measure]
                cells += [f"{own['mean']:.{digits}f} {_brackets(own, digits)}"]
                cells += [f"{less['mean']:+.{digits}f} {_brackets(less, digits)}"]
            yield _line([view, method, *cells])
    if ablation["note"]:
        yield f"\nNote: {ablation['note']}."


def _cells(row: Mapping[str, Any] | None) -> list[str]:
    if row is None:
        return ["–"] * len(_MEASURES)
    words = []
    for measure, _, digits in _MEASURES:
        own = row[measure]
        words.append(f"{own['mean']:.{digits}f} ± {own['sd']:.{digits}f} {_brackets(own, digits)}, n {row['n']}")
    return words


def _brackets(own: Mapping[str, float], digits: int) -> str:
    return f"[{own['low']:.{digits}f}, {own['high']:.{digits}f}]"


def _head(names: Sequence[str]) -> list[str]:
    return [_line(names), "|" + "---|" * len(names)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"

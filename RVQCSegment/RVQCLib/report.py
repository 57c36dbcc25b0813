"""Pages to read: one self-contained HTML file for a study, one for an evaluation against true masks.

A page holds no script and loads nothing: images are inline PNG, outlines and charts inline SVG, switches plain CSS.
It is made from what is on disk (the JSON, the images, the masks), without torch, and holds no date of its own, so the
same input gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from RVQCLib import charts, drawing
from RVQCLib.function import Quantity, quantities
from RVQCLib.overall import stack_reasons, stack_verdict, worst
from RVQCLib.study import LABELS, STRUCTURES, Stack

MARGIN_MM, LEAST_SIDE_MM, MOST_PIXELS = 14.0, 90.0, 192
NOT_PROVENANCE = {
    "study",
    "stacks",
    "checks",
    "cine",
    "outputs",
    "structures",
    "groups",
    "not_new",
    "qc",
    "n_stacks",
    "n_studies",
    "title",
}


def study_page(result: Mapping[str, Any], stacks: Sequence[tuple[Stack, Stack, Stack]]) -> str:
    """The page of one study.

    Parameters
    ----------
    result : Mapping
        What ``quality.json`` holds: study, bundle, device and, per stack, the judgement.
    stacks : sequence of (image, mask, reconstruction)
        One triple for every stack of `result`, in any order, matched by view and phase. All three of a triple have the
        shape (slices, rows, columns) of the native image.

    Returns
    -------
    str
        One HTML document.

    Raises
    ------
    ValueError
        A stack of `result` has no triple, or the shapes of a triple differ.
    """
    triples = {(image.view, image.phase): (image, mask, again) for image, mask, again in stacks}
    missing = [f"{j['view']} {j['phase']}" for j in result["stacks"] if (j["view"], j["phase"]) not in triples]
    if missing:
        raise ValueError(f"The report of {result['study']} lacks the images of {', '.join(missing)}; pass them.")
    checks = result.get("checks") or ()
    alone = [_stack(judgement, *triples[judgement["view"], judgement["phase"]]) for judgement in result["stacks"]]
    judged = [{**s, "verdict": stack_verdict(s, checks), "reasons": stack_reasons(s, checks)} for s in alone]
    return render(
        "study.html",
        study=result["study"],
        verdict=worst(stack["verdict"] for stack in judged) or "look",
        checks=[*frames_in_words(result.get("cine") or ()), *checks],
        stacks=judged,
        function=_function(judged),
        provenance=list(origin(result)),
    )


def evaluation_page(
    summary: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    *,
    qc_rows: Sequence[Mapping[str, Any]] | None = None,
    pictures: Sequence[tuple[str, str]] = (),
) -> str:
    """The page of ``rvqc evaluate``: tables by group, box plots, worst stacks, and how good the QC itself is.

    Parameters
    ----------
    summary : Mapping
        What ``summary.json`` holds. With ``qc`` the page judges the QC.
    rows : sequence of Mapping
        One a stack: study, group, view, phase, and per structure ``RV_dice``, ``RV_hd_mm``, ``RV_hd95_mm``; for the
        curves of the QC also ``RV_predicted_dice``, ``RV_pDC``, ``RV_pHD_mm``, ``RV_agreement``. None, NaN or no key:
        the stack is left out of that number.
    qc_rows : sequence of Mapping
        Rows for the curves of the QC where they are others than `rows`: the stacks under image shifts too.
    pictures : sequence of (str, str)
        Of the worst stacks: what each is called, and its ``data:`` address.

    Returns
    -------
    str
        One HTML document.
    """
    by_dice = sorted((row for row in rows if charts.finite(row.get("RV_dice"))), key=lambda row: row["RV_dice"])
    metrics = [(s, m) for s in STRUCTURES for m in ("dice", "hd_mm") if _has(rows, f"{s}_{m}")]
    qc_rows = rows if qc_rows is None else qc_rows
    return render(
        "evaluation.html",
        title=summary.get("title") or "Evaluation against true masks",
        summary=summary,
        n_stacks=summary.get("n_stacks", len(rows)),
        n_studies=len({row["study"] for row in rows}),
        tables=[_group_table(rows, view) for view in charts.distinct(rows, "view")],
        boxes=[charts.box_chart(rows, structure, metric) for structure, metric in metrics],
        worst=by_dice[:10],
        pictures=pictures,
        qc=list(_qc(summary["qc"], qc_rows)) if summary.get("qc") else [],
        provenance=list(origin(summary)),
    )


def _qc(said: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """What is said of the QC and its charts, of each view where there are two."""
    for view, found in said.get("by_view", {"": said}).items():
        some = [row for row in rows if row["view"] == view] if view else rows
        yield {"view": view, "said": found, "charts": [charts.qc_charts(some, structure) for structure in STRUCTURES]}


def render(template: str, **values: Any) -> str:
    """The page that a file of ``templates`` makes of `values`, which are escaped."""
    return _templates().get_template(template).render(**values)


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.globals.update(STRUCTURES=STRUCTURES, finite=charts.finite, GOOD_DICE=charts.GOOD_DICE)
    return environment


def _number(value: Any, digits: int = 2, unit: str = "") -> str:
    """`value` with fixed decimals and its unit behind a no-break space; a dash when there is none."""
    return f"{value:.{digits}f}{chr(160) + unit if unit else ''}" if charts.finite(value) else "\N{EN DASH}"


def frames_in_words(cines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which frames of the cines of a ``quality.json`` were taken, counted from 1."""
    return [
        f"{c['view']}: frame {c['ed'] + 1} of the cine is ED, frame {c['es'] + 1} is ES{', as given' if c.get('given') else ''}"
        for c in cines
    ]


def origin(content: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """What `content` says of its origin, as (words, text), nested keys joined by a middle dot."""
    for key, value in content.items():
        name = f"{path} \N{MIDDLE DOT} {key}" if path else str(key)
        if not path and key in NOT_PROVENANCE:
            continue
        if isinstance(value, Mapping):
            yield from origin(value, name)
        elif value not in (None, "", [], ()):
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            yield name.replace("_", " "), text


# ---- a study


def _stack(judgement: Mapping[str, Any], image: Stack, mask: Stack, again: Stack) -> dict[str, Any]:
    """One stack's judgement with its tiles."""
    if not image.pixels.shape == mask.pixels.shape == again.pixels.shape:
        raise ValueError(f"The image, mask and reconstruction of {image.view} {image.phase} differ in shape.")
    fences = judgement.get("fences") or {}
    side, tiles = _tiles(image, mask.pixels, again.pixels, judgement.get("slices") or ())
    return {
        **judgement,
        "verdict": judgement.get("verdict") or ("ood" if judgement.get("ood") else "trusted"),
        "reasons": list(judgement.get("reasons") or ()),
        "selected": list(judgement.get("selected") or ()),
        "structures": judgement.get("structures") or {},
        "candidates": list(judgement.get("candidates") or ()),
        "fences": fences,
        "fence": fences.get(fences.get("used")) or {},
        "side": side,
        "tiles": tiles,
        "flagged": [tile["number"] for tile in tiles if tile["state"] == "look"],
        "empty": [name for name in STRUCTURES if not (mask.pixels == LABELS[name]).any()],
    }


def _tiles(
    image: Stack, mask: np.ndarray, again: np.ndarray, slices: Sequence[Mapping[str, Any]]
) -> tuple[float, list[dict[str, Any]]]:
    """Side in mm of the square that every tile shows, and one tile a slice."""
    flips = upright(image.geometry.direction)
    pixels, mask, again = (np.flip(array, flips) for array in (image.pixels, mask, again))
    height, width = image.geometry.spacing_zyx[1:]
    rows, columns, side = window((mask > 0) | (again > 0), height, width)
    shrunk, block = _shrink(pixels[:, rows, columns])
    grey = drawing.to_grey(shrunk)
    mask, again = mask[:, rows, columns], again[:, rows, columns]
    judged = {entry["index"]: entry for entry in slices}
    frame = {
        "width": round(grey.shape[2] * block * width, 2),
        "height": round(grey.shape[1] * block * height, 2),
        "scale": f"{width / 2:.5g} {height / 2:.5g}",
    }
    return side, [{**frame, **_tile(grey[i], mask[i], again[i], judged.get(i, {}), i)} for i in range(len(mask))]


def _tile(grey: np.ndarray, mask: np.ndarray, again: np.ndarray, judged: Mapping, index: int) -> dict[str, Any]:
    present = [name for name in STRUCTURES if ((mask == LABELS[name]) | (again == LABELS[name])).any()]
    return {
        **judged,
        "number": index + 1,
        "position": judged.get("position") or "",
        "state": "look" if judged.get("flag") else "ok" if present else "outside",
        "reasons": list(judged.get("reasons") or ()),
        "structures": judged.get("structures") or {},
        "present": present,
        "picture": drawing.data_uri(grey),
        "mask": borders(mask),
        "again": "".join(borders(again).values()),
        "difference": drawing.outline(mask != again),
    }


def borders(labels: np.ndarray) -> dict[str, str]:
    """Outlines as a reader contours: the two cavities, and for the myocardium its outer border."""
    wall = np.isin(labels, (LABELS["MYO"], LABELS["LV"])) if (labels == LABELS["MYO"]).any() else np.zeros_like(labels)
    return {
        "MYO": drawing.outline(wall),
        "LV": drawing.outline(labels == LABELS["LV"]),
        "RV": drawing.outline(labels == LABELS["RV"]),
    }


def upright(direction: Sequence[float]) -> tuple[int, ...]:
    """Array axes to flip so that right and down on the screen run toward the patient's left, back or feet."""
    axes = np.asarray(direction, float).reshape(3, 3).T  # x, y, z index axes in LPS
    flips = []
    for array_axis, vector in ((1, axes[1]), (2, axes[0])):
        main = int(np.argmax(np.abs(vector)))
        if (vector[main] < 0) != (main == 2):
            flips.append(array_axis)
    return tuple(flips)


def window(heart: np.ndarray, height: float, width: float) -> tuple[slice, slice, float]:
    """Rows and columns around `heart` (slices, rows, columns) with a margin, and the side in mm of their square."""
    seen = heart.any(axis=0)
    if not seen.any():
        return slice(None), slice(None), round(max(seen.shape[0] * height, seen.shape[1] * width), 2)
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    extent = max((np.ptp(rows) + 1) * height, (np.ptp(columns) + 1) * width)
    side = max(extent + 2 * MARGIN_MM, LEAST_SIDE_MM)

    def cut(ends: np.ndarray, spacing: float, size: int) -> slice:
        middle, half = (ends[0] + ends[-1] + 1) / 2, side / spacing / 2
        return slice(max(0, round(middle - half)), min(size, round(middle + half)))

    return cut(rows, height, seen.shape[0]), cut(columns, width, seen.shape[1]), round(float(side), 2)


def _shrink(pixels: np.ndarray) -> tuple[np.ndarray, int]:
    """Average square blocks until a slice has at most MOST_PIXELS on a side; with it, the block's side in pixels."""
    block = math.ceil(max(pixels.shape[1:]) / MOST_PIXELS)
    if block == 1:
        return pixels, 1
    padded = np.pad(pixels, [(0, 0)] + [(0, -size % block) for size in pixels.shape[1:]], mode="edge")
    slices, rows, columns = padded.shape
    return padded.reshape(slices, rows // block, block, columns // block, block).mean(axis=(2, 4)), block


def _function(stacks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Volumes, ejection fraction and myocardial mass from the stacks of SA, each with its worst verdict."""
    phases = {s["phase"]: s for s in stacks if s["view"] == "SA" and len(s["tiles"]) > 1}
    if not phases:
        return []
    found = quantities({phase: {s: _volume(stack, s) for s in STRUCTURES} for phase, stack in phases.items()})

    def entry(quantity: Quantity) -> dict[str, Any]:
        verdict = worst(phases[phase]["verdict"] for phase in quantity.phases if phase in phases)
        return {**asdict(quantity), "verdict": verdict, "missing": quantity.missing}

    lines: list[dict[str, Any]] = [
        {"structure": structure, "quantities": [entry(q) for q in found if q.structure == structure]}
        for structure in ("RV", "LV")
    ]
    if found[-1].amount is not None:
        lines[1]["mass"] = entry(found[-1])
    return lines


def _volume(stack: Mapping[str, Any], structure: str) -> float | None:
    volume = stack["structures"].get(structure, {}).get("volume_ml")
    return volume if charts.finite(volume) else None


# ---- an evaluation


def _has(rows: Sequence[Mapping[str, Any]], key: str) -> bool:
    return any(charts.finite(row.get(key)) for row in rows)


def _spread(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, float | int | None]:
    """Mean and sample standard deviation of a column."""
    values = [row[key] for row in rows if charts.finite(row.get(key))]
    return {
        "n": len(values),
        "mean": float(np.mean(values)) if values else None,
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }


def _group_table(rows: Sequence[Mapping[str, Any]], view: str) -> dict[str, Any]:
    """The paper's Table 1 for one view: per structure, a line a group and one for all."""
    rows = [row for row in rows if row["view"] == view]
    phases = charts.distinct(rows, "phase")
    groups = [
        (group or "(no group)", [row for row in rows if (row.get("group") or "") == group])
        for group in charts.distinct(rows, "group")
    ]
    if len(groups) > 1:
        groups.append(("All", rows))

    def line(name: str, members: list, structure: str) -> dict[str, Any]:
        cells = []
        for phase in phases:
            part = [row for row in members if row["phase"] == phase]
            cells.append({metric: _spread(part, f"{structure}_{metric}") for metric in ("dice", "hd_mm", "hd95_mm")})
        return {"group": name, "cells": cells}

    tables = [
        {"structure": s, "lines": [line(*group, s) for group in groups]} for s in STRUCTURES if _has(rows, f"{s}_dice")
    ]
    return {"view": view, "phases": phases, "tables": tables}

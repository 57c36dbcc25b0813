"""Tables and plots of a run or a batch as nodes of the scene, for Slicer's own tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import slicer
import vtk

from RVQCRefineLib.progress import Point, by_candidate
from RVQCRefineLib.rows import Row

OWNER = "RVQC.Refine"
"""Attribute of the nodes that are made here: what they show, so that a later call finds and refills them."""
_MEASURES = (
    ("RV_predicted_dice", "predicted Dice", ""),
    ("RV_pDC", "pDC", "th_low"),
    ("RV_pHD_mm", "pHD in mm", "th_up"),
)
"""Columns of the chosen masks' measures, in words, and the fence that each is judged by."""


def epochs_to_scene(name: str, points: Sequence[Point]) -> list[slicer.vtkMRMLPlotChartNode]:
    """A table of all epochs of run `name`, and charts of the flagged stacks and of the guard, a series a candidate."""
    found = by_candidate(points)
    most = max((point.epoch for point in points), default=0)
    columns: dict[str, list[Any]] = {"epoch": [float(epoch) for epoch in range(most + 1)]}
    for candidate, own in found.items():
        by_epoch = {point.epoch: point for point in own}
        chosen = [by_epoch.get(epoch) for epoch in range(most + 1)]
        columns[f"{candidate} flagged"] = [float(p.flagged) if p else float("nan") for p in chosen]
        columns[f"{candidate} guard"] = [float("nan") if p is None or p.guard is None else p.guard for p in chosen]
    table = _table(f"{name} epochs", columns)
    charts = []
    for ending, title in (("flagged", "Flagged stacks"), ("guard", "Guard Dice")):
        series = [_series(f"{c} {ending}", table, "epoch", f"{c} {ending}", line=True) for c in found]
        charts.append(_chart(f"{name} {title.lower()}", f"{title} by epoch", "epoch", title, series))
    return charts


def review_to_scene(name: str, rows: Sequence[Row]) -> slicer.vtkMRMLPlotChartNode:
    """A table of all stacks of run `name` as they are reviewed, and a chart of the predicted Dice before and after."""

    def measure(judged: Any) -> float:
        return float("nan") if judged is None or judged.predicted is None else judged.predicted

    columns: dict[str, list[Any]] = {
        **{key: [getattr(row, key) for row in rows] for key in ("study", "view", "phase")},
        "verdict before": [row.before.verdict if row.before else "" for row in rows],
        "verdict after": [row.after.verdict if row.after else "" for row in rows],
        "predicted Dice before": [measure(row.before) for row in rows],
        "predicted Dice after": [measure(row.after) for row in rows],
        "flagged slices before": [float(row.before.doubted) if row.before else float("nan") for row in rows],
        "flagged slices after": [float(row.after.doubted) if row.after else float("nan") for row in rows],
        "proposal": [row.proposal for row in rows],
        "decision": [row.decision for row in rows],
    }
    table = _table(f"{name} review", columns)
    both = _series(f"{name} RV", table, "predicted Dice before", "predicted Dice after", line=False)
    return _chart(f"{name} predicted Dice", "Predicted Dice of the RV", "before", "after", [both])


def cohort_to_scene(out: str | Path) -> list[slicer.vtkMRMLPlotChartNode]:
    """The ``cohort.csv`` of a batch as a table, and a chart of each measure of the RV over the stacks, worst first.

    The fences of ``run.json`` are lines in the charts of pDC and pHD, by view and phase: those of the bundle (reference)
    solid, those of the cohort dashed.

    Raises
    ------
    RVQCError
        There is no table, or a file cannot be read.
    """
    from RVQCLib.cohort_table import read_table

    rows, name = read_table(out), Path(out).resolve().name
    fences = _fences(Path(out))
    columns = {"place": [float(place) for place in range(1, len(rows) + 1)]}
    columns |= {key: _column([row[key] for row in rows]) for key in (rows[0] if rows else ())}
    table = _table(f"{name} cohort", columns)
    charts = []
    for key, words, limit in _MEASURES:
        if any(row.get(key) is not None for row in rows):
            series = [_series(f"{name} {key}", table, "place", key, line=False)]
            series += _fence_lines(
                name, words, {title: found[limit] for title, found in fences.items() if limit}, len(rows)
            )
            charts.append(_chart(f"{name} {words}", f"RV: {words}", "stack, worst first", words, series))
    return charts


def _fences(out: Path) -> dict[str, Mapping[str, float]]:
    """The fences of the RV in ``run.json`` by what they are of, such as "SA ED reference"; none where there is no such file."""
    from RVQCLib.files import read_json
    from RVQCLib.manifest import RUN

    told = read_json(out / RUN).get("fences", {}) if (out / RUN).is_file() else {}
    lines = {}
    for stack, tables in told.items():
        # The second networks of a refined bundle have fences of their own; an earlier RVQC named the first table alone.
        references = tables.get("references", [tables["reference"]])
        named = [(f"reference {n}" if n > 1 else "reference", table) for n, table in enumerate(references, start=1)]
        known = {kind: table for kind, table in (*named, ("cohort", tables["cohort"])) if table}
        lines |= {f"{stack.replace('_', ' ')} {kind}": table["RV"] for kind, table in known.items()}
    return lines


def _fence_lines(name: str, words: str, fences: Mapping[str, float], stacks: int) -> list[slicer.vtkMRMLPlotSeriesNode]:
    """A level line a fence, from before the first stack to behind the last."""
    if not fences:
        return []
    levels = {title: [value, value] for title, value in fences.items()}
    table = _table(f"{name} fences of {words}", {"place": [0.0, stacks + 1.0], **levels})
    lines = []
    for title in fences:
        line = _series(f"{name} {title} fence of {words}", table, "place", title, line=True)
        line.SetMarkerStyle(line.MarkerStyleNone)
        line.SetLineStyle(line.LineStyleDash if title.endswith("cohort") else line.LineStyleSolid)
        lines.append(line)
    return lines


def show_chart(chart: slicer.vtkMRMLPlotChartNode) -> None:
    """Bring a chart up in Slicer's plot view.

    Raises
    ------
    RVQCError
        The application has no plot view; the layout is as before, and the chart is in the scene all the same.
    """
    from RVQCLib.files import RVQCError

    manager = slicer.app.layoutManager()
    before = manager.layout
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalPlotView)
    if manager.plotViewCount == 0:
        manager.setLayout(before)
        raise RVQCError(
            f"There is no plot view here; the table and the chart {chart.GetName()} are in the scene, see the modules Tables and "
            "Plots."
        )
    logic = slicer.app.applicationLogic()
    logic.GetSelectionNode().SetActivePlotChartID(chart.GetID())
    logic.PropagatePlotChartSelection()


def _column(values: Sequence[Any]) -> list[Any]:
    """Values as floats where all that are there are floats, else as text."""
    if any(isinstance(v, float) for v in values) and all(v is None or isinstance(v, float) for v in values):
        return [float("nan") if value is None else value for value in values]
    return ["" if value is None else str(value) for value in values]


def _table(name: str, columns: Mapping[str, Sequence[Any]]) -> slicer.vtkMRMLTableNode:
    node = _node("vtkMRMLTableNode", name)
    changing = node.StartModify()
    node.RemoveAllColumns()
    for title, values in columns.items():
        number = bool(values) and isinstance(values[0], float)
        array = vtk.vtkDoubleArray() if number else vtk.vtkStringArray()
        array.SetName(title)
        for value in values:
            array.InsertNextValue(value)
        node.AddColumn(array)
    node.EndModify(changing)
    return node


def _series(name: str, table: slicer.vtkMRMLTableNode, x: str, y: str, *, line: bool) -> slicer.vtkMRMLPlotSeriesNode:
    node = _node("vtkMRMLPlotSeriesNode", name)
    node.SetAndObserveTableNodeID(table.GetID())
    node.SetXColumnName(x)
    node.SetYColumnName(y)
    node.SetPlotType(node.PlotTypeScatter)
    node.SetLineStyle(node.LineStyleSolid if line else node.LineStyleNone)
    node.SetMarkerStyle(node.MarkerStyleCircle)
    node.SetUniqueColor()
    return node


def _chart(
    name: str, title: str, x: str, y: str, series: Sequence[slicer.vtkMRMLPlotSeriesNode]
) -> slicer.vtkMRMLPlotChartNode:
    node = _node("vtkMRMLPlotChartNode", name)
    node.SetTitle(title)
    node.SetXAxisTitle(x)
    node.SetYAxisTitle(y)
    node.RemoveAllPlotSeriesNodeIDs()
    for one in series:
        node.AddAndObservePlotSeriesNodeID(one.GetID())
    return node


def _node(kind: str, name: str) -> slicer.vtkMRMLNode:
    """The node of this kind that was made here under `name` before, else a new one."""
    for node in slicer.util.getNodesByClass(kind):
        if node.GetAttribute(OWNER) == name:
            return node
    node = slicer.mrmlScene.AddNewNodeByClass(kind, name)
    node.SetAttribute(OWNER, name)
    return node

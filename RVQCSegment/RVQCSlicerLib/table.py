"""The numbers: view x phase x structure, each with what was predicted and measured of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt

from RVQCSlicerLib.results import Result
from RVQCSlicerLib.segments import STRUCTURES
from RVQCSlicerLib.words import number, short

COLUMNS = {
    "Stack": "View and phase",
    "Of": "Of which structure the numbers are",
    "pred. Dice": "Predicted Dice: how well the mask probably fits (1 is perfect)",
    "at least": "With 90 % confidence the Dice is at least this",
    "pDC": "Dice of the mask and its reconstruction; ↓ below the fence of the reference studies",
    "pHD": "Hausdorff distance in mm of the mask and its reconstruction; ↑ above the fence",
    "agree": "Mean mutual Dice of the candidates",
    "taken": 'Which candidate was selected, and its network; "mean" is the candidates\' consensus',
}


class QualityTable:
    """A table whose rows bring up their stack. `row_chosen` is called with the stack's key."""

    def __init__(self, row_chosen: Callable[[str], None]) -> None:
        self._row_chosen = row_chosen
        self._keys: list[str] = []
        self.widget = qt.QTableWidget()
        self.widget.objectName = "RVQCQualityTable"
        self.widget.setColumnCount(len(COLUMNS))
        self.widget.setHorizontalHeaderLabels(list(COLUMNS))
        for column, words in enumerate(COLUMNS.values()):
            self.widget.horizontalHeaderItem(column).setToolTip(words)
        self.widget.verticalHeader().visible = False
        self.widget.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        self.widget.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        self.widget.setSelectionMode(qt.QAbstractItemView.SingleSelection)
        self.widget.connect("cellClicked(int,int)", self._on_clicked)

    def show(self, result: Result | None) -> None:
        """Fill the table from a result, or empty it."""
        rows = [
            (key, structure.key, stack)
            for key, stack in (result.stacks if result else {}).items()
            for structure in STRUCTURES
        ]
        self._keys = [key for key, _, _ in rows]
        self.widget.setRowCount(len(rows))
        for row, (key, structure, stack) in enumerate(rows):
            for column, text in enumerate(_cells(key, structure, stack)):
                self.widget.setItem(row, column, qt.QTableWidgetItem(text))
        self.widget.resizeColumnsToContents()
        fit_height(self.widget)

    def _on_clicked(self, row: int, column: int) -> None:
        self._row_chosen(self._keys[row])


def fit_height(table: qt.QTableWidget) -> None:
    """Make a table as high as its rows, so that it needs no scroll bar of its own."""
    table.resizeRowsToContents()
    frame = 2 * table.frameWidth
    header = max(table.horizontalHeader().height, table.verticalHeader().defaultSectionSize)  # 0 before it is shown
    table.setFixedHeight(header + table.verticalHeader().length() + frame + 2)


def _cells(key: str, structure: str, stack: dict[str, Any]) -> list[str]:
    said = stack["structures"][structure]
    fences = stack.get("fences") or {}
    fence = (fences.get(fences.get("used")) or {}).get(structure) or {}
    low = "th_low" in fence and said["pDC"] < fence["th_low"]
    high = "th_up" in fence and said["pHD_mm"] > fence["th_up"]
    return [
        short(key),
        structure,
        number(said["predicted_dice"]),
        number(said["lower_bound_90"]),
        number(said["pDC"]) + (" ↓" if low else ""),
        number(said["pHD_mm"], 1) + (" ↑" if high else ""),
        number(said["agreement"]),
        " + ".join(f"{index + 1} {stack['candidates'][index]['network']}" for index in stack["selected"]),
    ]

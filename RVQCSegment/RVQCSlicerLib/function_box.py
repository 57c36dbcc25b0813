"""Volumes, ejection fraction and mass of what was accepted, with the QC state beside every number."""

from __future__ import annotations

import qt

from RVQCLib.function import Quantity
from RVQCSlicerLib.table import fit_height
from RVQCSlicerLib.words import NOT_JUDGED, VERDICTS, number

COLUMNS = ("Accepted masks", "RV", "LV", "Myocardium")
NOT_OF_QC = "The accepted mask is another than QC judged: somebody edited it, or it is another candidate's."
_OF = {"RV": 1, "LV": 2, "MYO": 3}


class FunctionBox:
    """A small table; a number never stands without the state of the masks that it was measured in."""

    def __init__(self) -> None:
        self.widget = qt.QTableWidget()
        self.widget.objectName = "RVQCFunctionTable"
        self.widget.setColumnCount(len(COLUMNS))
        self.widget.setHorizontalHeaderLabels(list(COLUMNS))
        self.widget.verticalHeader().visible = False
        self.widget.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
        self.widget.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)

    def show(self, found: list[tuple[Quantity, str, str]]) -> None:
        """Show quantities with the verdict and the state of their masks; of nothing, the table is not there."""
        names = list(dict.fromkeys(quantity.name for quantity, _, _ in found))
        self.widget.visible = bool(found)
        self.widget.setRowCount(len(names))
        for row, name in enumerate(names):
            self.widget.setItem(row, 0, qt.QTableWidgetItem(name))
        for quantity, verdict, state in found:
            item = qt.QTableWidgetItem(_text(quantity, verdict, state))
            if state and not verdict:
                item.setToolTip(NOT_OF_QC)
            self.widget.setItem(names.index(quantity.name), _OF[quantity.structure], item)
        fit_height(self.widget)


def _text(quantity: Quantity, verdict: str, state: str) -> str:
    if quantity.amount is None:
        return f"{number(None)} {quantity.missing}"
    how = VERDICTS.get(verdict, NOT_JUDGED)
    return f"{number(quantity.amount, 0, quantity.unit)}\n{how.sign} {how.title.lower()}, {state}"

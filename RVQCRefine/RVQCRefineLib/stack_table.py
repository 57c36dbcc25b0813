"""The table of step 4: a row a stack, before beside after, worst first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import qt

from RVQCRefineLib.rows import Judged, Row
from RVQCSlicerLib.looks import color_cell
from RVQCSlicerLib.words import NOT_JUDGED, VERDICTS, Verdict, number

COLUMNS = {
    "Study": "The study's name",
    "Stack": "View and phase",
    "Before": "What the QC says of the mask of the old bundle",
    "After": "What the QC says of the mask of the new bundle",
    "Dice before": "Predicted Dice of the RV before, with its 90 % lower bound",
    "Dice after": "Predicted Dice of the RV after, with its 90 % lower bound",
    "Flagged slices": "Before and after, of all; every slice where the mask failed as a whole, as one without an RV did",
    "RVQC proposes": "Whether the new mask is to replace the old one, by its predicted Dice, shape and agreement",
    "Decision": "What was decided, and by whom",
}
EDITED = "Somebody changed this mask; verdict and numbers are of the mask that RVQC wrote."
SHOWN = {
    "All stacks": lambda row: True,
    "Undecided": lambda row: not row.decision,
    "Flagged before": lambda row: row.before is not None and row.before.verdict != "trusted",
}


class StackTable:
    """A table with several rows selected at once. `chosen` is called when the selection has changed."""

    def __init__(self, chosen: Callable[[], None]) -> None:
        self.rows: list[Row] = []
        self._chosen, self._filling = chosen, False
        self.widget = qt.QTableWidget()
        self.widget.objectName = "RVQCReviewTable"
        self.widget.setColumnCount(len(COLUMNS))
        self.widget.setHorizontalHeaderLabels(list(COLUMNS))
        for column, words in enumerate(COLUMNS.values()):
            self.widget.horizontalHeaderItem(column).setToolTip(words)
        self.widget.verticalHeader().visible = False
        self.widget.horizontalHeader().stretchLastSection = True
        self.widget.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        self.widget.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        self.widget.setSelectionMode(qt.QAbstractItemView.ExtendedSelection)
        self.widget.connect("itemSelectionChanged()", self._on_selection)
        self.filter = qt.QComboBox()
        self.filter.objectName = "RVQCReviewFilter"
        for words in SHOWN:
            self.filter.addItem(words)
        self.filter.connect("currentIndexChanged(int)", lambda index: self._on_filter())

    def show(self, rows: Sequence[Row]) -> None:
        """Fill the table."""
        self._filling, self.rows = True, list(rows)
        self.widget.clearSelection()
        self.widget.setRowCount(len(self.rows))
        for place in range(len(self.rows)):
            self._fill(place)
        self.widget.resizeColumnsToContents()
        self._filling = False
        self._hide()
        self.choose(next((place for place in range(len(self.rows)) if not self.widget.isRowHidden(place)), -1))

    def update(self, place: int, row: Row) -> None:
        """Show a row that has changed."""
        self.rows[place] = row
        self._fill(place)

    @property
    def places(self) -> list[int]:
        """Which of the rows that can be seen are selected."""
        rows = sorted(index.row() for index in self.widget.selectionModel().selectedRows())
        return [row for row in rows if not self.widget.isRowHidden(row)]

    def choose(self, place: int) -> None:
        """Select one row; -1 for none."""
        self.widget.clearSelection()
        if place >= 0:
            self.widget.selectRow(place)

    def choose_next(self, place: int) -> None:
        """Select the next row after `place` that is undecided, from the top when there is none; else stay."""
        order = [*range(place + 1, len(self.rows)), *range(place + 1)]
        open_ = [k for k in order if not self.rows[k].decision and not self.widget.isRowHidden(k)]
        if open_:
            self.choose(open_[0])

    def _hide(self) -> None:
        wanted = SHOWN[self.filter.currentText]
        for place, row in enumerate(self.rows):
            self.widget.setRowHidden(place, not wanted(row))

    def _fill(self, place: int) -> None:
        row = self.rows[place]
        for column, (text, verdict, tip) in enumerate(_cells(row)):
            item = qt.QTableWidgetItem(text)
            item.setToolTip(tip or text)
            if verdict is not None:
                color_cell(item, verdict)
            self.widget.setItem(place, column, item)

    def _on_filter(self) -> None:
        self._hide()
        self._chosen()

    def _on_selection(self) -> None:
        if not self._filling:
            self._chosen()


def _cells(row: Row) -> list[tuple[str, Verdict | None, str]]:
    """Text, the verdict in whose colours it is, and tool tip of every column."""
    flags = [f"{judged.doubted}" if judged else "–" for judged in (row.before, row.after)]
    proposal = "" if not row.proposal else "the new mask" if row.proposed else "the old mask"
    decision = f"{row.decision} by {row.review.reviewer}" if row.review else "not decided"
    return [
        (row.study, None, ""),
        (f"{row.view} {row.phase}", None, ""),
        _verdict(row.before),
        _verdict(row.after),
        (_dice(row.before), None, ""),
        (_dice(row.after), None, ""),
        (f"{' → '.join(flags)} of {row.n_slices}", None, _failures(row)),
        (proposal, None, row.proposal),
        (decision, None, row.review.note if row.review else ""),
    ]


def _verdict(judged: Judged | None) -> tuple[str, Verdict | None, str]:
    if judged is None:
        return "–", None, "not segmented yet"
    verdict = VERDICTS.get(judged.verdict, NOT_JUDGED)
    title, reasons = f"{verdict.sign} {verdict.title}", judged.reasons
    if judged.edited:
        title, reasons = f"{title}, edited since", [EDITED, *reasons]
    return title, verdict, "\n".join(reasons)


def _failures(row: Row) -> str:
    """What failed as a whole, before and after."""
    told = (("Before", row.before), ("After", row.after))
    return "\n".join(f"{words}: {judged.failed}" for words, judged in told if judged and judged.failed)


def _dice(judged: Judged | None) -> str:
    if judged is None or judged.predicted is None:
        return "–"
    return f"{number(judged.predicted)} (≥ {number(judged.at_least)})"

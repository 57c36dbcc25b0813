"""The slices of one stack as tiles, those from before above those from after; a click goes to the slice."""

from __future__ import annotations

from collections.abc import Callable

import qt

from RVQCRefineLib.rows import Judged, Row
from RVQCSlicerLib.words import VERDICTS

_STATES = {True: VERDICTS["look"], False: VERDICTS["trusted"]}


class FlagStrips:
    """Two rows of tiles. `slice_chosen` is called with the index of a slice that was clicked."""

    def __init__(self, slice_chosen: Callable[[int], None]) -> None:
        self._slice_chosen = slice_chosen
        self.widget = qt.QWidget()
        self._grid = qt.QGridLayout(self.widget)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setSpacing(3)
        self.tiles: dict[str, list[qt.QPushButton]] = {"before": [], "after": []}
        self._parts: list[qt.QWidget] = []
        self._room = 0

    def show(self, row: Row | None) -> None:
        """Show the slices of a stack; None for no stack."""
        for part in self._parts:
            part.hide()
            part.deleteLater()
        self._parts, self.tiles = [], {"before": [], "after": []}
        self._grid.setColumnStretch(self._room, 0)  # where a shorter stack ended, a longer one has a tile
        self._room = row.n_slices + 1 if row is not None else 0
        self._grid.setColumnStretch(self._room, 1)
        for line, (moment, words) in enumerate((("before", "Before"), ("after", "After"))):
            judged = getattr(row, moment) if row is not None else None
            if judged is not None:
                self._line(line, moment, words, judged)

    def mark(self, index: int) -> None:
        """Show that a slice is in view."""
        for tiles in self.tiles.values():
            for place, tile in enumerate(tiles):
                tile.checked = place == index

    def _line(self, line: int, moment: str, words: str, judged: Judged) -> None:
        label = qt.QLabel(words)
        label.setMinimumWidth(46)
        self._place(label, line, 0)
        for index in range(len(judged.stack["slices"])):
            doubt = judged.doubt(index)
            state = _STATES[bool(doubt)]
            tile = qt.QPushButton(f"{index + 1} {state.sign}")
            tile.objectName = f"RVQC_{moment}_{index}"
            tile.checkable = True
            tile.autoDefault = False
            tile.toolTip = f"Slice {index + 1}, {moment}: {doubt or 'nothing unusual'}"
            tile.setStyleSheet(
                f"QPushButton {{ background: {state.wash}; color: {state.ink}; border: 1px solid {state.line};"
                " border-radius: 3px; padding: 3px 5px; } QPushButton:checked { border: 3px solid #1b2530; }"
            )
            tile.connect("clicked(bool)", lambda checked=False, i=index: self._slice_chosen(i))
            self.tiles[moment].append(tile)
            self._place(tile, line, index + 1)

    def _place(self, part: qt.QWidget, line: int, column: int) -> None:
        self._grid.addWidget(part, line, column)
        part.show()
        self._parts.append(part)

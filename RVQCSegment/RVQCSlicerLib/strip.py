"""The slice strip: which stack, and one tile a slice, coloured and signed by its flag; a click goes there."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import qt

from RVQCSlicerLib.looks import hint
from RVQCSlicerLib.results import Result, slices_of
from RVQCSlicerLib.words import NOT_JUDGED, VERDICTS, Verdict, place, short

COLUMNS = 8
KEYS = "Keys: . and , go to the next and the previous flagged slice; 1, 2, 3 switch what lies over the image."
_OUTSIDE = Verdict("No heart seen", "\N{MIDDLE DOT}", "#566270", "#f5f7f9", "#c3cad2", "")


class SliceStrip:
    """Buttons for the stacks of a result and tiles for the slices of one.

    Parameters
    ----------
    stack_chosen, slice_chosen : Are called with a stack's key and a slice's index when the user clicks.
    """

    def __init__(self, stack_chosen: Callable[[str], None], slice_chosen: Callable[[int], None]) -> None:
        self._stack_chosen, self._slice_chosen = stack_chosen, slice_chosen
        self.widget = qt.QWidget()
        layout = qt.QVBoxLayout(self.widget)
        layout.setContentsMargins(0, 0, 0, 0)
        self._tabs, self._grid = qt.QHBoxLayout(), qt.QGridLayout()
        self._grid.setSpacing(3)
        self._said = qt.QLabel()
        self._said.wordWrap = True
        self._said.objectName = "RVQCSliceReasons"
        for part in (self._tabs, self._grid):
            layout.addLayout(part)
        layout.addWidget(self._said)
        keys = qt.QLabel(KEYS)
        keys.wordWrap = True
        hint(keys)
        layout.addWidget(keys)
        self.stack_buttons: dict[str, qt.QPushButton] = {}
        self.tiles: list[qt.QPushButton] = []
        self._result: Result | None = None
        self._slices: list[dict] = []
        self._current = -1

    @property
    def current(self) -> int:
        """Index of the slice that is shown, -1 for none."""
        return self._current

    @property
    def reasons(self) -> str:
        """What is said of the slice that is shown."""
        return self._said.text

    def show(self, result: Result | None, key: str) -> None:
        """Show the stacks of `result` and the slices of stack `key`."""
        _drop(self.tiles)
        if (
            result is not self._result
        ):  # else the button that was clicked would vanish, and with it the keyboard's focus
            _drop(self.stack_buttons.values())
            self._result, self.stack_buttons = result, {}
            for name in result.stacks if result else ():
                self._add_stack(name, VERDICTS.get(result.verdict(name), NOT_JUDGED))
        self.tiles, self._slices, self._current = [], [], -1
        self.widget.visible = result is not None
        if result is None:
            return
        for name, button in self.stack_buttons.items():
            button.checked = name == key
        self._slices = slices_of(result.stacks[key])
        for entry in self._slices:
            self._add_tile(entry)
        self.mark(0)

    def mark(self, index: int) -> None:
        """Show that slice `index` is the one in view, and what was said of it."""
        if not 0 <= index < len(self.tiles):
            return
        if 0 <= self._current < len(self.tiles):
            self.tiles[self._current].checked = False
        self._current = index
        self.tiles[index].checked = True
        entry = self._slices[index]
        self._said.text = f"Slice {index + 1} of {len(self._slices)}{_position(entry)}: {'; '.join(entry['reasons']) or 'nothing unusual'}"

    def next_flagged(self, step: int) -> int | None:
        """Index of the next flagged slice in direction `step` (1 or -1), around the end; None without any."""
        flagged = [entry["index"] for entry in self._slices if entry["flag"]]
        if not flagged:
            return None
        if step > 0:
            return next((index for index in flagged if index > self._current), flagged[0])
        return next((index for index in reversed(flagged) if index < self._current), flagged[-1])

    def _add_stack(self, key: str, verdict: Verdict) -> None:
        button = qt.QPushButton(f"{verdict.sign} {short(key)}")
        button.objectName = f"RVQCStack_{key}"
        button.checkable = True
        button.toolTip = f"{place(key)}: {verdict.title.lower()}"
        button.setStyleSheet(_style(verdict))
        button.connect("clicked(bool)", lambda checked=False, name=key: self._stack_chosen(name))
        self._tabs.addWidget(button)
        self.stack_buttons[key] = button

    def _add_tile(self, entry: dict) -> None:
        state = _state(entry)
        tile = qt.QPushButton(f"{entry['index'] + 1}\n{state.sign}")
        tile.objectName = f"RVQCSlice_{entry['index']}"
        tile.checkable = True
        tile.setFixedHeight(42)
        tile.minimumWidth = 26
        reasons = "\n".join(entry["reasons"]) or "nothing unusual"
        tile.toolTip = f"Slice {entry['index'] + 1}{_position(entry)}\n{reasons}"
        tile.setStyleSheet(_style(state))
        tile.connect("clicked(bool)", lambda checked=False, index=entry["index"]: self._slice_chosen(index))
        self._grid.addWidget(tile, entry["index"] // COLUMNS, entry["index"] % COLUMNS)
        self.tiles.append(tile)


def _drop(buttons: Iterable[qt.QPushButton]) -> None:
    for button in buttons:
        button.hide()
        button.deleteLater()


def _state(entry: dict) -> Verdict:
    if entry["flag"]:
        return VERDICTS["look"]
    return VERDICTS["trusted"] if entry.get("position") else _OUTSIDE


def _position(entry: dict) -> str:
    return f" ({entry['position']})" if entry.get("position") else ""


def _style(verdict: Verdict) -> str:
    return (
        f"QPushButton {{ color: {verdict.ink}; background: {verdict.wash}; border: 1px solid {verdict.line};"
        " border-radius: 4px; padding: 3px; font-weight: 600; }"
        f"QPushButton:checked {{ border: 3px solid {verdict.ink}; }}"
        f"QPushButton:focus {{ border: 3px solid {verdict.ink}; }}"
    )

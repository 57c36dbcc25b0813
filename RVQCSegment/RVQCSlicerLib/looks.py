"""How labels look that explain or warn, and buttons that matter: readable in a light and in a dark application.

By their font, or in a verdict's ink on a ground of its own: never ink alone, and never a style sheet without colours, with which
a part keeps those of the palette before when the application's style changes.
"""

from __future__ import annotations

import qt

from RVQCSlicerLib.words import Verdict

BUTTON_HEIGHT = 30


def hint(label: qt.QLabel) -> None:
    """The label explains: italics in the application's own colours."""
    font = label.font
    font.setItalic(True)
    label.setFont(font)


def warn(label: qt.QLabel, verdict: Verdict | None) -> None:
    """The label warns, in a verdict's colours; None where there is nothing to warn of."""
    label.setStyleSheet(
        f"color: {verdict.ink}; background: {verdict.wash}; border: 1px solid {verdict.line}; border-radius: 4px; padding: 3px;"
        if verdict
        else ""
    )


def strong(label: qt.QWidget, pixels: int = 0) -> None:
    """Bold, and with `pixels` so large."""
    font = label.font
    font.setBold(True)
    if pixels:
        font.setPixelSize(pixels)
    label.setFont(font)


def main_button(button: qt.QPushButton) -> None:
    """What a page is there for: bold, and a little higher than other buttons."""
    strong(button)
    button.setMinimumHeight(BUTTON_HEIGHT)


def color_cell(item: qt.QTableWidgetItem, verdict: Verdict) -> None:
    """A cell of a table that says a verdict."""
    item.setForeground(qt.QBrush(qt.QColor(verdict.ink)))
    item.setBackground(qt.QBrush(qt.QColor(verdict.wash)))

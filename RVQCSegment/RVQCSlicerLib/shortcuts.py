"""Keys that work while the panel is open, wherever the mouse is."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer


class Shortcuts:
    """Keys on the main window, there between `install` and `remove`, as Slicer's own modules do it."""

    def __init__(self, keys: dict[str, Callable[[], None]]) -> None:
        self._keys = keys
        self._installed: list[qt.QShortcut] = []

    def install(self, window: qt.QWidget | None = None) -> None:
        """Make the keys work in `window`, by default the main window."""
        self.remove()
        window = window or slicer.util.mainWindow()
        if window is None:
            return
        for keys, function in self._keys.items():
            shortcut = qt.QShortcut(window)
            shortcut.setKey(qt.QKeySequence(keys))
            shortcut.connect("activated()", function)
            self._installed.append(shortcut)

    def remove(self) -> None:
        """Give the keys back."""
        for shortcut in self._installed:
            shortcut.enabled = False  # at once; it is deleted only when the event loop comes to it
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._installed = []

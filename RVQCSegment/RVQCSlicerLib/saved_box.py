"""The way to results of an earlier run: one button, and a list where the folder holds several studies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import qt


class SavedBox:
    """`opened` is called with the folder that was chosen, `chosen` with a study's folder out of the list."""

    def __init__(self, opened: Callable[[str], None], chosen: Callable[[Path], None]) -> None:
        self._opened, self._chosen, self._folders = opened, chosen, []
        self.widget = qt.QWidget()
        row = qt.QHBoxLayout(self.widget)
        row.setContentsMargins(0, 0, 0, 0)
        self.open, self.studies = qt.QPushButton("Open results…"), qt.QComboBox()
        self.open.objectName, self.studies.objectName = "RVQCOpenResults", "RVQCSavedStudies"
        self.open.toolTip = "Results of an earlier run or batch, to review them; needs no torch and computes nothing"
        self.studies.toolTip = "The studies in this folder; choose one to open it"
        self.open.connect("clicked(bool)", self._on_open)
        self.studies.connect("activated(int)", lambda index: self._on_study(index))
        row.addWidget(self.open)
        row.addWidget(self.studies, 1)
        self.offer([])

    def offer(self, folders: list[Path]) -> None:
        """List the studies of a folder; a single one needs no list."""
        self._folders = folders
        self.studies.clear()
        self.studies.addItem(f"choose one of {len(folders)} studies …")
        for folder in folders:
            self.studies.addItem(folder.name)
        self.studies.visible = len(folders) > 1

    def _on_open(self, checked: bool = False) -> None:
        path = qt.QFileDialog.getExistingDirectory(self.widget, "Results of one study or of a batch", "")
        if path:
            self._opened(path)

    def _on_study(self, index: int) -> None:
        if 0 < index <= len(self._folders):
            self._chosen(self._folders[index - 1])

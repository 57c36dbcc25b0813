"""The main window: the module panel at the left, the slice views at the right, as in Slicer."""

from __future__ import annotations

from typing import Any, ClassVar

import slicer
from PySide6.QtCore import Property, QObject, Qt, Signal
from PySide6.QtWidgets import QComboBox, QLabel, QMainWindow, QScrollArea, QSplitter, QVBoxLayout, QWidget

from .pythonqt import strict

PANEL_WIDTH = 460


class qSlicerModuleSelectorToolBar(QObject):
    """``slicer.util.moduleSelector()``: opens modules by name."""

    moduleSelected = Signal(str)
    SIGNATURES: ClassVar = {"moduleSelected(QString)": "moduleSelected"}

    def __init__(self) -> None:
        super().__init__()
        self._selected = ""

    selectedModule = Property(str, lambda self: self._selected)

    def selectModule(self, name: str) -> None:
        if slicer.app.moduleManager().module(name) is None:
            raise RuntimeError(f"there is no module {name!r} in the host")
        self._selected = name
        self.moduleSelected.emit(name)


class qSlicerMainWindow(QMainWindow):
    """Panel and views, and the few functions that scripts call on Slicer's main window."""

    def __init__(self, layout_manager: QWidget) -> None:
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self.setWindowTitle("RVQC on the stand-in for 3D Slicer: for development, not a medical device")
        self._selector = strict(qSlicerModuleSelectorToolBar)()
        self._selector.moduleSelected.connect(self._open)
        self._current: Any = None
        self._choice = QComboBox()
        self._choice.textActivated.connect(self._selector.selectModule)
        self._area = QScrollArea()
        self._area.setWidgetResizable(True)
        self._area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        panel = QWidget()
        column = QVBoxLayout(panel)
        column.setContentsMargins(4, 4, 4, 4)
        column.addWidget(QLabel("Module:"))
        column.addWidget(self._choice)
        column.addWidget(self._area, 1)
        splitter = QSplitter()
        splitter.addWidget(panel)
        splitter.addWidget(layout_manager)
        splitter.setStretchFactor(1, 1)
        splitter.setSizes([PANEL_WIDTH, 900])
        self.setCentralWidget(splitter)
        self.statusBar()
        self.resize(1360, 860)

    def moduleSelector(self) -> Any:
        return self._selector

    def _open(self, name: str) -> None:
        if self._current is not None:
            self._current.exit()
        widget = slicer.app.moduleManager().module(name).widgetRepresentation()
        if self._area.widget() is not widget:
            self._area.takeWidget()
            self._area.setWidget(widget)
            widget.show()
        names = slicer.app.moduleManager().modulesNames()
        self._choice.clear()
        self._choice.addItems(names)
        self._choice.setCurrentText(name)
        self._current = widget
        widget.enter()

"""``slicer.app.layoutManager()``: which slice views are shown, and the widget of each."""

from __future__ import annotations

from typing import Any

import slicer
import vtk
from PySide6.QtCore import Property, Qt, Signal
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QSlider, QVBoxLayout, QWidget

from .pythonqt import strict
from .scene import VIEWS, SceneParts
from .slice_view import qMRMLSliceView

ROW, COLUMN = (0, 1, 0, 1), (0, 0, 1, 1)


class qMRMLSliceControllerWidget(QWidget):
    """The bar above a slice view: its name and a slider through the slices."""

    def __init__(self, logic: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._logic = logic
        self._busy = False
        node = logic.GetSliceNode()
        color = ",".join(str(round(255 * part)) for part in node.GetLayoutColor())
        label = QLabel(node.GetLayoutLabel())
        label.setStyleSheet(f"background: rgb({color}); color: black; padding: 1px 6px; font-weight: bold")
        self._slider = QSlider(Qt.Orientation.Horizontal)
        self._place = QLabel("")
        self._place.setMinimumWidth(90)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget, stretch in ((label, 0), (self._slider, 1), (self._place, 0)):
            layout.addWidget(widget, stretch)
        self._slider.valueChanged.connect(self._slid)
        self._tag = logic.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: self.follow())
        node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: self.follow())

    def follow(self) -> None:
        """Show where the slice is."""
        bounds, step = [0.0, 1.0], vtk.reference(1.0)
        self._logic.GetSliceOffsetRangeResolution(bounds, step)
        size = step.get() if step.get() > 0 else 1.0
        self._busy = True
        self._slider.setRange(0, max(round((bounds[1] - bounds[0]) / size), 0))
        self._slider.setValue(round((self._logic.GetSliceOffset() - bounds[0]) / size))
        self._place.setText(f"{self._logic.GetSliceNode().GetOrientation()} {self._logic.GetSliceOffset():.1f} mm")
        self._busy = False

    def _slid(self, steps: int) -> None:
        if self._busy:
            return
        bounds, step = [0.0, 1.0], vtk.reference(1.0)
        self._logic.GetSliceOffsetRangeResolution(bounds, step)
        self._logic.SetSliceOffset(bounds[0] + steps * step.get())


class qMRMLSliceWidget(QWidget):
    """A slice view under its controller."""

    def __init__(self, name: str, logic: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._name, self._logic = name, logic
        self._controller = strict(qMRMLSliceControllerWidget)(logic)
        self._view = strict(qMRMLSliceView)(logic)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(1)
        layout.addWidget(self._controller)
        layout.addWidget(self._view, 1)

    sliceViewName = Property(str, lambda self: self._name)

    def sliceLogic(self) -> Any:
        return self._logic

    def mrmlSliceNode(self) -> Any:
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self) -> Any:
        return self._logic.GetSliceCompositeNode()

    def sliceView(self) -> qMRMLSliceView:
        return self._view

    def sliceController(self) -> qMRMLSliceControllerWidget:
        return self._controller

    def interactorStyle(self) -> Any:
        return self._view.interactorObserver()

    def fitSliceToBackground(self) -> None:
        self._logic.FitSliceToBackground()


def shown_views(arrangement: int) -> tuple[str, ...]:
    """The slice views of a layout. Layouts with 3-D, table or plot views show their slice views only."""
    one = {f"SlicerLayoutOneUp{name}SliceView": (name,) for name in VIEWS}
    one["SlicerLayoutSideBySideView"] = ("Red", "Yellow")
    numbers = {getattr(slicer.vtkMRMLLayoutNode, key): names for key, names in one.items()}
    return numbers.get(arrangement, ("Red", "Green", "Yellow"))


class qSlicerLayoutManager(QWidget):
    """Holds every slice widget and follows the scene's layout node."""

    layoutChanged = Signal(int)

    def __init__(self, parts: SceneParts, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._parts = parts
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setSpacing(3)
        widget = strict(qMRMLSliceWidget)
        self._widgets = {name: widget(name, logic) for name, logic in parts.slice_logics.items()}
        for made in self._widgets.values():
            made.setParent(self)
            made.hide()
        self._shown: tuple[str, ...] = ()
        self._logic = parts.layout_logic
        node = self._logic.GetLayoutNode()
        node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: self._follow())
        node.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        self._follow()

    def _follow(self) -> None:
        shown = shown_views(self._logic.GetLayoutNode().GetViewArrangement())
        if shown == self._shown:
            return
        self._shown = shown
        for name, widget in self._widgets.items():
            self._grid.removeWidget(widget)
            if name not in shown:
                widget.hide()  # inside the window: without a parent it would be one of its own and take the keys
        for place, name in enumerate(shown):
            self._grid.addWidget(self._widgets[name], ROW[place], COLUMN[place])
            self._widgets[name].show()
        self.layoutChanged.emit(self._logic.GetLayoutNode().GetViewArrangement())

    def setLayout(self, layout: int) -> None:
        """Slicer's: choose an arrangement by a `vtkMRMLLayoutNode.SlicerLayout…` number."""
        self._logic.GetLayoutNode().SetViewArrangement(layout)

    layout = Property(int, lambda self: self._logic.GetLayoutNode().GetViewArrangement(), setLayout)
    threeDViewCount = Property(int, lambda self: 0)
    tableViewCount = Property(int, lambda self: 0)
    plotViewCount = Property(int, lambda self: 0)

    def layoutLogic(self) -> Any:
        return self._logic

    def sliceViewNames(self) -> tuple[str, ...]:
        return tuple(self._widgets)

    def sliceWidget(self, name: str) -> qMRMLSliceWidget | None:
        return self._widgets.get(name)

    def mrmlSliceLogics(self) -> Any:
        return self._parts.application_logic.GetSliceLogics()

    def viewport(self) -> QWidget:
        return self

    def resetSliceViews(self) -> None:
        for logic in self._parts.slice_logics.values():
            logic.FitSliceToBackground()
            logic.SnapSliceOffsetToIJK()

    def resetThreeDViews(self) -> None:
        """The host has no 3-D views."""

    def setPaused(self, paused: bool) -> None:
        """The host's own: hold back the rendering of every view."""
        for widget in self._widgets.values():
            widget.sliceView().setPaused(paused)

    def finish(self) -> None:
        """The host's own: release the graphics memory of every view."""
        for widget in self._widgets.values():
            widget.sliceView().finish()

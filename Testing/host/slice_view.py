"""A slice view: VTK renders offscreen, the picture is painted into a Qt widget, Qt's mouse events go to VTK.

VTK's own Qt widget shows garbage on Qt's offscreen platform; this works on every platform, and ``window.grab()`` has it.
"""

from __future__ import annotations

from typing import Any

import slicer
import vtk
from PySide6.QtCore import QEvent, QPoint, Qt, QTimer
from PySide6.QtGui import QImage, QKeyEvent, QMouseEvent, QPainter, QWheelEvent
from PySide6.QtWidgets import QSizePolicy, QWidget
from vtkmodules.util.numpy_support import vtk_to_numpy

MANAGERS = ("vtkMRMLSegmentationsDisplayableManager2D", "vtkMRMLMarkupsDisplayableManager")
MANAGERS += ("vtkMRMLModelSliceDisplayableManager", "vtkMRMLCrosshairDisplayableManager")
BUTTONS = {Qt.MouseButton.LeftButton: "Left", Qt.MouseButton.MiddleButton: "Middle"}
BUTTONS |= {Qt.MouseButton.RightButton: "Right"}


class qMRMLSliceView(QWidget):
    """One rendered slice, driven by a `vtkMRMLSliceLogic`."""

    def __init__(self, logic: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._logic = logic
        self._picture: QImage | None = None
        self._pixels: Any = None  # QImage does not own its buffer
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self.forceRender)
        self._paused = False
        self._frames = 0
        self.setMinimumSize(120, 90)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setFocusPolicy(Qt.FocusPolicy.WheelFocus)
        self.setMouseTracking(True)
        self._build()
        self._observe()

    def _build(self) -> None:
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(True)
        self._window.SetMultiSamples(0)
        self._window.SetNumberOfLayers(2)
        self._image = vtk.vtkImageMapper()
        self._image.SetColorWindow(255)
        self._image.SetColorLevel(127.5)
        actor = vtk.vtkActor2D()
        actor.SetMapper(self._image)
        self._background, self._overlay = vtk.vtkRenderer(), vtk.vtkRenderer()
        self._background.AddViewProp(actor)
        self._overlay.SetLayer(1)
        self._annotation = vtk.vtkCornerAnnotation()
        self._annotation.SetMaximumFontSize(13)
        self._overlay.AddViewProp(self._annotation)
        self._window.AddRenderer(self._background)
        self._window.AddRenderer(self._overlay)
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._interactor.SetInteractorStyle(vtk.vtkInteractorStyleUser())
        self._managers = make_managers(self._overlay, self._logic)
        self._style = slicer.vtkMRMLSliceViewInteractorStyle()
        self._style.SetDisplayableManagers(self._managers)
        self._style.SetSliceLogic(self._logic)
        self._style.SetInteractor(self._interactor)
        self._interactor.Initialize()

    def _observe(self) -> None:
        for source in (self._logic, self._logic.GetSliceNode()):
            source.AddObserver(vtk.vtkCommand.ModifiedEvent, self._changed)
        self._managers.AddObserver(vtk.vtkCommand.UpdateEvent, self._changed)

    def _changed(self, caller: Any, event: str) -> None:
        self.scheduleRender()

    def frames(self) -> int:
        """How many pictures were rendered so far."""
        return self._frames

    def setPaused(self, paused: bool) -> None:
        """Hold rendering back, as Slicer does while renders are paused."""
        self._paused = paused
        if not paused:
            self.scheduleRender()

    def mrmlSliceNode(self) -> Any:
        return self._logic.GetSliceNode()

    def renderWindow(self) -> Any:
        return self._window

    def interactor(self) -> Any:
        return self._interactor

    def interactorObserver(self) -> Any:
        return self._style

    def cornerAnnotation(self) -> Any:
        return self._annotation

    def displayableManagerByClassName(self, name: str) -> Any:
        return self._managers.GetDisplayableManagerByClassName(name)

    def scheduleRender(self) -> None:
        """Render once when the event loop is reached, however often it was asked for."""
        if not self._timer.isActive():
            self._timer.start(0)

    def forceRender(self) -> None:
        self._timer.stop()
        if self._paused or not self.isVisible() or self._window is None:
            return
        self._image.SetInputConnection(self._logic.GetImageDataConnection())
        self._label()
        self._window.Render()
        self._picture, self._pixels = grab(self._window)
        self._frames += 1
        self.update()

    def _label(self) -> None:
        """The volume's name, as Slicer's corner annotation has it; Slicer gives the place in mm, at the slider."""
        volume = self._logic.GetBackgroundLayer().GetVolumeNode()
        node = self._logic.GetSliceNode()
        self._annotation.SetText(0, f"B: {volume.GetName()}" if volume else "")
        self._annotation.SetText(2, f"{node.GetLayoutName()} ({node.GetOrientation()})")

    def resizeEvent(self, event: QEvent) -> None:
        width, height = max(self.geometry.width(), 1), max(self.geometry.height(), 1)
        self._window.SetSize(width, height)
        self._interactor.SetSize(width, height)
        self._interactor.ConfigureEvent()
        self._logic.ResizeSliceNode(width, height)
        self.scheduleRender()

    def showEvent(self, event: QEvent) -> None:
        self.scheduleRender()

    def paintEvent(self, event: QEvent) -> None:
        painter = QPainter(self)
        if self._picture is None:
            painter.fillRect(self.rect, Qt.GlobalColor.black)
        else:
            painter.drawImage(self.rect, self._picture)
        painter.end()

    def finish(self) -> None:
        """Release the graphics memory; the widget shows its last picture from then on."""
        self._timer.stop()
        self._window.Finalize()
        self._window = None

    def _send(self, event: str, where: QPoint, state: Any, key: str = "") -> None:
        held = Qt.KeyboardModifier
        control, shift = int(bool(state & held.ControlModifier)), int(bool(state & held.ShiftModifier))
        self._interactor.SetEventInformationFlipY(where.x(), where.y(), control, shift, key[:1] or chr(0), 0, key)
        self._interactor.InvokeEvent(event)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() in BUTTONS:
            self._send(f"{BUTTONS[event.button()]}ButtonPressEvent", event.position().toPoint(), event.modifiers())

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        if event.button() in BUTTONS:
            self._send(f"{BUTTONS[event.button()]}ButtonReleaseEvent", event.position().toPoint(), event.modifiers())

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        self._send("MouseMoveEvent", event.position().toPoint(), event.modifiers())

    def wheelEvent(self, event: QWheelEvent) -> None:
        turned = event.angleDelta().y()
        if turned:
            name = "MouseWheelForwardEvent" if turned > 0 else "MouseWheelBackwardEvent"
            self._send(name, event.position().toPoint(), event.modifiers())
        event.accept()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        where = QPoint(*self._interactor.GetEventPosition())
        for name in ("KeyPressEvent", "CharEvent"):
            self._send(name, where, event.modifiers(), event.text())
        super().keyPressEvent(event)

    def enterEvent(self, event: QEvent) -> None:
        self._interactor.InvokeEvent("EnterEvent")

    def leaveEvent(self, event: QEvent) -> None:
        self._interactor.InvokeEvent("LeaveEvent")


def make_managers(renderer: Any, logic: Any) -> Any:
    """The group of displayable managers that draw a scene's nodes over the slice."""
    factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
    factory.SetMRMLApplicationLogic(logic.GetMRMLApplicationLogic())
    for name in MANAGERS:
        if not factory.IsDisplayableManagerRegistered(name):
            factory.RegisterDisplayableManager(name)
    group = factory.InstantiateDisplayableManagers(renderer)
    group.SetMRMLDisplayableNode(logic.GetSliceNode())
    return group


def grab(window: Any) -> tuple[QImage, Any]:
    """The picture of a render window and the array that holds its pixels."""
    width, height = window.GetSize()
    values = vtk.vtkUnsignedCharArray()
    window.GetRGBACharPixelData(0, 0, width - 1, height - 1, 0, values)
    pixels = vtk_to_numpy(values).reshape(height, width, 4)[::-1].copy()  # VTK counts rows from below
    pixels[..., 3] = 255
    return QImage(pixels.data, width, height, 4 * width, QImage.Format.Format_RGBA8888), pixels

"""Qt Designer's .ui files: widgets with PythonQt's manners, stand-ins for Slicer's and CTK's, their connections."""

from __future__ import annotations

import sys
from xml.etree import ElementTree

from PySide6.QtCore import QBuffer, QByteArray, QFile, QIODevice, QObject
from PySide6.QtUiTools import QUiLoader as PySideLoader
from PySide6.QtWidgets import QWidget

from .pythonqt import LOADING


class _Maker(PySideLoader):
    """Creates each widget from the modules ``qt``, ``ctk`` and ``slicer``, so that it is the strict one."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[QWidget] = []

    def createWidget(self, className: str, parent: QWidget | None = None, name: str = "") -> QWidget:
        for module in ("qt", "ctk", "slicer"):
            found = getattr(sys.modules[module], className, None)
            if found is not None:
                widget = found()
                widget.setParent(parent)
                widget.setObjectName(name)
                widget.__dict__[LOADING] = True
                self.made.append(widget)
                return widget
        raise RuntimeError(f"the .ui file asks for {className}, which the host has no stand-in for")


class QUiLoader(QObject):
    """``qt.QUiLoader`` as far as `slicer.util.loadUI` uses it."""

    def load(self, device: QFile, parent: QWidget | None = None) -> QWidget:
        """Make the widgets of an opened .ui file.

        Raises
        ------
        RuntimeError
            A widget class or a connection of the file is unknown.
        """
        root = ElementTree.fromstring(bytes(device.readAll().data()))
        connections = root.find("connections")
        found = [] if connections is None else list(connections)
        if connections is not None:
            root.remove(connections)  # Qt's loader knows no vtkMRMLScene*; they are made below
        buffer = QBuffer()
        buffer.setData(QByteArray(ElementTree.tostring(root)))
        buffer.open(QIODevice.OpenModeFlag.ReadOnly)
        maker = _Maker()
        problems: list[BaseException] = []
        unraisable, sys.excepthook = sys.excepthook, lambda kind, value, trace: problems.append(value)
        try:
            widget = maker.load(buffer, parent)
        finally:
            sys.excepthook = unraisable
            for made in maker.made:
                made.__dict__.pop(LOADING)
        if problems or widget is None:
            raise RuntimeError(str(problems[0]) if problems else maker.errorString())
        widget.setProperty("_made", maker.made)  # keeps the Python side of every widget alive
        for connection in found:
            connect(widget, connection, maker.made)
        return widget


def connect(root: QWidget, connection: ElementTree.Element, made: list[QWidget]) -> None:
    """Make one ``<connection>`` of a .ui file."""
    sender, signal, receiver, slot = (connection.findtext(key) for key in ("sender", "signal", "receiver", "slot"))
    named = {widget.objectName: widget for widget in [*made, root]}
    if sender not in named or receiver not in named:
        raise RuntimeError(f"the .ui file connects {sender} to {receiver}, of which one does not exist")
    named[sender].connect(signal, getattr(named[receiver], slot.split("(")[0]))

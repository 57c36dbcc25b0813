"""The module that ``import qt`` gives: PySide6's names in one place, QObject classes with PythonQt's manners."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from PySide6 import QtCore, QtGui, QtTest, QtUiTools, QtWidgets

from . import dialogs, pythonqt, ui_files

MODULES = (QtCore, QtGui, QtWidgets, QtTest, QtUiTools)
CHANGED = {"QFileDialog": dialogs.QFileDialog, "QUiLoader": ui_files.QUiLoader}
"""Classes whose functions differ in PythonQt: results of file dialogs, widgets made from a .ui file."""

HIDDEN = {"Signal", "Slot", "Property", "QtMsgType"}
"""What PySide6 has and PythonQt has not."""


class QtModule(ModuleType):
    """Makes a class when it is asked for the first time."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in HIDDEN:
            raise AttributeError(f"module 'qt' has no attribute {name!r}")
        value = make(name)
        setattr(self, name, value)
        return value


def make(name: str) -> Any:
    """The class or value of a Qt name, as PythonQt would hand it out."""
    found = CHANGED.get(name) or next((getattr(m, name) for m in MODULES if hasattr(m, name)), None)
    if found is None:
        raise AttributeError(f"module 'qt' has no attribute {name!r}")
    if isinstance(found, type) and issubclass(found, QtCore.QObject) and found is not QtWidgets.QApplication:
        return pythonqt.strict(found)
    return found


def make_module() -> ModuleType:
    """Change PySide6's classes (once a process) and return the module."""
    pythonqt.give_properties(*MODULES)
    return QtModule("qt", __doc__)

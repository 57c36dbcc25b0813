"""Scripted modules: found by their file, loaded, opened, reloaded, as Slicer's module manager does."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import slicer
from PySide6.QtCore import Property, QObject, Signal
from PySide6.QtGui import QIcon
from PySide6.QtWidgets import QVBoxLayout, QWidget

from .mrml_widgets import qMRMLWidget
from .pythonqt import strict


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """The Qt side of a module's widget; ``self()`` is the Python side."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._python: Any = None
        self._module_name = ""
        self._entered = False
        QVBoxLayout(self)

    def make(self, module_name: str) -> None:
        """The host's own: construct and set up the Python widget of a module."""
        self._module_name = module_name
        self.setMRMLScene(slicer.mrmlScene)
        self.reload()

    def self(self) -> Any:
        return self._python

    def reload(self) -> None:
        """As in Slicer, which does not tell the new widget that the module is open already."""
        source = sys.modules[self._module_name]
        self._python = getattr(source, f"{self._module_name}Widget")(self)
        setattr(slicer.modules, f"{self._module_name}Widget", self._python)
        self._python.setup()

    isEntered = Property(bool, lambda self: self._entered)

    def _call(self, name: str) -> None:
        if hasattr(self._python, name):
            getattr(self._python, name)()

    def enter(self) -> None:
        if not self._entered:
            self._entered = True
            self._call("enter")

    def exit(self) -> None:
        if self._entered:
            self._entered = False
            self._call("exit")


class qSlicerScriptedLoadableModule(QObject):
    """``slicer.modules.<name>`` of a scripted module, which is also the ``parent`` of its ScriptedLoadableModule."""

    def __init__(self, name: str, path: Path) -> None:
        super().__init__()
        self._values: dict[str, Any] = {
            **{"title": name, "helpText": "", "acknowledgementText": "", "hidden": False, "icon": QIcon(), "index": -1},
            **{"categories": [], "dependencies": [], "contributors": [], "widgetRepresentationCreationEnabled": True},
        }
        self._path, self._python, self._representation = str(path), None, None
        self.setObjectName(name)

    def _value(key: str, kind: Any) -> Any:
        return Property(kind, lambda self: self._values[key], lambda self, value: self._values.__setitem__(key, value))

    title, helpText = _value("title", str), _value("helpText", str)
    acknowledgementText, hidden = _value("acknowledgementText", str), _value("hidden", bool)
    icon, index = _value("icon", QIcon), _value("index", int)
    categories, dependencies = _value("categories", list), _value("dependencies", list)
    contributors = _value("contributors", list)
    widgetRepresentationCreationEnabled = _value("widgetRepresentationCreationEnabled", bool)
    path = Property(str, lambda self: self._path)
    name = Property(str, lambda self: self.objectName)
    del _value

    def logic(self) -> Any:
        return slicer.app.applicationLogic().GetModuleLogic(self.name)

    def widgetRepresentation(self) -> qSlicerScriptedLoadableModuleWidget:
        """The module's widget, made when it is asked for the first time."""
        if self._representation is None:
            self._representation = self.createNewWidgetRepresentation()
        return self._representation

    def createNewWidgetRepresentation(self) -> qSlicerScriptedLoadableModuleWidget:
        widget = slicer.qSlicerScriptedLoadableModuleWidget()
        widget.make(self.name)
        return widget


class qSlicerModuleManager(QObject):
    """``slicer.app.moduleManager()``."""

    moduleAboutToBeUnloaded = Signal(str)
    SIGNATURES: ClassVar = {"moduleAboutToBeUnloaded(QString)": "moduleAboutToBeUnloaded"}

    def __init__(self) -> None:
        super().__init__()
        self._modules: dict[str, Any] = {}

    def add(self, module: Any) -> None:
        """The host's own: make a module known under ``slicer.modules``."""
        self._modules[module.name] = module
        setattr(slicer.modules, module.name.lower(), module)

    def module(self, name: str) -> Any:
        return self._modules.get(name)

    def modulesNames(self) -> tuple[str, ...]:
        return tuple(self._modules)

    def isLoaded(self, name: str) -> bool:
        return name in self._modules

    def unloadModules(self) -> None:
        """Say of every module that it is about to be unloaded, so that its widget cleans up."""
        for name in list(self._modules):
            self.moduleAboutToBeUnloaded.emit(name)

    def factoryManager(self) -> Any:
        return SimpleNamespace(loadedModuleNames=self.modulesNames, isLoaded=self.isLoaded, isRegistered=self.isLoaded)


def give_to_slicer() -> None:
    """Put the strict classes on ``slicer``, where `slicer.util` looks for them."""
    slicer.qSlicerScriptedLoadableModule = strict(qSlicerScriptedLoadableModule)
    slicer.qSlicerScriptedLoadableModuleWidget = strict(qSlicerScriptedLoadableModuleWidget)


def core_modules(logics: dict[str, Any]) -> ModuleType:
    """``slicer.modules`` with the C++ modules that have a logic here."""
    modules = ModuleType("slicer.modules")
    for name, logic in logics.items():
        made = SimpleNamespace(name=name, title=name, path="", logic=lambda logic=logic: logic)
        setattr(modules, name.lower(), made)
    return modules


def load_module(path: Path) -> Any:
    """Load a scripted module from its file and construct its ScriptedLoadableModule.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    """
    name = path.stem
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give the .py file of a scripted module")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    source = importlib.util.module_from_spec(spec)
    sys.modules[name] = source
    spec.loader.exec_module(source)
    module = slicer.qSlicerScriptedLoadableModule(name, path)
    module._python = getattr(source, name)(module)
    slicer.app.moduleManager().add(module)
    if callable(getattr(module._python, "setup", None)):
        module._python.setup()
    return module

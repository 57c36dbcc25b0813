"""``slicer.app``: the Qt application with the functions that scripted modules call on Slicer's."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import slicer
from PySide6.QtCore import Property, QCoreApplication, QSettings, Signal
from PySide6.QtWidgets import QApplication

from .core_io import CoreIOManager
from .scene import SceneParts

VERSION = (5, 13, 0)


class qSlicerApplication(QApplication):
    """Made empty by `start.start`, which then gives it its parts with `equip`."""

    startupCompleted = Signal()

    def __init__(self, temporary: Path) -> None:
        super().__init__(["RVQC"])
        QCoreApplication.setApplicationName("Slicer")
        QCoreApplication.setOrganizationName("RVQC host")
        QSettings.setDefaultFormat(QSettings.Format.IniFormat)
        QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, str(temporary / "settings"))
        self._temporary = str(temporary)
        self._paused = 0

    def equip(self, parts: SceneParts, layout_manager: Any, module_manager: Any) -> None:
        """The host's own: hand over what the scene, the views and the modules live in."""
        self._parts, self._layout, self._manager = parts, layout_manager, module_manager
        self._io = CoreIOManager(parts.logics)

    temporaryPath = Property(str, lambda self: self._temporary)
    cachePath = Property(str, lambda self: self._temporary)
    slicerHome = Property(str, lambda self: str(Path(slicer.__file__).parent))
    extensionsInstallPath = Property(str, lambda self: self._temporary)
    majorVersion = Property(int, lambda self: VERSION[0])
    minorVersion = Property(int, lambda self: VERSION[1])
    revision = Property(str, lambda self: "0")
    documentationBaseUrl = Property(str, lambda self: "https://slicer.readthedocs.io/en/latest/")

    def layoutManager(self) -> Any:
        return self._layout

    def moduleManager(self) -> Any:
        return self._manager

    def mrmlScene(self) -> Any:
        return self._parts.scene

    def applicationLogic(self) -> Any:
        return self._parts.application_logic

    def coreIOManager(self) -> CoreIOManager:
        return self._io

    def ioManager(self) -> CoreIOManager:
        return self._io

    def settings(self) -> Any:
        import qt

        return qt.QSettings()

    def userSettings(self) -> Any:
        return self.settings()

    def commandOptions(self) -> Any:
        return SimpleNamespace(noMainWindow=False, testingEnabled=self.testingEnabled(), runPythonAndExit=False)

    def testingEnabled(self) -> bool:
        """False also in tests, so that they run what a user runs; messages are recorded all the same."""
        return False

    def startupEnvironment(self) -> dict[str, str]:
        return dict(os.environ)

    def moduleDocumentationUrl(self, name: str) -> str:
        return f"{self.documentationBaseUrl}user_guide/modules/{name.lower()}.html"

    def pauseRender(self) -> None:
        self._paused += 1
        self._layout.setPaused(True)

    def resumeRender(self) -> None:
        self._paused = max(self._paused - 1, 0)
        if not self._paused:
            self._layout.setPaused(False)

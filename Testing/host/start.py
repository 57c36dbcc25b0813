"""Start the host: Qt, ``slicer``, ``qt``, ``ctk``, the scene, the window, the modules; in that order."""

from __future__ import annotations

import ctypes.util
import importlib
import os
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = {"slicer_core": "slicer-core", "PySide6": "PySide6-Essentials", "vtkmodules": "vtk", "numpy": "numpy"}
LIBRARIES = ("EGL", "GL", "xkbcommon", "fontconfig", "dbus-1", "glib-2.0")
DEBIAN = (Path(__file__).parent / "debian.txt").read_text(encoding="utf-8").split()
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Host:
    """What `start` made. `answers` records messages and answers questions (`dialogs.Answers`)."""

    app: Any
    window: Any
    answers: Any
    temporary: Path

    def close(self) -> None:
        """Let every module clean up, release the graphics memory and close the window, as when Slicer is left."""
        from PySide6.QtCore import QTimer

        self.app.moduleManager().unloadModules()
        self.app.processEvents()
        QTimer.singleShot(0, self.app.quit)
        self.app.exec()  # only a loop that ends tells "aboutToQuit"
        self.app.layoutManager().finish()
        self.window.close()


def missing() -> str | None:
    """Why the host cannot run here and what to do about it; None if it can.

    VTK ends the process with a segmentation fault without a GL library, so it must not even be imported then.
    """
    absent = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if absent:
        return f"the stand-in for Slicer needs {', '.join(absent)}: run `make panel` once, or pip install -e .[panel]"
    lacking = [name for name in LIBRARIES if ctypes.util.find_library(name) is None]
    if lacking and sys.platform.startswith("linux"):
        needed = f"lib{', lib'.join(lacking)}"
        return f"the stand-in for Slicer needs {needed}: apt-get install --no-install-recommends {' '.join(DEBIAN)}"
    return None


def start(*, testing: bool, temporary: Path | None = None, modules: tuple[Path, ...] = ()) -> Host:
    """Start the application once a process.

    Parameters
    ----------
    testing
        Record messages and answer questions instead of waiting for a person; settings and files go to `temporary`.
    temporary
        Folder for what Slicer keeps in its temporary and cache path; a new one by default.
    modules
        The .py files of scripted modules to load.

    Raises
    ------
    RuntimeError
        A package or library is missing; the sentence says which.
    """
    reason = missing()
    if reason:
        raise RuntimeError(reason)
    if not os.environ.get("DISPLAY") and sys.platform.startswith("linux"):
        os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
        os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    temporary = temporary or Path(tempfile.mkdtemp(prefix="rvqc-host-"))
    import slicer

    from . import ctk_module, dialogs, qt_module

    sys.modules["qt"] = slicer.qt = qt_module.make_module()
    sys.modules["ctk"] = slicer.ctk = ctk_module.make_module()
    dialogs.answers.testing = testing
    dialogs.record_messages(slicer.util)
    app, window = make_application(temporary)
    host = Host(app, window, dialogs.answers, temporary)
    for path in modules:
        load(path)
    window.show()
    app.startupCompleted.emit()
    return host


def make_application(temporary: Path) -> tuple[Any, Any]:
    """Everything between Qt and the first module."""
    import slicer

    from . import application, layout, modules, mrml_widgets, scene, window
    from .pythonqt import strict

    app = strict(application.qSlicerApplication)(temporary)
    parts = scene.make_scene(temporary)
    slicer.app = app
    slicer.modules = sys.modules["slicer.modules"] = modules.core_modules(parts.logics)
    slicer.modules.sampleDataSources = {}
    mrml_widgets.give_to_slicer(strict)
    modules.give_to_slicer()
    manager = strict(modules.qSlicerModuleManager)()
    layout_manager = strict(layout.qSlicerLayoutManager)(parts)
    app.equip(parts, layout_manager, manager)
    for name in ("i18n", "scripted"):
        made = importlib.import_module(f"{__package__}.{name}")
        public = "ScriptedLoadableModule" if name == "scripted" else name
        sys.modules[f"slicer.{public}"] = made
        setattr(slicer, public, made)
    sys.modules["SampleData"] = importlib.import_module(f"{__package__}.sample_data")
    scene.observe_scene(parts, layout_manager.resetSliceViews)
    return app, strict(window.qSlicerMainWindow)(layout_manager)


def load(path: Path) -> Any:
    """Load one more scripted module from its .py file."""
    from .modules import load_module

    return load_module(path)

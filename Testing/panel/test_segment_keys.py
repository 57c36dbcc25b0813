"""Keys of the panel with everything open that could take them away, and a worker that speaks while it goes."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import REPOSITORY, Panel

LAYOUTS = ("OneUpGreenSlice", "OneUpYellowSlice", "FourUp", "OneUpRedSlice")


def test_a_layout_leaves_one_window(panel: Panel) -> None:
    import slicer
    from PySide6.QtWidgets import QApplication

    manager = slicer.app.layoutManager()
    for layout in LAYOUTS:
        manager.setLayout(getattr(slicer.vtkMRMLLayoutNode, f"SlicerLayout{layout}View"))
        panel.turn()
        for name in manager.sliceViewNames():
            assert manager.sliceWidget(name).window() is panel.window
    assert QApplication.activeWindow() in (None, panel.window)


def test_keys_arrive_once_with_both_modules_and_the_dialog_open(panel: Panel, monkeypatch: Any) -> None:
    import qt
    import slicer

    dialog = panel.open("RVQCRefine")
    dialog.onOpen()
    widget = panel.open("RVQCSegment")
    slicer.modules.rvqcsegment.createNewWidgetRepresentation()  # a second panel that nobody has entered
    panel.window.activateWindow()
    panel.turn()
    got: list[str] = []
    monkeypatch.setattr(widget.panel, "_flagged", lambda step: got.append(f"step {step}"))
    monkeypatch.setattr(widget, "onDecide", got.append)
    for key in ("Period", "Comma"):
        panel.press(panel.window, getattr(qt.Qt, f"Key_{key}"))
    panel.press(panel.window, qt.Qt.Key_Return, qt.Qt.ControlModifier)
    assert got == ["step 1", "step -1", "accepted"]
    panel.open("RVQCRefine")
    panel.press(panel.window, qt.Qt.Key_Period)
    assert len(got) == 3, "keys are given back when another module is opened"


@pytest.mark.parametrize("leave", ["host.close()", "pass"], ids=["closed", "not closed"])
def test_a_worker_that_runs_when_all_ends_is_ended_without_a_word(leave: str) -> None:
    code = (
        f"import sys; sys.path[:0] = [{str(REPOSITORY / 'Testing')!r}, {str(REPOSITORY / 'RVQCSegment')!r}]\n"
        "from host.start import start\nhost = start(testing=True)\n"
        "from RVQCSlicerLib.process import application_worker\nworker = application_worker()\n"
        "worker.submit('check', {'bundle': None, 'device': 'cpu'}, done=lambda outcome: None)\n"
        f"while not worker._pid: host.app.processEvents()\nprint(worker._pid); {leave}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0 and "QProcess" not in done.stderr, done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_a_stopped_worker_is_not_read_any_more(panel: Panel) -> None:
    from PySide6.QtCore import QCoreApplication, QEvent

    from RVQCSlicerLib.process import WorkerProcess

    worker, ends = WorkerProcess(), []
    worker.submit("check", {"bundle": None, "device": "cpu"}, done=ends.append)
    process = worker._process
    worker.stop()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    worker._read(process)
    worker._read_log(process)
    panel.turn()
    assert [end.kind for end in ends] == ["cancelled"] and not worker.running


def test_a_line_that_is_no_answer_goes_to_the_log(panel: Panel) -> None:
    from RVQCSlicerLib.process import WorkerProcess

    class Process:
        def readAllStandardOutput(self) -> Any:
            return SimpleNamespace(data=lambda: b'a word of the start-up\n{"event": "ready", "id": 0, "pid": 0}\n')

    worker = WorkerProcess()
    worker._process = process = Process()
    worker._read(process)
    assert worker.log == "a word of the start-up\n" and worker._received == b""

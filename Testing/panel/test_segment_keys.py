"""Keys of the panel with everything open that could take them away, and a worker that speaks while it goes."""

from __future__ import annotations

from typing import Any

from conftest import Panel

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

"""The host's Qt: as strict as PythonQt, signals by signature, dialogs that tests answer, processes, timers."""

from __future__ import annotations

import functools
import sys
import time
from typing import Any

import pytest


@pytest.fixture
def button(panel: Any) -> Any:
    import qt

    made = qt.QPushButton("Run QC")
    yield made
    made.deleteLater()


def test_a_property_is_a_value(button: Any) -> None:
    assert button.text == "Run QC" and button.enabled is True and button.checked is False
    button.text, button.toolTip, button.enabled = "Stop", "Stops the run", False
    assert (button.text, button.toolTip, button.enabled) == ("Stop", "Stops the run", False)
    assert button.isEnabled() is False
    button.setText("Again")
    assert button.text == "Again"
    button.name = "runButton"
    assert button.objectName == "runButton" and button.className() == "QPushButton"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("b.text()", TypeError),
        ("b.enabled()", TypeError),
        ("b.txt = 'x'", AttributeError),
        ("b.result = 3", AttributeError),
        ("b.width = 3", AttributeError),
        ("b.caption", AttributeError),
        ("qt.QPushButton(text='x')", TypeError),
        ("qt.QTimer().singleShot = True", AttributeError),
        ("qt.QPushBotton()", AttributeError),
        ("qt.Signal", AttributeError),
        ("b.connect('cliked(bool)', print)", ValueError),
        ("b.connect('clicked(int)', print)", ValueError),
        ("b.connect('clicked(bool)', functools.partial(print, 1))", TypeError),
        ("b.cliked.connect(print)", AttributeError),
        ("slicer.qMRMLNodeComboBox().connect('currentNodeChanged(vtkMRMLNode)', print)", ValueError),
        ("slicer.qMRMLNodeComboBox().nodeType = ['vtkMRMLScalarVolumeNode']", AttributeError),
        ("ctk.ctkSliderWidget().valu = 3", AttributeError),
    ],
)
def test_what_pythonqt_refuses_or_ignores_raises(button: Any, code: str, error: type[Exception]) -> None:
    import ctk
    import qt
    import slicer

    names = {"b": button, "qt": qt, "ctk": ctk, "slicer": slicer, "functools": functools}
    with pytest.raises(error):
        exec(code, names)


def test_every_class_of_the_style_exists(panel: Any) -> None:
    import ctk
    import qt
    import slicer

    names = "QWidget QLabel QPushButton QToolButton QCheckBox QRadioButton QComboBox QLineEdit QPlainTextEdit QTextEdit"
    names += " QProgressBar QSpinBox QDoubleSpinBox QSlider QTabWidget QGroupBox QFrame QScrollArea QTableWidget"
    names += " QListWidget QTreeWidget QStackedWidget QSplitter QButtonGroup QDialog QDialogButtonBox QMessageBox"
    names += " QFormLayout QHBoxLayout QVBoxLayout QGridLayout QTimer QProcess QShortcut QAction QMenu QSettings QFile"
    made = [getattr(qt, name)() for name in names.split() if name not in ("QShortcut", "QFile")]
    assert [thing.className() for thing in made] == [n for n in names.split() if n not in ("QShortcut", "QFile")]
    values = "QKeySequence QSize QPoint QRect QColor QFont QIcon QPixmap QPainter QPen QBrush QTableWidgetItem QUrl"
    assert all(hasattr(qt, name) for name in [*values.split(), "QDesktopServices", "QSizePolicy", "QApplication"])
    stand_ins = "CollapsibleButton CollapsibleGroupBox SliderWidget PathLineEdit ComboBox"
    assert all(getattr(ctk, f"ctk{name}")().className() == f"ctk{name}" for name in stand_ins.split())
    assert slicer.qMRMLWidget().className() == "qMRMLWidget"


def test_a_handler_gets_what_its_signature_says(panel: Any, button: Any) -> None:
    got: list[Any] = []

    def without() -> None:
        got.append("without")

    button.checkable = True
    button.connect("toggled(bool)", lambda on: got.append(on))
    button.connect("clicked(bool)", lambda checked=None: got.append(("clicked(bool)", checked)))
    button.connect("clicked()", lambda checked=None: got.append(("clicked()", checked)))
    button.connect("clicked(bool)", without)
    button.clicked.connect(without)
    button.show()
    panel.click(button)
    assert got == [True, ("clicked(bool)", True), ("clicked()", None), "without", "without"]
    got.clear()
    assert button.disconnect("clicked(bool)", without) and not button.disconnect("clicked(bool)", without)
    panel.click(button)
    assert got == [False, ("clicked(bool)", False), ("clicked()", None), "without"]


def test_a_subclass_may_have_attributes_and_paint(panel: Any) -> None:
    import qt

    class Strip(qt.QWidget):
        def __init__(self) -> None:
            qt.QWidget.__init__(self)
            self.pressed = []

        def paintEvent(self, event: Any) -> None:
            painter = qt.QPainter(self)
            painter.fillRect(self.rect, qt.QColor(10, 200, 30))
            painter.end()

        def mousePressEvent(self, event: Any) -> None:
            self.pressed.append((event.pos().x(), event.pos().y()))

    strip = Strip()
    strip.setFixedSize(40, 20)
    strip.show()
    panel.click(strip, (7, 5))
    assert strip.pressed == [(7, 5)]
    assert panel.pixels(strip)[10, 20].tolist() == [10, 200, 30]
    assert panel.shot(strip, "strip").stat().st_size > 0


def test_messages_are_recorded_and_questions_answered(panel: Any) -> None:
    import slicer

    slicer.util.errorDisplay("It failed", windowTitle="RVQC")
    slicer.util.infoDisplay("Done")
    panel.answers.buttons[:] = [False, True]
    assert slicer.util.confirmOkCancelDisplay("Install torch?") is False
    assert slicer.util.confirmYesNoDisplay("Really?") is True
    assert slicer.util.confirmOkCancelDisplay("Once more?") is True
    assert [(m.level, m.text) for m in panel.answers.shown] == [
        ("error", "It failed"),
        ("info", "Done"),
        *[("question", text) for text in ("Install torch?", "Really?", "Once more?")],
    ]


def test_a_file_dialog_returns_a_string(panel: Any) -> None:
    import ctk
    import qt

    panel.answers.paths[:] = ["/data/a b.nii.gz", "/data/study"]
    assert qt.QFileDialog.getOpenFileName(None, "Choose", "", "*.nii.gz") == "/data/a b.nii.gz"
    line = ctk.ctkPathLineEdit()
    line.filters = ctk.ctkPathLineEdit.Dirs
    heard: list[str] = []
    line.connect("currentPathChanged(QString)", heard.append)
    line.browse()
    assert line.currentPath == "/data/study" and heard == ["/data/study"]
    assert qt.QFileDialog.getExistingDirectory() == ""


def test_an_empty_path_is_told_by_one_signal_only(panel: Any) -> None:
    import ctk

    line = ctk.ctkPathLineEdit()
    heard: list[Any] = []
    line.connect("currentPathChanged(QString)", heard.append)
    line.connect("validInputChanged(bool)", heard.append)
    line.currentPath = "/a"
    line.currentPath = "/b"
    line.currentPath = ""
    assert heard == [True, "/a", "/b", False]


def test_a_process_talks_while_the_window_lives(panel: Any) -> None:
    import qt

    process = qt.QProcess()
    lines: list[str] = []
    ended: list[int] = []

    def read() -> None:
        lines.extend(bytes(process.readAllStandardOutput().data()).decode().split())

    process.connect("readyReadStandardOutput()", read)
    process.connect("finished(int,QProcess::ExitStatus)", lambda code, status: ended.append(code))
    process.start(sys.executable, ["-c", "import sys; print(sys.stdin.readline().upper()); sys.exit(3)"])
    process.write(b"hello\n")
    panel.wait(lambda: ended)
    assert (lines, ended) == (["HELLO"], [3])


def test_a_shortcut_and_a_timer_fire(panel: Any) -> None:
    import qt

    window, got = qt.QWidget(), []
    shortcut = qt.QShortcut(qt.QKeySequence("N"), window)
    shortcut.connect("activated()", lambda: got.append("key"))
    window.show()
    panel.wait(lambda: window.isActiveWindow)
    panel.press(window, "n")
    qt.QTimer.singleShot(1, lambda: got.append("timer"))
    panel.wait(lambda: len(got) == 2)
    assert got == ["key", "timer"]


def test_a_block_of_the_event_loop_is_measured(panel: Any) -> None:
    import qt

    with panel.watch() as free:
        panel.wait(lambda: len(free.all) > 20)
    with panel.watch() as blocked:
        qt.QTimer.singleShot(0, lambda: time.sleep(0.25))
        panel.wait(lambda: len(blocked.all) > 20)
    assert blocked.longest >= 0.25 > free.longest


def test_waiting_in_vain_fails(panel: Any) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"waited 0\.05 s in vain"):
        panel.wait(lambda: False, seconds=0.05)


def test_a_disabled_button_cannot_be_clicked(panel: Any, button: Any) -> None:
    button.show()
    button.enabled = False
    with pytest.raises(AssertionError, match="disabled"):
        panel.click(button)

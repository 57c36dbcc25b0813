"""One application a pytest run, an empty scene a test, real clicks, pictures, and how long the event loop was blocked.

Run alone (`pytest Testing/panel`): ``qt``, ``ctk`` and ``slicer`` of the host must not leak into the engine's tests.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "Testing"), str(REPOSITORY / "RVQCSegment")]

from refine_walk import PATIENCE_S, Walk  # noqa: E402

from host import start  # noqa: E402

os.environ.setdefault(
    "LP_NUM_THREADS", "0"
)  # Mesa paints in this thread: its own would wait where others have the processor

SPARE_NONES = [None] * 5_000_000
"""PySide6 6.12 takes one reference from None at every call of a static void function, such as processEvents; without
spare ones a long wait ends the process."""
ctypes.pythonapi.Py_IncRef(ctypes.py_object(SPARE_NONES))  # never freed, or the references would be missing at the end

MODULES = (REPOSITORY / "RVQCSegment" / "RVQCSegment.py", REPOSITORY / "RVQCRefine" / "RVQCRefine.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pictures", type=Path, default=None, help="folder for the pictures that tests take")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "ignore:.*marked as deprecated:DeprecationWarning")  # Qt 5 has no other


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = start.missing()
    if reason:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=reason))


@dataclass
class Blocks:
    """How long the event loop went without turning, in seconds, less the time in which other processes had the processor.

    `longest` is filled while `Panel.watch` runs, and `busiest`: the most that this thread computed between two turns.
    """

    longest: float = 0.0
    busiest: float = 0.0
    all: list[float] = field(default_factory=list)


class Panel:
    """What a test does with the application: open, click, type, wait, look."""

    raised: list[BaseException]
    """Exceptions in slots and observers so far. One that a test expects it takes out; the others fail it."""

    def __init__(self, host: start.Host, pictures: Path) -> None:
        self.raised = []
        self.host = host
        self.app = host.app
        self.window = host.window
        self.answers = host.answers
        self.pictures = pictures

    def open(self, module: str) -> Any:
        """Select a module as a user does and return its Python widget."""
        import slicer

        slicer.util.selectModule(module)
        self.turn()
        return slicer.util.getModuleWidget(module)

    def turn(self, times: int = 3) -> None:
        """Let the event loop run."""
        for _ in range(times):
            self.app.processEvents()

    def wait(self, condition: Callable[[], Any], seconds: float = 30.0) -> Any:
        """Let the event loop run until `condition()` holds, and return its value; fails after `seconds`."""
        ends = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > ends:
                pytest.fail(f"waited {seconds:g} s in vain; messages so far: {self.answers.shown}")
            self.app.processEvents()
            time.sleep(0.002)
        return value

    def click(self, widget: Any, where: tuple[int, int] | None = None) -> None:
        """Click with the mouse, at (x, y) from the widget's upper left corner or in its middle."""
        import qt
        from PySide6.QtTest import QTest

        assert widget.isVisible(), f"{widget.name or widget} is hidden, so nobody can click it"
        assert widget.isEnabled(), f"{widget.name or widget} is disabled, so a click does nothing"
        point = widget.rect.center() if where is None else qt.QPoint(*where)
        QTest.mouseClick(widget, qt.Qt.LeftButton, qt.Qt.NoModifier, point)
        self.turn()

    def press(self, widget: Any, key: Any, modifier: Any = None) -> None:
        """Press a key, given as qt.Qt.Key_… or as one character."""
        import qt
        from PySide6.QtTest import QTest

        QTest.keyClick(widget, key, qt.Qt.NoModifier if modifier is None else modifier)
        self.turn()

    def type(self, widget: Any, text: str) -> None:
        from PySide6.QtTest import QTest

        QTest.keyClicks(widget, text)
        self.turn()

    def turn_wheel(self, widget: Any, steps: int) -> None:
        """Turn the mouse wheel over the middle of a widget; positive is away from the user."""
        from PySide6.QtCore import QPoint, QPointF, Qt
        from PySide6.QtGui import QWheelEvent

        middle = QPointF(widget.rect.center())
        for _ in range(abs(steps)):
            angle = QPoint(0, 120 if steps > 0 else -120)
            event = QWheelEvent(
                *(middle, QPointF(widget.mapToGlobal(middle)), QPoint(), angle, Qt.MouseButton.NoButton),
                *(Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False),
            )
            self.app.sendEvent(widget, event)
            self.turn(1)
        self.turn()

    def shot(self, widget: Any, name: str) -> Path:
        """Save a picture of a widget as ``<name>.png`` in the folder of ``--pictures``."""
        self.turn()
        path = self.pictures / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        assert widget.grab().save(str(path))
        return path

    def pixels(self, widget: Any) -> Any:
        """What a widget shows, as an array (rows, columns, RGB) of uint8."""
        import numpy
        from PySide6.QtGui import QImage

        self.turn()
        image = widget.grab().toImage().convertToFormat(QImage.Format.Format_RGB888)
        rows = numpy.frombuffer(image.constBits(), numpy.uint8).reshape(image.height(), image.bytesPerLine())
        return rows[:, : 3 * image.width()].reshape(image.height(), image.width(), 3).copy()

    def watch(self) -> Watch:
        """``with panel.watch() as blocks: …`` measures the longest block of the event loop meanwhile."""
        return Watch()


def _own_time() -> float:
    """The clock, less what this thread has waited for a processor that others had: on Linux; elsewhere the clock."""
    try:
        waited = int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        waited = 0.0
    return time.perf_counter() - waited


class Watch:
    """A timer that should fire every 2 ms; the longest time between two of its ticks is the longest block."""

    def __enter__(self) -> Blocks:
        from PySide6.QtCore import Qt, QTimer

        self._blocks, self._last, self._computed = Blocks(), _own_time(), time.thread_time()
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._tick)
        self._timer.start(2)
        return self._blocks

    def _tick(self) -> None:
        now, computed = _own_time(), time.thread_time()
        self._blocks.busiest, self._computed = max(self._blocks.busiest, computed - self._computed), computed
        self._blocks.all.append(now - self._last)
        self._blocks.longest, self._last = max(self._blocks.longest, now - self._last), now

    def __exit__(self, *error: object) -> None:
        self._tick()
        self._timer.stop()


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[start.Host]:
    """The application with RVQC's modules, as far as they exist."""
    modules = tuple(path for path in MODULES if path.is_file())
    running = start.start(testing=True, temporary=tmp_path_factory.mktemp("slicer"), modules=modules)
    yield running
    running.close()


@pytest.fixture
def panel(
    host: start.Host, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Panel]:
    """The application with an empty scene. An exception in a slot or an observer fails the test."""
    import slicer

    used = Panel(host, request.config.getoption("--pictures") or tmp_path)
    monkeypatch.setattr(sys, "excepthook", lambda kind, value, trace: used.raised.append(value))
    slicer.mrmlScene.Clear(0)
    host.answers.clear()
    yield used
    slicer.mrmlScene.Clear(0)
    host.app.processEvents()
    if used.raised:
        raise used.raised[0]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `refine_data.py` makes. Shared: do not change it."""
    home = tmp_path_factory.mktemp("Daten für RVQC")
    script = Path(__file__).with_name("refine_data.py")
    one_thread = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
    }  # threads that wait for each other cost minutes on a busy machine
    subprocess.run([sys.executable, str(script), str(home)], check=True, timeout=PATIENCE_S, env=one_thread)
    return home


@pytest.fixture
def walk(panel: Panel) -> Iterator[Walk]:
    """The refine dialog, opened by its module's button, without an adopted bundle or a reviewer's name."""
    import slicer

    settings = slicer.app.userSettings()
    keys = ("RVQC/Bundle", "RVQC/Reviewer")
    for key in keys:
        settings.remove(key)
    used = Walk(panel)
    yield used
    used.module.cleanup()
    for key in keys:
        settings.remove(key)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles of tiny networks with random weights, for "SA LA" and for "SA": what is judged is nonsense, but fast."""
    folder = tmp_path_factory.mktemp("Bündel mit Leerzeichen")
    code = (
        "import importlib.util, pathlib, sys\n"
        "spec = importlib.util.spec_from_file_location('tiny', sys.argv[1])\n"
        "tiny = importlib.util.module_from_spec(spec); spec.loader.exec_module(tiny)\n"
        "for views in ('SA LA', 'SA'):\n"
        "    tiny.write_tiny_bundle(pathlib.Path(sys.argv[2]) / views, views=tuple(views.split()))\n"
    )
    maker = str(REPOSITORY / "Testing" / "engine" / "conftest.py")
    command = [sys.executable, "-c", code, maker, str(folder)]
    subprocess.run(command, cwd=REPOSITORY / "RVQCSegment", check=True)
    return {views: folder / views for views in ("SA LA", "SA")}


@pytest.fixture
def widget(panel: Panel, tmp_path: Path, bundles: dict[str, Path]) -> Iterator[Any]:
    """The panel, opened, with a fast bundle and results going to a folder with a space and an umlaut."""
    opened = panel.open("RVQCSegment")
    opened.logic.parameters.results_folder = str(tmp_path / "Ergebnisse für uns")
    opened.logic.parameters.bundle = str(bundles["SA LA"])
    opened.panel.refresh()
    yield opened
    opened.onCancel()
    panel.turn()

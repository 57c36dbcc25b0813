"""Step 3: the run, how far it is, what the epochs brought, and the buttons that stop it and let it go on."""

from __future__ import annotations

from collections.abc import Callable

import qt

from RVQCRefineLib.chart import Chart, flagged_lines, guard_lines
from RVQCRefineLib.nodes import epochs_to_scene, show_chart
from RVQCRefineLib.progress import STEPS, duration, log_line
from RVQCRefineLib.session import Session
from RVQCSlicerLib.looks import hint, strong

STATES = {
    "new": "Ready.",
    "running": "Running. You may close this window, or work on in Slicer; the run goes on.",
    "pausing": "Stopping at the next step …",
    "cancelling": "Stopping at the next step …",
    "paused": "Paused. What is done is kept; Resume goes on from there.",
    "cancelled": "Cancelled. What is done is kept; Resume goes on from there.",
    "failed": "Stopped by a fault. What is done is kept; Resume goes on from there.",
    "interrupted": "Interrupted. What is done is kept; Resume goes on from there.",
    "done": "Done. Review the new masks next.",
}
MOST_LINES = 2000


class RunPage:
    """Progress, charts, log, and Pause, Resume, Cancel. `guarded` runs what may raise and shows the sentence."""

    title = "Run"

    def __init__(self, session: Session, guarded: Callable[[Callable[[], None]], bool]) -> None:
        self._session, self._guarded = session, guarded
        self._lines = -1
        self.widget = qt.QWidget()
        column = qt.QVBoxLayout(self.widget)
        self.state, self.step, self.said, self.where = (qt.QLabel() for _ in range(4))
        self.state.objectName, self.step.objectName, self.said.objectName = "RVQCState", "RVQCStep", "RVQCRunSaid"
        strong(self.state, 15)
        hint(self.where)
        for label in (self.state, self.step, self.said, self.where):
            label.wordWrap = True
        self.bar = qt.QProgressBar()
        self.bar.objectName = "RVQCRunBar"
        self.pause, self.resume, self.cancel = (qt.QPushButton(text) for text in ("Pause", "Resume", "Cancel"))
        self.pause.objectName, self.resume.objectName, self.cancel.objectName = (
            "RVQCPause",
            "RVQCResume",
            "RVQCCancelRun",
        )
        self.pause.toolTip = "Stop at the next step; the networks stay in memory"
        self.resume.toolTip = "Go on from the last checkpoint; after the end, try the studies that could not be read"
        self.cancel.toolTip = "Stop at the next step and free the GPU; what is done is kept, Resume goes on from it"
        self.pause.connect("clicked(bool)", lambda checked=False: session.pause())
        self.cancel.connect("clicked(bool)", lambda checked=False: session.cancel())
        self.resume.connect("clicked(bool)", lambda checked=False: self._guarded(session.resume))
        self.plots = qt.QPushButton("Show in Slicer's plot view")
        self.plots.objectName = "RVQCPlots"
        self.plots.connect("clicked(bool)", lambda checked=False: self._guarded(self._show_plots))
        self.flagged, self.guard = Chart("Flagged stacks by epoch"), Chart("Guard Dice of the RV by epoch")
        self.log = qt.QPlainTextEdit()
        self.log.objectName = "RVQCRunLog"
        self.log.readOnly = True
        self.log.setMaximumBlockCount(MOST_LINES)
        row, charts = qt.QHBoxLayout(), qt.QHBoxLayout()
        for button in (self.pause, self.resume, self.cancel):
            row.addWidget(button)
        row.addStretch(1)
        row.addWidget(self.plots)
        for chart in (self.flagged, self.guard):
            charts.addWidget(chart.widget)
        charts.addStretch(1)
        for part in (self.state, self.step, self.bar, self.said):
            column.addWidget(part)
        column.addLayout(row)
        column.addLayout(charts)
        column.addWidget(self.log, 1)
        column.addWidget(self.where)
        session.listen(self._on_told)
        self._show()

    @property
    def ready(self) -> bool:
        """Whether there are masks to review."""
        return self._session.progress.state == "done" and not self._session.live

    def _on_told(self, what: str) -> None:
        if what in ("run", "progress"):
            self._show()
            self._write_log(anew=what == "run")

    def _show(self) -> None:
        session, progress, state = self._session, self._session.progress, self._session.state
        self.state.text = STATES[state]
        self.where.text = f"Everything of this run is in {session.run.path}" if session.run else ""
        self.step.text = (
            f"Step {progress.step + 1} of {len(STEPS)}: {STEPS[progress.step]}" if progress.step is not None else ""
        )
        left = duration(progress.seconds_left)
        self.said.text = f"{progress.said}{f'; {left} left in this step' if left and session.live else ''}"
        if state == "failed" and progress.message:
            self.said.text = progress.message
        starting = session.live and not progress.total
        self.bar.setRange(0, 0 if starting else max(progress.total, 1))
        self.bar.setValue(max(progress.total, 1) if state == "done" else progress.done)
        self.bar.visible = session.run is not None
        self.pause.enabled = self.cancel.enabled = state == "running"
        self.resume.enabled = session.can_resume
        if state == "done" and session.can_resume:
            self.said.text = (
                f"{len(session.unread())} studies could not be read; Resume tries them again. {self.said.text}"
            )
        self.plots.enabled = bool(progress.points)
        self._paint()

    def _paint(self) -> None:
        points = self._session.progress.points
        most = max((point.epoch for point in points), default=1)
        request = self._session.request
        asked = request.config.get("epochs", most) if request else most
        self.flagged.show(flagged_lines(points), max(most, min(asked, 100)), least=0)
        self.guard.show(guard_lines(points), max(most, min(asked, 100)))

    def _write_log(self, *, anew: bool) -> None:
        """Show the log's new lines; all of them for another run."""
        run, events = self._session.run, self._session.events
        if anew or self._lines < 0:
            self.log.setPlainText("\n".join(log_line(event) for event in events[-MOST_LINES:]))
        else:
            for event in events[self._lines :]:
                self.log.appendPlainText(log_line(event))
        self._lines = len(events)
        bar = self.log.verticalScrollBar()
        bar.setValue(bar.maximum)
        if self._session.progress.points:
            epochs_to_scene(run.out.name, self._session.progress.points)

    def _show_plots(self) -> None:
        charts = epochs_to_scene(self._session.run.out.name, self._session.progress.points)
        show_chart(charts[0])

"""The window with the four steps. It may be closed and opened again at any time; the session goes on without it."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer

from RVQCLib.files import RVQCError
from RVQCRefineLib.folder_page import FolderPage
from RVQCRefineLib.review_page import ReviewPage
from RVQCRefineLib.run_page import RunPage
from RVQCRefineLib.session import Session
from RVQCRefineLib.settings_page import SettingsPage
from RVQCSlicerLib.looks import hint
from RVQCSlicerLib.message import MessageBar
from RVQCSlicerLib.process import WorkerProcess
from RVQCSlicerLib.shortcuts import Shortcuts

FOLDER, SETTINGS, RUN, REVIEW = range(4)
RESEARCH = "Research use only. RVQC is not a medical device; a clinician reviews every mask."


class RefineDialog:
    """Steps at the top, a page below, Back and Next at the bottom."""

    def __init__(self, worker: WorkerProcess) -> None:
        self.message = MessageBar()
        self.session = Session(worker, lambda sentence, log: self.message.say(sentence, log=log))
        self.folder = FolderPage(self.session)
        self.settings = SettingsPage(self.session)
        self.run = RunPage(self.session, self.guarded)
        self.review = ReviewPage(self.session, self.guarded)
        self.pages = (self.folder, self.settings, self.run, self.review)
        self.window = qt.QDialog(slicer.util.mainWindow())
        self.window.objectName = "RVQCRefineDialog"
        self.window.windowTitle = "RVQC: refine a bundle on a folder of studies"
        self.window.setWindowFlags(qt.Qt.Window)
        self.window.resize(940, 760)
        self.window.connect("finished(int)", lambda result: self.review.leave())
        self.steps = [qt.QPushButton(f"{n}  {page.title}") for n, page in enumerate(self.pages, start=1)]
        self.back, self.next = qt.QPushButton("Back"), qt.QPushButton("Next")
        self.open, self.fresh = qt.QPushButton("Open run …"), qt.QPushButton("New run")
        self.stack = qt.QStackedWidget()
        self._lay_out()
        self._shortcuts = Shortcuts(self.review.keys())
        self._shortcuts.install(self.window)
        self.session.listen(lambda what: self._refresh())
        self.go_to(FOLDER)

    @property
    def page(self) -> int:
        """The step that is shown."""
        return self.stack.currentIndex

    def show(self) -> None:
        """Bring the window up, where it was left."""
        self.window.show()
        self.window.raise_()
        if self.page == REVIEW:
            self.review.enter()

    def close(self) -> None:
        """The module goes: end what runs, and the window."""
        self.review.leave()
        self.folder.close()
        self.settings.close()
        self._shortcuts.remove()
        self.session.shut()
        self.window.close()
        self.window.deleteLater()  # a child of the main window outlives the module

    def go_to(self, page: int) -> None:
        """Show a step."""
        if self.page == REVIEW and page != REVIEW:
            self.review.leave()
        self.stack.setCurrentIndex(page)
        if page == SETTINGS:
            self.settings.enter()
        elif page == REVIEW:
            self.review.enter()
        self._refresh()

    def open_run(self, path: str) -> None:
        """Show a run or a batch from the disk, at the step where it stands."""
        if self.guarded(lambda: self.session.open(path)):
            if self.session.request is not None:
                self.settings.show(self.session.request)
            self.go_to(REVIEW if self.session.batch or self.session.state == "done" else RUN)

    def guarded(self, action: Callable[[], None]) -> bool:
        """Do `action`; what a user can mend becomes one sentence at the top."""
        self.message.clear()
        try:
            action()
        except RVQCError as error:
            self.message.say(str(error))
        except OSError as error:
            said = f"{error.filename or 'A file'} could not be read or written ({error.strerror or error})."
            self.message.say(said)
        else:
            return True
        return False

    def _lay_out(self) -> None:
        column, top, bottom = qt.QVBoxLayout(self.window), qt.QHBoxLayout(), qt.QHBoxLayout()
        for number, button in enumerate(self.steps):
            button.objectName = f"RVQCStep_{number + 1}"
            button.checkable = True
            button.connect("clicked(bool)", lambda checked=False, n=number: self.go_to(n))
            top.addWidget(button)
        for page in self.pages:
            self.stack.addWidget(page.widget)
        names = ("RVQCOpenRun", "RVQCNewRun", "RVQCBack", "RVQCNext")
        for button, name in zip((self.open, self.fresh, self.back, self.next), names, strict=True):
            button.objectName = name
        self.open.toolTip = "Show a run from the disk: its folder ends in .refinement; or the folder of a batch"
        self.fresh.toolTip = "Leave this run as it is on the disk and begin another one"
        self.open.connect("clicked(bool)", lambda checked=False: self._on_open())
        self.fresh.connect("clicked(bool)", lambda checked=False: self._on_fresh())
        self.back.connect("clicked(bool)", lambda checked=False: self.go_to(self.page - 1))
        self.next.connect("clicked(bool)", lambda checked=False: self._on_next())
        research = qt.QLabel(RESEARCH)
        hint(research)
        bottom.addWidget(self.open)
        bottom.addWidget(self.fresh)
        bottom.addWidget(research, 1)
        bottom.addWidget(self.back)
        bottom.addWidget(self.next)
        column.addLayout(top)
        column.addWidget(self.message.widget)
        column.addWidget(self.stack, 1)
        column.addLayout(bottom)
        for button in slicer.util.findChildren(self.window, className="QPushButton"):
            button.autoDefault = False  # Enter in a field must not press a button

    def _refresh(self) -> None:
        """Which steps can be gone to, and what Next does."""
        session, page = self.session, self.page
        begun = session.run is not None
        batch = session.batch is not None
        allowed = (not batch, (begun and session.request is not None) or (self.folder.ready and not batch), begun,
                   batch or (begun and session.run.has_studies()))  # fmt: skip
        for number, button in enumerate(self.steps):
            button.enabled, button.checked = allowed[number], number == page
        starts = page == SETTINGS and not begun
        self.next.text = "Start" if starts else "Next"
        self.next.visible = page < REVIEW
        self.next.enabled = self.settings.ready if starts else page < REVIEW and allowed[page + 1]
        self.back.enabled = page > 0 and allowed[page - 1]
        self.open.enabled = self.fresh.enabled = not session.live
        self.fresh.visible = begun or batch

    def _on_next(self) -> None:
        starts = self.page == SETTINGS and self.session.run is None
        if starts and not self.settings.ready:
            return
        if starts and not self.guarded(lambda: self.session.start(self.settings.request())):
            self.session.forget()
        else:
            self.go_to(self.page + 1)

    def _on_open(self) -> None:
        path = qt.QFileDialog.getExistingDirectory(self.window, "Open a run", self.session.folder)
        if path:
            self.open_run(path)

    def _on_fresh(self) -> None:
        self.session.forget()
        self.go_to(FOLDER)

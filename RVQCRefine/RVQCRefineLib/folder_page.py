"""Step 1: the folder of unlabelled studies, what was recognised in it, and what to leave out."""

from __future__ import annotations

import os
from typing import Any

import qt

from RVQCRefineLib.session import Session
from RVQCSlicerLib.folder_line import folder_line
from RVQCSlicerLib.timers import one_shot

COLUMNS = ("Use", "Study", "Short axis", "Long axis", "What is wrong with it")
PAUSE_MS = 300
"""How long after the last change of the path its folder is looked through."""
_PHASES = {"ED": "ED", "ES": "ES", "": "cine, ED and ES are found in it"}


class FolderPage:
    """A path, and a table of the studies in it."""

    title = "Folder"

    def __init__(self, session: Session) -> None:
        self._session, self._filling = session, False
        self._shown: list[tuple[dict[str, Any], bool, bool]] = []
        self.widget = qt.QWidget()
        column = qt.QVBoxLayout(self.widget)
        self.path = folder_line(self._on_path)
        self.path.objectName = "RVQCFolder"
        self.path.toolTip = "A folder of studies without labels: a subfolder or a group of files each"
        self.said = qt.QLabel()
        self.said.objectName = "RVQCFolderSaid"
        self.said.wordWrap = True
        self.bar = qt.QProgressBar()
        self.bar.setRange(0, 0)
        self.table = qt.QTableWidget()
        self.table.objectName = "RVQCStudies"
        self.table.setColumnCount(len(COLUMNS))
        self.table.setHorizontalHeaderLabels(list(COLUMNS))
        self.table.horizontalHeader().stretchLastSection = True
        self.table.verticalHeader().visible = False
        self.table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        self.table.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        self.table.connect("itemChanged(QTableWidgetItem*)", self._on_item)
        self.all, self.none = qt.QPushButton("Use all"), qt.QPushButton("Use none")
        self.again = qt.QPushButton("Scan again")
        self.all.objectName, self.none.objectName, self.again.objectName = "RVQCUseAll", "RVQCUseNone", "RVQCScan"
        self.all.connect("clicked(bool)", lambda checked=False: self._tick_all(True))
        self.none.connect("clicked(bool)", lambda checked=False: self._tick_all(False))
        self.again.connect("clicked(bool)", lambda checked=False: self._scan())
        form, row = qt.QFormLayout(), qt.QHBoxLayout()
        form.addRow("Unlabelled studies:", self.path)
        for button in (self.all, self.none, self.again):
            row.addWidget(button)
        row.addStretch(1)
        column.addLayout(form)
        for part in (self.said, self.bar, self.table):
            column.addWidget(part)
        column.addLayout(row)
        self._timer = one_shot(self._scan, PAUSE_MS)
        session.listen(self._on_told)
        self._show()

    @property
    def ready(self) -> bool:
        """Whether there is something to go on with."""
        return bool(self._session.usable) and not self._session.scanning

    def close(self) -> None:
        """The dialog goes: a folder that was just typed is not looked through any more."""
        self._timer.stop()

    def _on_path(self, changed: Any) -> None:
        if not self._filling:
            self._timer.start()

    def _scan(self) -> None:
        path = self.path.currentPath
        if os.path.isdir(path):
            self._session.scan(path)
        else:
            self.said.text = f"{path} is no folder; choose the folder that holds the studies." if path else ""

    def _on_told(self, what: str) -> None:
        if what in ("scan", "run"):
            self._show()
        elif what == "ticks":
            self._count()

    def _show(self) -> None:
        session, self._filling = self._session, True
        if session.folder != self.path.currentPath and session.folder:
            self.path.currentPath = session.folder
        self.bar.visible = session.scanning
        free = session.run is None
        for part in (self.all, self.none):
            part.enabled = free
        # A run of the command does not say where its images are: then the folder can still be shown to it.
        self.path.enabled = self.again.enabled = free or (session.run is not None and session.request is None)
        self._fill_table(free)
        self._filling = False
        self._count()

    def _fill_table(self, free: bool) -> None:
        """Bring the table up to date; only rows that changed are touched, since there may be thousands."""
        left_out, before = self._session.left_out, self._shown
        self._shown = [(s, s["study"] not in left_out, free) for s in self._session.studies or ()]
        self.table.setRowCount(len(self._shown))
        written = False
        for row, now in enumerate(self._shown):
            was = before[row] if row < len(before) else None
            if was is None or (was[0] is not now[0] and was[0] != now[0]):
                self._write(row, now[0])
                written, was = True, None
            if was is None or was[1:] != now[1:]:
                self._tick(row, *now)
        if written:
            self.table.resizeColumnsToContents()
            self.table.horizontalHeader().stretchLastSection = True

    def _write(self, row: int, study: dict[str, Any]) -> None:
        texts = (study["study"], _phases(study, "SA"), _phases(study, "LA"), " ".join(study["problems"]))
        self.table.setItem(row, 0, qt.QTableWidgetItem(""))
        for column, text in enumerate(texts, start=1):
            item = qt.QTableWidgetItem(text)
            item.setToolTip(text)
            self.table.setItem(row, column, item)

    def _tick(self, row: int, study: dict[str, Any], used: bool, free: bool) -> None:
        use, sound = self.table.item(row, 0), not study["problems"]
        use.setCheckState(qt.Qt.Checked if used and sound else qt.Qt.Unchecked)
        use.setFlags(qt.Qt.ItemIsUserCheckable | qt.Qt.ItemIsEnabled if free and sound else qt.Qt.ItemIsSelectable)

    def _count(self) -> None:
        session = self._session
        if session.scanning:
            self.said.text = f"Looking through {session.folder} …"
        elif session.studies is None:
            self.said.text = (
                "Choose a folder. Only headers are read; nothing in it is changed, and labels in it are not read."
            )
        else:
            wrong = sum(bool(study["problems"]) for study in session.studies)
            faults = f"; {wrong} cannot be read, see the table" if wrong else ""
            self.said.text = f"{len(session.studies)} studies found, {len(session.usable)} will be used{faults}."

    def _on_item(self, item: qt.QTableWidgetItem) -> None:
        if not self._filling and item.column() == 0:
            study = self._session.studies[item.row()]
            if not study["problems"]:
                used = item.checkState() == qt.Qt.Checked
                self._shown[item.row()] = (study, used, self._shown[item.row()][2])
                self._session.tick(study["study"], used)

    def _tick_all(self, used: bool) -> None:
        names = [study["study"] for study in self._session.studies or [] if not study["problems"]]
        self._session.left_out = set() if used else set(names)
        self._session.tell("scan")


def _phases(study: dict[str, Any], view: str) -> str:
    """The phases of a view in words; "" where there is none."""
    return ", ".join(_PHASES[image["phase"]] for image in study["images"] if image["view"] == view)

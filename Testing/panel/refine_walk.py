"""A user's way through the refine dialog, with real clicks; the tests and the pictures go it together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PATIENCE_S = 900.0
"""The worker computes on whatever machine this is, perhaps beside much else."""


class Walk:
    """The dialog of module RVQCRefine, opened by its button. `panel` is the fixture."""

    def __init__(self, panel: Any) -> None:
        self.panel = panel
        self.module = panel.open("RVQCRefine")
        self.module.cleanup()  # what an earlier test left
        self.open()

    def open(self) -> None:
        """Click the module's button."""
        self.panel.click(self.module.open)
        self.dialog = self.module.dialog

    def restart(self) -> None:
        """End the dialog and its worker, as when Slicer is closed, and open a new one."""
        self.module.cleanup()
        self.open()

    @property
    def work(self) -> Path:
        """The folder of the run."""
        return self.dialog.session.run.path

    def events(self) -> list[dict[str, Any]]:
        """The log as it lies on the disk."""
        return [json.loads(line) for line in (self.work / "events.jsonl").read_text().splitlines()]

    def choose_folder(self, folder: Path) -> None:
        """Step 1: type a folder and wait for what is in it."""
        self.dialog.folder.path.currentPath = str(folder)
        self.panel.wait(lambda: self.dialog.session.scanning, 10)
        self.panel.wait(lambda: self.dialog.session.studies is not None, PATIENCE_S)

    def tick(self, study: str) -> None:
        """Click a study's box."""
        table = self.dialog.folder.table
        row = next(row for row in range(table.rowCount) if table.item(row, 1).text() == study)
        box = table.visualItemRect(table.item(row, 0))
        self.panel.click(table.viewport(), (box.left() + 10, box.center().y()))

    def set(self, *, bundle: Path | None, labelled: Path | None, **numbers: int) -> None:
        """Step 2, reached by Next: fill in what is given and wait until the run may begin."""
        self.panel.click(self.dialog.next)
        page = self.dialog.settings
        page.bundle.currentPath, page.labelled.currentPath = str(bundle or ""), str(labelled or "")
        for name, value in numbers.items():
            (page.epochs if name == "epochs" else page.numbers[name]).value = value
        self.panel.wait(lambda: not self.dialog.next.enabled, 10)
        self.panel.wait(lambda: self.dialog.next.enabled, PATIENCE_S)

    def picture(self, name: str) -> None:
        """Save what the window shows to the folder of ``--pictures``."""
        self.panel.shot(self.dialog.window, name)

    def start(self) -> None:
        """Click Start."""
        self.panel.click(self.dialog.next)

    def wait_for(self, event: str, times: int = 1) -> None:
        """Wait until the log on the disk has an event so many times, or the run fails."""

        def there() -> bool:
            return sum(e["event"] == event for e in self.events()) >= times

        self.panel.wait(lambda: there() or self.dialog.session.state == "failed", PATIENCE_S)
        assert there(), self.dialog.session.progress.message

    def wait_until(self, state: str) -> None:
        """Wait for a state of the run; a run that fails instead says why at once."""
        session = self.dialog.session
        self.panel.wait(lambda: session.state in (state, "failed"), PATIENCE_S)
        assert session.state == state, session.progress.message

    def select(self, places: list[int]) -> None:
        """Click rows of the review table, the second and later with Ctrl held."""
        import qt
        from PySide6.QtTest import QTest

        table = self.dialog.review.table.widget
        for number, place in enumerate(places):
            table.scrollToItem(table.item(place, 0))
            where = table.visualItemRect(table.item(place, 0)).center()
            held = qt.Qt.ControlModifier if number else qt.Qt.NoModifier
            QTest.mouseClick(table.viewport(), qt.Qt.LeftButton, held, where)
        self.panel.turn()

    def decide(self, kind: str) -> None:
        """Click one of the review's buttons and wait until it is done."""
        self.panel.click(self.dialog.review.buttons[kind])
        self.settle()

    def settle(self) -> None:
        """Wait until decisions are taken."""
        self.panel.wait(lambda: self.dialog.review.idle, 60)

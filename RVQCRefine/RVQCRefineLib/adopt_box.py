"""The last step: what the new bundle is worth beside the old one, and an explicit yes before it is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import qt
import slicer

from RVQCRefineLib.adoption import Comparison, adopt, compare, give_back
from RVQCRefineLib.rows import Row, counts
from RVQCRefineLib.session import Session
from RVQCSlicerLib.chosen_bundle import SETTING
from RVQCSlicerLib.parameters import Parameters
from RVQCSlicerLib.words import VERDICTS


class AdoptBox:
    """One line and a button; a click brings up the comparison, and only its button adopts.

    Parameters
    ----------
    reviewer, rows
        Give the reviewer's name and the rows with their decisions.
    """

    def __init__(
        self,
        session: Session,
        guarded: Callable[[Callable[[], None]], bool],
        reviewer: Callable[[], str],
        rows: Callable[[], Sequence[Row]],
    ) -> None:
        self._session, self._guarded, self._reviewer, self._rows = session, guarded, reviewer, rows
        self.widget = qt.QFrame()
        self.widget.objectName = "RVQCAdoptBox"
        self.widget.setFrameShape(qt.QFrame.StyledPanel)
        self.said, self.comparison = qt.QLabel(), qt.QLabel()
        self.said.objectName, self.comparison.objectName = "RVQCAdoptSaid", "RVQCComparison"
        self.said.wordWrap = self.comparison.wordWrap = True
        self.ask, self.yes, self.no = (qt.QPushButton(t) for t in ("Adopt the new bundle …", "Adopt", "Not now"))
        self.back = qt.QPushButton("Go back to the old bundle")
        self.ask.objectName, self.yes.objectName = "RVQCAskAdopt", "RVQCAdopt"
        self.no.objectName, self.back.objectName = "RVQCNotNow", "RVQCGiveBack"
        self.ask.connect("clicked(bool)", lambda checked=False: self._guarded(self._on_ask))
        self.yes.connect("clicked(bool)", lambda checked=False: self._guarded(self._on_yes))
        self.no.connect("clicked(bool)", lambda checked=False: self.show())
        self.back.connect("clicked(bool)", lambda checked=False: self._guarded(self._on_back))
        column, row, answers = qt.QVBoxLayout(self.widget), qt.QHBoxLayout(), qt.QHBoxLayout()
        row.addWidget(self.said, 1)
        row.addWidget(self.ask)
        row.addWidget(self.back)
        answers.addStretch(1)
        answers.addWidget(self.no)
        answers.addWidget(self.yes)
        column.addLayout(row)
        column.addWidget(self.comparison)
        column.addLayout(answers)
        self.show()

    def show(self) -> None:
        """Show how it stands; the comparison is put away."""
        session = self._session
        self.widget.visible = session.run is not None
        self.comparison.visible = self.yes.visible = self.no.visible = False
        done, adopted = session.state == "done", session.progress.adopted
        self.ask.visible, self.back.visible = not adopted, adopted
        self.ask.enabled = done and session.run is not None
        name = session.run.out.name if session.run is not None else ""
        if adopted:
            self.said.text = f"{name} is adopted: it is what RVQC uses from now on. The old bundle is still there."
        elif done:
            self.said.text = f"{name} is not used yet. Review first; adopting it is the last step."
        else:
            self.said.text = "The new bundle is not there yet; it comes at the end of the run."

    def _on_ask(self) -> None:
        found = compare(self._session.run)
        self.comparison.text = _table(found, self._rows())
        self.yes.text = f"Adopt {found.name}"
        self.comparison.visible = self.yes.visible = self.no.visible = True
        self.ask.enabled = False

    def _on_yes(self) -> None:
        was = str(slicer.app.userSettings().value(SETTING) or "")
        path = adopt(self._session.run, reviewer=self._reviewer(), was=was, rows=self._rows())
        self._use(path)

    def _on_back(self) -> None:
        self._use(give_back(self._session.run, reviewer=self._reviewer()))

    def _use(self, path: str) -> None:
        """Make a bundle the default of panel and dialog, in this scene too."""
        slicer.app.userSettings().setValue(SETTING, path)
        node = slicer.mrmlScene.GetSingletonNode("RVQCSegment", "vtkMRMLScriptedModuleNode")
        if node is not None:
            Parameters(node).bundle = path
        self._session.reread()
        self.show()


def _table(found: Comparison, rows: Sequence[Row]) -> str:
    """The comparison as a small table in Qt's rich text."""

    def value(number: float | None) -> str:
        return "–" if number is None else f"{number:.3f}"

    lines = [
        ("Flagged studies", str(found.flagged_before), f"{found.flagged_after} of {found.studies}"),
        (f"Guard: {found.guard_of}", value(found.guard_before), value(found.guard_after)),
    ]
    body = "".join(
        f"<tr><td>{escape(a)}</td><td align='right'>{b}</td><td align='right'>{c}</td></tr>" for a, b, c in lines
    )
    decided = ", ".join(f"{n} {kind or 'not decided'}" for kind, n in counts(list(rows)).items())
    unread = f" {found.failed} studies could not be read and have no new masks." if found.failed else ""
    style = f"color: {VERDICTS['ood'].ink}; background-color: {VERDICTS['ood'].wash}"
    warnings = "".join(f"<p style='{style}'>\N{BLACK UP-POINTING TRIANGLE} {escape(w)}</p>" for w in found.warnings)
    return (
        f"<p><b>Adopt {escape(found.name)} in place of {escape(found.parent)}?</b></p>"
        f"<table cellpadding='4'><tr><th></th><th>before</th><th>after</th></tr>{body}</table>"
        f"<p>{found.changed} networks changed; RVQC proposes the new masks of {found.proposed} studies.{unread} "
        f"Your decisions: {escape(decided)}. It ended because: {escape(found.stopped_because)}. "
        f"Calibration: {escape(found.calibration)}.</p>{warnings}"
        "<p>From then on panel and dialog use the new bundle. The old one stays where it is, and you can go back.</p>"
    )

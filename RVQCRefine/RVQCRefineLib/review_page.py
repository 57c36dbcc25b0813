"""Step 4: look at every stack before and after, decide, and at the very end adopt the new bundle or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer

from RVQCLib.files import RVQCError
from RVQCRefineLib import decisions
from RVQCRefineLib.adopt_box import AdoptBox
from RVQCRefineLib.flag_strips import FlagStrips
from RVQCRefineLib.nodes import cohort_to_scene, review_to_scene, show_chart
from RVQCRefineLib.rows import Row, accepted_file, counts
from RVQCRefineLib.session import Session
from RVQCRefineLib.side_by_side import SideBySide, accept_into_scene, withdraw
from RVQCRefineLib.stack_table import StackTable
from RVQCSlicerLib.looks import hint
from RVQCSlicerLib.steps import Steps

REVIEWER = "RVQC/Reviewer"
BUTTONS = {
    decisions.ACCEPT: ("Accept", "Ctrl+Return", "The new mask becomes the segmentation"),
    decisions.REJECT: ("Reject", "Ctrl+Backspace", "Neither mask is to be used"),
    decisions.KEEP_OLD: ("Keep old", "Ctrl+K", "The mask from before stays; the new one is not used"),
}


class ReviewPage:
    """The table, the slices, the buttons, and the box for the bundle. `guarded` shows the sentence of what is raised."""

    title = "Review"

    def __init__(self, session: Session, guarded: Callable[[Callable[[], None]], bool]) -> None:
        self._session, self._guarded = session, guarded
        self._steps: Steps | None = None
        self._stale = False
        self._failed: dict[str, str] = {}
        self.widget = qt.QWidget()
        self.table = StackTable(self._on_chosen)
        self.strips = FlagStrips(self._go_to)
        self.views = SideBySide(self.strips.mark)
        self.adopt = AdoptBox(session, guarded, lambda: self.reviewer.text, lambda: self.table.rows)
        self.counts, self.why = qt.QLabel(), qt.QLabel()
        self.counts.objectName, self.why.objectName = "RVQCReviewCounts", "RVQCReviewWhy"
        self.why.wordWrap = self.counts.wordWrap = True
        hint(self.why)
        self.follow, self.into_scene = (
            qt.QCheckBox("Show in the slice views"),
            qt.QCheckBox("Accepted masks also into the scene"),
        )
        self.follow.objectName, self.into_scene.objectName = "RVQCFollow", "RVQCIntoScene"
        self.follow.checked = self.into_scene.checked = True
        self.follow.toolTip = (
            "The stack that is chosen is loaded: before at the left (Red), after at the right (Yellow)"
        )
        self.into_scene.toolTip = "They are written to the folder 'accepted' in any case; untick for long lists"
        self.follow.connect("toggled(bool)", lambda checked: self._on_chosen())
        self.reviewer, self.note = qt.QLineEdit(), qt.QLineEdit()
        self.reviewer.objectName, self.note.objectName = "RVQCRefineReviewer", "RVQCRefineNote"
        self.reviewer.placeholderText = "your name, kept with every decision"
        self.note.placeholderText = "why, in a few words (may stay empty)"
        self.reviewer.text = str(slicer.app.userSettings().value(REVIEWER) or "")
        self.reviewer.connect("textEdited(QString)", lambda text: slicer.app.userSettings().setValue(REVIEWER, text))
        self.plot = qt.QPushButton("Table and plots in Slicer")
        self.plot.objectName = "RVQCReviewPlot"
        self.plot.toolTip = "All stacks as a table node, and charts of them"
        self.plot.connect("clicked(bool)", lambda checked=False: self._guarded(self._to_scene))
        self.buttons: dict[str, qt.QPushButton] = {}
        self._lay_out()
        session.listen(self._on_told)

    @property
    def idle(self) -> bool:
        """Whether no decision is being taken."""
        return self._steps is None

    def enter(self) -> None:
        """The page is shown: read the run anew, after a decision that is being taken."""
        self._stale = self._steps is not None
        if self._stale:
            return
        rows: list[Row] = []
        self._failed = {}
        self._guarded(lambda: rows.extend(self._session.rows()) or self._failed.update(self._session.unread()))
        self.table.show(rows)
        self._count()
        self.adopt.show()

    def leave(self) -> None:
        """Another page is shown, or the window is closed: what was only looked at leaves the scene."""
        self.views.clear()

    def keys(self) -> dict[str, Callable[[], None]]:
        """What the keyboard does while the window is active."""
        return {keys: lambda name=kind: self.decide(name) for kind, (_, keys, _) in BUTTONS.items()}

    def decide(self, kind: str) -> None:
        """Take a decision on all rows that are selected, one after the other."""
        places = self.table.places
        if not self.widget.visible or not places or self._steps is not None:
            return
        self._enable(False)
        chosen = [(place, self.table.rows[place]) for place in places]
        work = self._decide(kind, chosen, self._session.home, self._session.studies or ())
        self._steps = Steps(work, lambda error: self._decided(error, chosen[-1][1]))

    def _decide(
        self, kind: str, chosen: list[tuple[int, Row]], home: Path, studies: Sequence[Mapping[str, Any]]
    ) -> Iterator[None]:
        note, reviewer, into_scene = self.note.text, self.reviewer.text, self.into_scene.checked
        for place, row in chosen:
            image = decisions.image_of(studies, row)
            row = decisions.decide(home, row, kind, reviewer=reviewer, note=note, image=image)
            self.table.update(place, row)
            if kind != decisions.ACCEPT:
                withdraw(row)
            elif into_scene:
                yield
                accept_into_scene(home, row, image, accepted_file(home, row))
            yield

    def _decided(self, error: Exception | None, last: Row) -> None:
        self._steps = None
        self._enable(True)
        if self._stale:
            self.enter()
        self._count()
        self.adopt.show()
        if error is None:
            self.note.text = ""
            rows = self.table.rows
            self.table.choose_next(next((place for place, row in enumerate(rows) if row.key == last.key), -1))
        else:
            self._guarded(lambda: _raise(error))

    def _on_told(self, what: str) -> None:
        if what == "run" and self.widget.visible:
            self.enter()

    def _on_chosen(self) -> None:
        places = self.table.places
        row = self.table.rows[places[0]] if len(places) == 1 else None
        self.strips.show(row)
        self.why.text = (
            _reasons(row)
            if row
            else f"{len(places)} stacks are chosen; a decision is taken for each."
            if places
            else ""
        )
        self._enable(bool(places))
        if row is None or not self.follow.checked:
            self.views.clear()
        elif self.widget.visible:
            image = decisions.image_of(self._session.studies or (), row)
            self._guarded(lambda: self.views.show(row, image))

    def _go_to(self, index: int) -> None:
        self.views.go_to(index)
        self.strips.mark(index)

    def _enable(self, enabled: bool) -> None:
        two_masks = self._session.batch is None
        for kind, button in self.buttons.items():
            button.enabled = enabled and (two_masks or kind != decisions.KEEP_OLD)
        accept = "Accept new" if two_masks else "Accept"
        self.buttons[decisions.ACCEPT].text = f"{accept}   {BUTTONS[decisions.ACCEPT][1]}"

    def _count(self) -> None:
        found = counts(self.table.rows)
        said = ", ".join(f"{found[kind]} {kind}" for kind in BUTTONS if kind in found)
        more = f"{found.get('', 0)} not decided yet" if self.table.rows else "There is nothing to review yet"
        self.counts.text = f"{len(self.table.rows)} stacks, worst first: {f'{said}, ' if said else ''}{more}."
        if self._failed:
            few = "; ".join(f"{study}: {why}" for study, why in list(self._failed.items())[:3])
            count = f" of {len(self._failed)}, see the tool tip" if len(self._failed) > 3 else ""
            self.counts.text += f" Without a new mask{count}: {few}"
        self.counts.toolTip = "\n".join(f"{study}: {why}" for study, why in self._failed.items())

    def _to_scene(self) -> None:
        session = self._session
        if session.batch is not None:
            charts = cohort_to_scene(session.batch)
        else:
            charts = [review_to_scene(session.run.out.name, self.table.rows)]
        if charts:
            show_chart(charts[0])

    def _lay_out(self) -> None:
        column = qt.QVBoxLayout(self.widget)
        top, switches, who, row = (qt.QHBoxLayout() for _ in range(4))
        top.addWidget(self.counts, 1)
        top.addWidget(self.table.filter)
        top.addWidget(self.plot)
        switches.addWidget(self.follow)
        switches.addWidget(self.into_scene)
        switches.addStretch(1)
        for words, part in (("Reviewer:", self.reviewer), ("Note:", self.note)):
            who.addWidget(qt.QLabel(words))
            who.addWidget(part, 1)
        for kind, (text, keys, words) in BUTTONS.items():
            button = qt.QPushButton(f"{text}   {keys}")
            button.objectName = f"RVQCRefine{text.replace(' ', '')}"
            button.toolTip = f"{words}; for all stacks that are selected"
            button.connect("clicked(bool)", lambda checked=False, name=kind: self.decide(name))
            row.addWidget(button)
            self.buttons[kind] = button
        column.addLayout(top)
        column.addWidget(self.table.widget, 1)
        column.addWidget(self.strips.widget)
        column.addWidget(self.why)
        for line in (switches, who, row):
            column.addLayout(line)
        column.addWidget(self.adopt.widget)


def _reasons(row: Row) -> str:
    """What was said of a stack, in one paragraph."""
    said = []
    for words, judged in (("Before", row.before), ("After", row.after)):
        if judged is not None:
            said.append(f"{words}: {'; '.join(judged.reasons[:3]) or 'nothing unusual'}.")
    if row.proposal:
        said.append(f"RVQC proposes the {'new' if row.proposed else 'old'} mask: {row.proposal}.")
    return " ".join(said)


def _raise(error: Exception) -> None:
    if isinstance(error, RVQCError | OSError):
        raise error
    raise RuntimeError(f"a decision could not be taken ({error})") from error

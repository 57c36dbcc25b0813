"""Accept, reject, needs edit: with a note and a name, from the keyboard."""

from __future__ import annotations

from collections.abc import Callable

import qt

from RVQCSlicerLib.parameters import Parameters
from RVQCSlicerLib.review import ACCEPTED, NEEDS_EDIT, REJECTED, Decision
from RVQCSlicerLib.words import short

BUTTONS = {
    ACCEPTED: ("Accept", "Ctrl+Return", "Make it the final segmentation"),
    REJECTED: ("Reject", "Ctrl+Backspace", "Not to be used"),
    NEEDS_EDIT: (
        "Needs edit",
        "Ctrl+Shift+E",
        "Make a segmentation for Slicer's Segment Editor; accept it when it is right",
    ),
}


class ReviewBox:
    """The reviewer's buttons.

    Parameters
    ----------
    decided : Is called with the kind of decision.
    edit, save : Are called to open the Segment Editor, and to save a DICOM SEG.
    """

    def __init__(
        self,
        parameters: Callable[[], Parameters],
        decided: Callable[[str], None],
        edit: Callable[[], None],
        save: Callable[[], None],
    ) -> None:
        self._parameters, self._decided = parameters, decided
        self.widget = qt.QWidget()
        form = qt.QFormLayout(self.widget)
        form.setContentsMargins(0, 0, 0, 0)
        self.reviewer, self.note = qt.QLineEdit(), qt.QLineEdit()
        self.reviewer.objectName, self.note.objectName = "RVQCReviewer", "RVQCNote"
        self.reviewer.placeholderText = "your name, kept with every decision"
        self.note.placeholderText = "why, in a few words (may stay empty)"
        self.reviewer.connect("textEdited(QString)", self._on_reviewer)
        self.state = qt.QLabel()
        self.state.objectName = "RVQCReviewState"
        self.state.wordWrap = True
        row, self.buttons = qt.QHBoxLayout(), {}
        for kind, (text, keys, words) in BUTTONS.items():
            button = qt.QPushButton(f"{text}\n{keys}")
            button.objectName = f"RVQCDecide_{text.replace(' ', '')}"
            button.toolTip = words
            button.connect("clicked(bool)", lambda checked=False, name=kind: self._decided(name))
            row.addWidget(button)
            self.buttons[kind] = button
        self.edit = qt.QPushButton("Open in Segment Editor")
        self.edit.connect("clicked(bool)", lambda checked=False: edit())
        self.dicom = qt.QPushButton("Save as DICOM SEG…")
        self.dicom.objectName = "RVQCSaveDICOM"
        self.dicom.connect("clicked(bool)", lambda checked=False: save())
        after = qt.QHBoxLayout()
        for button in (self.edit, self.dicom):
            after.addWidget(button)
        for words, field in (("Reviewer:", self.reviewer), ("Note:", self.note)):
            form.addRow(words, field)
        for part in (row, self.state, after):
            form.addRow(part)

    @property
    def decision(self) -> Decision:
        """Who decides, and why, as it stands in the fields."""
        return Decision(self.reviewer.text, self.note.text)

    def show(self, key: str, state: str, *, editable: bool, no_dicom: str) -> None:
        """Say which stack is decided on and how its review stands; `no_dicom` says why there can be no DICOM SEG."""
        self.widget.enabled = bool(key)
        self.reviewer.text = self._parameters().reviewer
        self.state.text = f"{short(key)}: {state}" if key else ""
        self.edit.enabled = editable
        self.dicom.enabled = not no_dicom
        self.dicom.toolTip = no_dicom or "The accepted mask, in a folder and in Slicer's DICOM database"

    def _on_reviewer(self, text: str) -> None:
        self._parameters().reviewer = text

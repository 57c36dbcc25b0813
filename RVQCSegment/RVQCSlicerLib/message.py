"""One sentence for what went wrong, with a way to see the log: in the panel, not in a dialog."""

from __future__ import annotations

import qt


class MessageBar:
    """A sentence, and buttons for its log, for what may help (`offer`), and to close it."""

    def __init__(self) -> None:
        self._offered = None
        self.widget = qt.QFrame()
        self.widget.objectName = "RVQCMessage"
        self.widget.setStyleSheet(
            "#RVQCMessage { background: #fff3d6; border: 2px solid #e0a100; border-radius: 6px; }"
            "#RVQCMessage QLabel { color: #1b2530; }"
        )
        column, row = qt.QVBoxLayout(self.widget), qt.QHBoxLayout()
        self.sentence, self.log = qt.QLabel(), qt.QPlainTextEdit()
        self.sentence.objectName = "RVQCMessageText"
        self.sentence.wordWrap = True
        self.log.readOnly = True
        self.log.setMinimumHeight(160)
        self.show_log, self.help, self.close = qt.QPushButton("Show log"), qt.QPushButton(), qt.QPushButton("Close")
        self.show_log.objectName, self.help.objectName = "RVQCShowLog", "RVQCHelp"
        self.show_log.connect("clicked(bool)", self._on_log)
        self.help.connect("clicked(bool)", self._on_help)
        self.close.connect("clicked(bool)", lambda checked=False: self.clear())
        column.addWidget(self.sentence)
        column.addLayout(row)
        column.addWidget(self.log)
        for button in (self.help, self.show_log, self.close):
            row.addWidget(button)
        row.addStretch(1)
        self.clear()

    @property
    def text(self) -> str:
        """The sentence, "" while there is none."""
        return self.sentence.text

    def say(self, sentence: str, *, log: str = "", offer: str = "", helps=None) -> None:
        """Show a sentence. With `offer`, a button of that text calls `helps`."""
        self.sentence.text = sentence
        self.log.setPlainText(log)
        self.log.visible = False
        self.show_log.visible = bool(log)
        self.help.text, self.help.visible, self._offered = offer, bool(offer), helps
        self.widget.visible = True

    def clear(self) -> None:
        """Take the sentence away."""
        self.sentence.text = ""
        self.widget.visible = False

    def _on_log(self, checked: bool = False) -> None:
        self.log.visible = not self.log.visible

    def _on_help(self, checked: bool = False) -> None:
        helps = self._offered
        self.clear()
        if helps is not None:
            helps()

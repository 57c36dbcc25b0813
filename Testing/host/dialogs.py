"""Dialogs that a test answers: every message is recorded, none waits for a person while testing.

In a window opened for a person (`testing` false) messages and file dialogs are the real ones.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from PySide6 import QtWidgets


@dataclass(frozen=True)
class Shown:
    """One message that the user would have seen. `level` is "info", "warning", "error" or "question"."""

    level: str
    text: str
    title: str


@dataclass
class Answers:
    """What was shown so far, and what the next questions and file dialogs are answered with.

    `buttons` and `paths` are used up from the front. Without a button a question is confirmed (to retry is
    not), as Slicer's testing mode says it does; without a path a file dialog is cancelled.
    """

    testing: bool = False
    shown: list[Shown] = field(default_factory=list)
    buttons: list[bool] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def clear(self) -> None:
        self.shown.clear()
        self.buttons.clear()
        self.paths.clear()

    def texts(self, level: str) -> list[str]:
        return [message.text for message in self.shown if message.level == level]


answers = Answers()
LEVELS = {logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"}


def record_messages(util: Any) -> None:
    """Put `answers` between `slicer.util`'s message functions and the screen."""
    shown_for_real = util._messageDisplay
    buttons = QtWidgets.QMessageBox.StandardButton
    yes_and_no = {"Ok": (buttons.Ok, buttons.Cancel), "Yes": (buttons.Yes, buttons.No)}
    yes_and_no["Retry"] = (buttons.Retry, buttons.Close)

    def display(level: int, text: str, result: Any, *arguments: Any, **keywords: Any) -> Any:
        offered = keywords.get("standardButtons", buttons.Ok)
        pair = next((pair for pair in yes_and_no.values() if offered == pair[0] | pair[1]), None)
        kind = "question" if pair else LEVELS[level]
        answers.shown.append(Shown(kind, text, keywords.get("windowTitle") or ""))
        if not answers.testing:
            return shown_for_real(level, text, result, *arguments, **keywords)
        logging.log(level, text)
        if pair is None:
            return result
        confirmed = answers.buttons.pop(0) if answers.buttons else result is not False
        return pair[0] if confirmed else pair[1]

    def box(text: str, parent: Any = None, **keywords: Any) -> Any:
        answers.shown.append(Shown("info", text, keywords.get("windowTitle") or ""))
        return buttons.Ok if answers.testing else box_for_real(text, parent, **keywords)

    box_for_real = util.messageBox
    util._messageDisplay = display
    util.messageBox = box


def path_asked(ask: Any, arguments: tuple[Any, ...]) -> Any:
    """The next answer while testing, else what a person chose; PySide6's (path, filter) becomes the path."""
    if answers.testing:
        return answers.paths.pop(0) if answers.paths else ""
    chosen = ask(*arguments)
    return chosen[0] if isinstance(chosen, tuple) else chosen


class QFileDialog(QtWidgets.QFileDialog):
    """Qt's, whose static functions return a string (a tuple of strings for several files), as PythonQt's do."""

    @staticmethod
    def getOpenFileName(*arguments: Any) -> str:
        return path_asked(QtWidgets.QFileDialog.getOpenFileName, arguments)

    @staticmethod
    def getSaveFileName(*arguments: Any) -> str:
        return path_asked(QtWidgets.QFileDialog.getSaveFileName, arguments)

    @staticmethod
    def getExistingDirectory(*arguments: Any) -> str:
        return path_asked(QtWidgets.QFileDialog.getExistingDirectory, arguments)

    @staticmethod
    def getOpenFileNames(*arguments: Any) -> tuple[str, ...]:
        chosen = path_asked(QtWidgets.QFileDialog.getOpenFileNames, arguments)
        return (chosen,) if isinstance(chosen, str) and chosen else tuple(chosen)

"""A line for the path of a folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ctk


def folder_line(changed: Callable[[Any], None]) -> ctk.ctkPathLineEdit:
    """A line with a button that chooses a folder; `changed` is called when the path becomes another or is emptied.

    CTK's `currentPathChanged` is silent about an empty line, which it does not count as valid.
    """
    line = ctk.ctkPathLineEdit()
    line.filters = ctk.ctkPathLineEdit.Dirs
    line.connect("currentPathChanged(QString)", changed)
    line.connect("validInputChanged(bool)", changed)
    return line

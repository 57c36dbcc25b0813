"""What there is to compute with, and one button for what is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt

_UNKNOWN = "Not looked at yet."
INSTALLING = "Installing; this can take minutes, in which Slicer may not answer."


class SetupRow:
    """One line about torch, the device and the bundle. `check` and `install` are called when the user asks."""

    def __init__(self, check: Callable[[], None], install: Callable[[], None]) -> None:
        self.widget = qt.QWidget()
        column, row = qt.QVBoxLayout(self.widget), qt.QHBoxLayout()
        column.setContentsMargins(0, 0, 0, 0)
        self.said = qt.QLabel(_UNKNOWN)
        self.said.objectName = "RVQCSetup"
        self.said.wordWrap = True
        self.check, self.install = qt.QPushButton("Check"), qt.QPushButton("Install what is missing")
        self.check.objectName, self.install.objectName = "RVQCCheck", "RVQCInstall"
        self.check.toolTip = "Look at torch, the device and the bundle in the worker process"
        self.install.toolTip = "torch by the PyTorch extension, the rest by pip; you are asked first"
        self.check.connect("clicked(bool)", lambda checked=False: check())
        self.install.connect("clicked(bool)", lambda checked=False: install())
        row.addWidget(self.said, 1)
        row.addWidget(self.check)
        column.addLayout(row)
        column.addWidget(self.install)
        self.install.visible = False
        self.missing: list[str] = []

    def wait(self, said: str = "Looking …") -> None:
        """Say what is going on; until `show` nothing else can be asked for."""
        self.said.text = said
        self.check.enabled = self.install.enabled = False

    def show(self, found: dict[str, Any] | None) -> None:
        """Show the answer of the job "check"; None where there was none."""
        self.check.enabled = self.install.enabled = True
        self.missing = found["missing"] if found else []
        self.install.visible = bool(self.missing)
        self.said.text = describe(found) if found else _UNKNOWN
        bundle = (found or {}).get("bundle")
        self.said.toolTip = f"{bundle['path']}\nhash {bundle['hash']}\nlicense: {bundle['license']}" if bundle else ""


def describe(found: dict[str, Any]) -> str:
    """The answer of the job "check" in one line: what there is, or what is in the way."""
    if found["problems"]:
        return "\N{BLACK UP-POINTING TRIANGLE} " + " ".join(found["problems"])
    device, bundle = found["device"], found["bundle"]
    memory = f", {device['memory_gb']:g} GB" if device["memory_gb"] else ""
    return (
        f"\N{CHECK MARK} torch {found['packages']['torch']} on {device['name']} ({device['description']}{memory}); "
        f"bundle {bundle['name']} ({', '.join(bundle['views'])})"
    )

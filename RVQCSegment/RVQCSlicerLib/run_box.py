"""Run and Cancel, how far it is, and what it runs with."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import ctk
import qt
import slicer

from RVQCSlicerLib.chosen_bundle import chosen_bundle
from RVQCSlicerLib.folder_line import folder_line
from RVQCSlicerLib.looks import hint, main_button, warn
from RVQCSlicerLib.parameters import Parameters, default_results
from RVQCSlicerLib.words import VERDICTS

DEVICES = ("auto", "cuda", "mps", "cpu")
_WORDS = {
    "load": "reading the images",
    "networks": "loading the networks",
    "write": "writing the masks",
    "show": "bringing the masks into the scene",
}


class RunBox:
    """The bundle, the device, where results go; Run QC, progress, Cancel. `run` and `cancel` are called on a click."""

    def __init__(
        self, parameters: Callable[[], Parameters], run: Callable[[], None], cancel: Callable[[], None]
    ) -> None:
        self._parameters, self._updating = parameters, False
        self.widget = qt.QWidget()
        column = qt.QVBoxLayout(self.widget)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self._settings())
        column.addLayout(self._bundle_row())
        self.run, self.cancel = qt.QPushButton("Run QC"), qt.QPushButton("Cancel")
        self.run.objectName, self.cancel.objectName = "RVQCRun", "RVQCCancel"
        main_button(self.run)
        self.run.connect("clicked(bool)", lambda checked=False: run())
        self.cancel.connect("clicked(bool)", lambda checked=False: cancel())
        self.bar, self.said = qt.QProgressBar(), qt.QLabel()
        self.said.objectName = "RVQCProgress"
        row = qt.QHBoxLayout()
        row.addWidget(self.run, 1)
        row.addWidget(self.cancel)
        column.addLayout(row)
        column.addWidget(self.bar)
        column.addWidget(self.said)
        self.rest(ready=False)

    def show(self) -> None:
        """Show what the parameters say."""
        self._updating = True
        parameters = self._parameters()
        self.bundle.currentPath = parameters.bundle
        self.results.currentPath = parameters.results_folder
        self.device.currentIndex = DEVICES.index(parameters.device) if parameters.device in DEVICES else 0
        self._updating = False
        self._say_folders()

    def rest(self, *, ready: bool) -> None:
        """Nothing runs; `ready` says whether there is something to run."""
        self.run.enabled = ready
        self.run.toolTip = "Segment and judge the chosen images" if ready else "Choose an image and a name first"
        self.cancel.visible = self.bar.visible = self.said.visible = False

    def begin(self) -> None:
        """A run has begun."""
        self.run.enabled = False
        self.cancel.visible = self.bar.visible = self.said.visible = True
        self.bar.setRange(0, 0)
        self.said.text = "starting the worker"

    def tell(self, event: dict[str, Any]) -> None:
        """Show an event of the engine."""
        if event["event"] in _WORDS:
            self.said.text = _WORDS[event["event"]]
        elif event["event"] == "slices":
            self.bar.setRange(0, event["total"])
            self.bar.setValue(event["done"])
            what = f"{event['study']} {event['stack'].replace('_', ' ')}"
            self.said.text = f"{what}: {event['done']} of {event['total']} steps, {_time(event['seconds_left'])} left"

    def _settings(self) -> ctk.ctkCollapsibleButton:
        box = ctk.ctkCollapsibleButton()
        box.text = "Bundle, device, results"
        box.collapsed = True
        form = qt.QFormLayout(box)
        self.bundle, self.results = (folder_line(self._on_changed) for _ in range(2))
        self.device = qt.QComboBox()
        self.bundle.objectName, self.results.objectName = "RVQCBundle", "RVQCResults"
        self.bundle.toolTip = (
            "Folder of a bundle; empty for the one adopted in RVQC Refine, else the one that comes with RVQC"
        )
        self.results.toolTip = "Where every study's folder and the log of reviews are written"
        for device in DEVICES:
            self.device.addItem(device)
        self.device.toolTip = "auto takes the first of cuda, mps, cpu that really computes"
        self.device.connect("currentIndexChanged(int)", self._on_changed)
        form.addRow("Bundle:", self.bundle)
        form.addRow("Results:", self.results)
        self.results_in = qt.QLabel()
        self.results_in.objectName, self.results_in.wordWrap = "RVQCResultsIn", True
        hint(self.results_in)
        form.addRow("", self.results_in)
        form.addRow("Device:", self.device)
        return box

    def _bundle_row(self) -> qt.QHBoxLayout:
        row, refine = qt.QHBoxLayout(), qt.QPushButton("Refine on a folder…")
        self.in_use = qt.QLabel()
        self.in_use.objectName, refine.objectName = "RVQCBundleInUse", "RVQCRefine"
        self.in_use.wordWrap = True
        refine.toolTip = (
            "Open RVQC Refine: a bundle learns, without labels, from studies that it could not be trusted with"
        )
        refine.connect("clicked(bool)", lambda checked=False: slicer.util.selectModule("RVQCRefine"))
        row.addWidget(self.in_use, 1)
        row.addWidget(refine)
        return row

    def _say_folders(self) -> None:
        folder = self._parameters().results_folder or default_results()
        breakable = folder.replace(os.sep, f"{os.sep}\N{ZERO WIDTH SPACE}")  # else a long path would widen the panel
        self.results_in.text = f"Results go to {breakable}, accepted masks to its folder “accepted”."
        chosen = chosen_bundle(self._parameters().bundle)
        self.in_use.text, self.in_use.toolTip = chosen.said, chosen.path
        warn(self.in_use, VERDICTS["look"] if chosen.gone else None)

    def _on_changed(self, value: Any) -> None:
        if self._updating:
            return
        parameters = self._parameters()
        parameters.bundle, parameters.results_folder = self.bundle.currentPath, self.results.currentPath
        parameters.device = DEVICES[self.device.currentIndex]
        self._say_folders()


def _time(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"

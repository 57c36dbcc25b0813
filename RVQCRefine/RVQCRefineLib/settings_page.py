"""Step 2: the bundle, labelled studies or none, the mode, how long, on what, and where the new bundle goes."""

from __future__ import annotations

import os
from typing import Any

import ctk
import qt
import slicer

from RVQCLib.recipes import RefinementConfig
from RVQCRefineLib.run_folder import Request, free_name, work_of
from RVQCRefineLib.session import Session
from RVQCSlicerLib.chosen_bundle import ChosenBundle, chosen_bundle
from RVQCSlicerLib.folder_line import folder_line
from RVQCSlicerLib.looks import hint, warn
from RVQCSlicerLib.parameters import Parameters
from RVQCSlicerLib.process import Outcome
from RVQCSlicerLib.setup_row import describe
from RVQCSlicerLib.timers import one_shot
from RVQCSlicerLib.words import VERDICTS

DEVICES = ("auto", "cuda", "mps", "cpu")
MODES = {
    "guarded": "Learns from labelled slices that are given the look of the flagged studies. What is learnt becomes a second pool of "
    "networks, asked only about studies that the old ones cannot be trusted with. All is taken back if the Dice on the guard falls.",
    "paper": "Equation 2 of Galati and Zuluaga (2021): learns from the reconstructions with weight 1/k in epoch k; no guard.",
    "entropy": "Makes the networks surer of themselves (TENT), the baseline that others use; no labels, no guard.",
    "none": "Learns nothing: the studies are segmented and judged with the bundle as it is.",
}
SUPERVISED = ("guarded", "paper")
DEFAULT = RefinementConfig()
_NUMBERS = {
    "steps": ("Steps of an epoch:", DEFAULT.steps, 1, 1000, "The most steps of an epoch"),
    "batch": (
        "Slices of a step:",
        DEFAULT.batch,
        2,
        256,
        "An even number; where there are labelled ones, all are labelled in guarded, half of them in paper",
    ),
    "seed": ("Seed:", DEFAULT.seed, 0, 999999, "Of every random choice; the same seed gives the same bundle"),
}
PAUSE_MS = 400
GONE = "\N{BLACK UP-POINTING TRIANGLE}"


class SettingsPage:
    """A form whose defaults are enough."""

    title = "Settings"

    def __init__(self, session: Session) -> None:
        self._session, self._filling, self._asked, self._out = session, False, 0, ""
        self._bundle, self._chosen = "", ChosenBundle("", "")
        self.checked: dict[str, Any] | None = None
        self.widget = qt.QWidget()
        self._form = qt.QFormLayout(self.widget)
        self.bundle, self.labelled, self.out = (folder_line(self._on_changed) for _ in range(3))
        self.bundle.objectName, self.labelled.objectName, self.out.objectName = "RVQCOld", "RVQCLabelled", "RVQCNew"
        self.bundle.toolTip = "The bundle to refine; empty for the one that comes with RVQC. It is not changed"
        self.labelled.toolTip = "Studies with true masks, for L_SUP and the guard; may stay empty"
        self.out.toolTip = "A folder that is not there yet; checkpoints and masks go beside it"
        self.mode, self.device, self.epochs = qt.QComboBox(), qt.QComboBox(), qt.QSpinBox()
        self.mode.objectName, self.device.objectName, self.epochs.objectName = "RVQCMode", "RVQCDevice", "RVQCKSemi"
        for mode in MODES:
            self.mode.addItem(f"{mode} (recommended)" if mode == "guarded" else mode)
        for device in DEVICES:
            self.device.addItem(device)
        self.epochs.setRange(0, 100)
        self.epochs.value = DEFAULT.epochs
        self.epochs.toolTip = "The most epochs of each candidate; fewer where a guard, a plateau or no flags end it"
        self.labels, self.mode_said, self.device_said, self.out_said, self.bundle_said = (_words() for _ in range(5))
        self.labels.objectName, self.device_said.objectName = "RVQCLabelsSaid", "RVQCDeviceSaid"
        self.bundle_said.objectName = "RVQCBundleSaid"
        self.numbers: dict[str, qt.QSpinBox] = {}
        self._lay_out()
        self._timer = one_shot(self._check, PAUSE_MS)
        for part in (self.mode, self.device):
            part.connect("currentIndexChanged(int)", self._on_changed)
        session.listen(self._on_told)
        self._explain()

    @property
    def ready(self) -> bool:
        """Whether a run may begin."""
        found = self.checked
        return bool(found and not found["problems"] and self.out.currentPath.strip()) and self._session.run is None

    def enter(self) -> None:
        """The page is shown: fill in what is still empty and see what there is to compute with."""
        if self._session.run is None:
            self._take_bundle()
            self._name_out()
            self._check()

    def close(self) -> None:
        """The dialog goes: a check that was still to come would start the worker once more."""
        self._timer.stop()

    def request(self) -> Request:
        """What the form asks for."""
        mode = list(MODES)[self.mode.currentIndex]
        config = {"mode": mode, "epochs": self.epochs.value, "margin": self.margin.value}
        config |= {name: box.value for name, box in self.numbers.items()}
        config["batch"] -= config["batch"] % 2
        session, found = self._session, self.checked or {}
        return Request(
            folder=session.folder,
            studies=tuple(session.studies or ()),
            left_out=tuple(sorted(session.left_out)),
            bundle=self.bundle.currentPath.strip(),
            bundle_name=(found.get("bundle") or {}).get("name", ""),
            labelled=self.labelled.currentPath.strip(),
            device=DEVICES[self.device.currentIndex],
            out=os.path.abspath(self.out.currentPath.strip()),
            config=config,
        )

    def show(self, request: Request) -> None:
        """Show the settings of a run from the disk."""
        self._filling = True
        self.bundle.currentPath, self.labelled.currentPath = request.bundle, request.labelled
        self.out.currentPath, config = request.out, request.config
        self.mode.currentIndex = list(MODES).index(config.get("mode", "guarded"))
        self.device.currentIndex = DEVICES.index(request.device)
        self.epochs.value = config.get("epochs", self.epochs.value)
        self.margin.value = config.get("margin", self.margin.value)
        for name, box in self.numbers.items():
            box.value = config.get(name, box.value)
        self._filling = False
        self._say_bundle()
        self._explain()

    def _lay_out(self) -> None:
        more = ctk.ctkCollapsibleButton()
        more.text = "Advanced"
        inner = qt.QFormLayout(more)
        for name, (label, value, low, high, words) in _NUMBERS.items():
            box = qt.QSpinBox()
            box.objectName = f"RVQC_{name}"
            box.setRange(low, high)
            box.value, box.toolTip = value, words
            inner.addRow(label, box)
            self.numbers[name] = box
        self.numbers["batch"].singleStep = 2
        self.margin = qt.QDoubleSpinBox()
        self.margin.decimals, self.margin.singleStep, self.margin.value = 3, 0.005, DEFAULT.margin
        self.margin.toolTip = "By how much the guard's Dice may fall before all is taken back"
        inner.addRow("Margin of the guard:", self.margin)
        more.collapsed = True
        for label, part in (
            ("Bundle to refine:", self.bundle), ("", self.bundle_said), ("Compute on:", self.device), ("", self.device_said),
            ("Labelled studies:", self.labelled), ("", self.labels), ("Mode:", self.mode), ("", self.mode_said),
            ("Epochs K_semi, at most:", self.epochs), ("New bundle:", self.out), ("", self.out_said),
        ):  # fmt: skip
            self._form.addRow(label, part)
        self._form.addRow(more)

    def _name_out(self) -> None:
        """Propose a place for the new bundle, unless the user has named one."""
        if self._session.folder and self.out.currentPath in ("", self._out):
            bundle = (self.checked or {}).get("bundle") or {}
            self._out = str(free_name(self._session.folder, bundle.get("name", "bundle")))
            self.out.currentPath = self._out

    def _take_bundle(self) -> None:
        """Propose the bundle that is in use, the scene's or the adopted one, unless the user has named another."""
        node = slicer.mrmlScene.GetSingletonNode("RVQCSegment", "vtkMRMLScriptedModuleNode")
        chosen = chosen_bundle(Parameters(node).bundle if node is not None else "")
        if self.bundle.currentPath == self._bundle:
            self._bundle = chosen.path
            self.bundle.currentPath = chosen.path
        self._chosen = chosen
        self._say_bundle()

    def _say_bundle(self) -> None:
        """Which bundle it is; a folder that is gone is said, whoever named it."""
        path, chosen = self.bundle.currentPath.strip(), self._chosen
        gone = bool(path) and not os.path.isdir(path)
        if gone:
            said = f"{GONE} {path} is no folder; choose the bundle to refine, or leave this empty for the one that comes with RVQC."
        elif path == chosen.path:
            said, gone = chosen.said, chosen.gone
        else:
            said = (
                f"Bundle: {os.path.basename(path)}, chosen here." if path else "Bundle: the one that comes with RVQC."
            )
        self.bundle_said.text = said
        warn(self.bundle_said, VERDICTS["ood"] if gone else None)

    def _on_told(self, what: str) -> None:
        if what in ("run", "scan"):
            self.widget.enabled = self._session.run is None
            if what == "scan" and self._session.run is None:
                self._name_out()

    def _on_changed(self, value: Any) -> None:
        if not self._filling:
            self._say_bundle()
            self._explain()
            self._timer.start()

    def _explain(self) -> None:
        mode, labelled = list(MODES)[self.mode.currentIndex], bool(self.labelled.currentPath.strip())
        self.mode_said.text = MODES[mode]
        if labelled and mode in SUPERVISED:
            self.labels.text = "Learnt from in every step (L_SUP), but for a part that is never learnt from: on it the Dice is guarded."
        elif labelled:
            self.labels.text = "This mode learns from no labels; a part of the studies shows what becomes of the Dice."
        else:
            self.labels.text = (
                "Without labelled studies (no L_SUP) nothing can be compared with true masks: only the candidates' agreement guards "
                "the result, and the new bundle keeps the old calibration with wider bounds."
            )
        warn(self.labels, None if labelled else VERDICTS["look"])
        out = self.out.currentPath.strip()
        self.out_said.text = f"The old bundle stays. Checkpoints and masks go to {work_of(out)}" if out else ""

    def _check(self) -> None:
        """Ask the worker for torch, the device and the bundle."""
        if self._session.run is not None or self._session.live:
            return
        self._asked += 1
        number, self.checked = self._asked, None
        self.device_said.text = "Looking at the device and the bundle …"
        arguments = {"bundle": self.bundle.currentPath.strip() or None, "device": DEVICES[self.device.currentIndex]}
        self._session.worker.submit("check", arguments, done=lambda outcome: self._on_checked(number, outcome))
        self._session.tell("settings")

    def _on_checked(self, number: int, outcome: Outcome) -> None:
        if number != self._asked:
            return
        if outcome.kind == "result":
            self.checked = outcome.result
            more = " Open RVQC Segment and press Install what is missing." if outcome.result["missing"] else ""
            self.device_said.text = describe(outcome.result) + more
            self._name_out()
        else:
            self.device_said.text = outcome.message
        self._session.tell("settings")


def _words() -> qt.QLabel:
    label = qt.QLabel()
    label.wordWrap = True
    label.setMinimumWidth(480)  # else a form makes room for how it would be wrapped in the least width
    hint(label)
    return label

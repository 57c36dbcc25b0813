"""The panel: cardiac MR volumes to segmentations that somebody has accepted, with the QC in between.

Research use only, not a medical device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from RVQCLib.files import RVQCError
from RVQCSlicerLib import review, self_test
from RVQCSlicerLib.chosen_bundle import chosen_bundle
from RVQCSlicerLib.installer import install, outdated
from RVQCSlicerLib.loading import get_ready, load_study
from RVQCSlicerLib.panel import Panel
from RVQCSlicerLib.parameters import STACKS, Parameters, default_results
from RVQCSlicerLib.process import Outcome, application_worker
from RVQCSlicerLib.results import Result
from RVQCSlicerLib.run import Cine, Request, Run, chosen_images, run_and_wait, study_of
from RVQCSlicerLib.sample_data import register
from RVQCSlicerLib.scene import Transformed
from RVQCSlicerLib.setup_row import INSTALLING


class RVQCSegment(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("RVQC Segment")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation"), "Cardiac"]
        parent.dependencies = ["Terminologies", "Segmentations", "Sequences"]
        parent.contributors = ["The RVQC developers"]
        parent.helpText = _(
            "Segments the right ventricle, the left ventricle and the myocardium in cine MR, and says of every mask, slice "
            "by slice, how far it can be trusted. <b>Research use only, not a medical device.</b>"
        )
        parent.acknowledgementText = _("After Galati and Zuluaga, STACOM 2021.")
        slicer.app.connect("startupCompleted()", self._on_started)

    def _on_started(self) -> None:
        terminologies = slicer.modules.terminologies.logic()
        terminologies.LoadTerminologyFromFile(self.resourcePath("SegmentationCategoryTypeModifier-RVQC.term.json"))
        register(self.resourcePath("Icons/RVQCSegment.png"))


class RVQCSegmentLogic(ScriptedLoadableModuleLogic):
    """Runs QC without a panel; also for Python's console."""

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self.worker = application_worker()

    @property
    def parameters(self) -> Parameters:
        """What the panel remembers in the scene that is open now."""
        return Parameters(self.getParameterNode())

    def runQC(
        self,
        saED: Any = None,
        saES: Any = None,
        laED: Any = None,
        laES: Any = None,
        *,
        saCine: Cine | None = None,
        laCine: Cine | None = None,
        bundle: str = "",
        device: str = "auto",
        name: str = "",
        results: str = "",
        wait: bool = True,
        done: Callable[[Result | Outcome], None] | None = None,
        progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> Result | Run:
        """Segment and judge the images of one study, and fill the scene with masks and what was said of them.

        Parameters
        ----------
        saED, saES, laED, laES : Volume nodes, short and long axis, any of them.
        saCine, laCine : Sequence nodes as `Cine`, in place of the volumes of a view.
        bundle : Folder of a bundle; by default the one adopted in RVQC Refine, else the shipped one.
        device : auto, cuda, mps or cpu.
        name : Names the study; by default what the first volume's name begins with.
        results : Folder to write to, by default RVQC among the user's documents.
        wait : Return the `Result` when it is there; else return the `Run` at once, and call `done` later.
        done : Without `wait`, is called with the `Result`, or with an `Outcome` that says why there is none.
        progress : Is called with every event of the engine.

        Raises
        ------
        RVQCError
            A wrong input, or with `wait` a run that did not end well; one sentence.
        """
        if said := outdated():
            raise RVQCError(said)
        volumes = dict(zip(STACKS, (saED, saES, laED, laES), strict=True))
        cines = {view: cine for view, cine in (("SA", saCine), ("LA", laCine)) if cine is not None}
        request = Request(
            study=name or study_of([*volumes.values(), *(cine.sequence for cine in cines.values())]),
            out=results or default_results(),
            volumes={key: volume for key, volume in volumes.items() if volume is not None},
            cines=cines,
            bundle=chosen_bundle(bundle).path,
            device=device,
        )
        if wait:
            return run_and_wait(request, self.worker, progress or _nothing)
        return Run(request, self.worker, done=done or _nothing, progress=progress or _nothing)

    def runParameters(
        self, done: Callable[[Result | Outcome], None], progress: Callable[[dict[str, Any]], None]
    ) -> Run:
        """Run what the panel has chosen; a cine stands for the volumes of its view. Raises as `runQC`."""
        p = self.parameters
        return self.runQC(
            **chosen_images(p), bundle=p.bundle, device=p.device, name=p.study, results=p.results_folder,
            wait=False, done=done, progress=progress,
        )  # fmt: skip


def _nothing(event: Any) -> None:
    """What is called where nobody wants to be told."""


class RVQCSegmentWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Connects the parts of the panel with the logic; what a part looks like is in RVQCSlicerLib."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: RVQCSegmentLogic | None = None
        self.panel: Panel | None = None
        self._run: Run | None = None
        self._open, self._checked = False, None  # the bundle that the set-up row speaks of

    def setup(self) -> None:
        """Build the panel; nothing is started, nothing heavy imported."""
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = RVQCSegmentLogic()
        self.panel = Panel(self)
        if said := outdated():
            words = qt.QLabel(said)
            words.objectName, words.wordWrap = "RVQCOutdated", True
            self.layout.addWidget(words)
            self.layout.addStretch(1)
            return
        self.layout.addWidget(self.panel.widget)
        self.layout.addStretch(1)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self._on_scene_closing)
        self.addObserver(scene, scene.EndCloseEvent, self._on_scene_changed)
        self.addObserver(scene, scene.EndImportEvent, self._on_scene_changed)
        self.addObserver(scene, scene.NodeRemovedEvent, self._on_node_removed)
        self.panel.refresh()
        if getattr(self.parent, "isEntered", False):  # a reload, after which Slicer does not call enter
            self.enter()

    def cleanup(self) -> None:
        self.onCancel()
        self.panel.close()
        self.removeObservers()
        self.logic.worker.stop()

    def enter(self) -> None:
        """The panel is opened."""
        if outdated():
            return
        self._open = True
        get_ready()
        self.panel.shortcuts.install()
        self.panel.refresh()
        if self._checked != self._bundle() and not slicer.app.testingEnabled():
            self.onCheck()

    def exit(self) -> None:
        """Another module is opened: keys and, unless a run is going on, the worker's memory are given back."""
        self._open = False
        self.panel.shortcuts.remove()
        if self._run is None:
            self.logic.worker.stop()

    def onCheck(self) -> None:
        """Ask the worker what is there."""
        if self.logic.worker.held:
            return
        bundle = self._checked = self._bundle()
        self.panel.setup.wait()

        def answered(outcome: Outcome) -> None:
            if bundle == self._checked:  # else asked again meanwhile, of another bundle
                self._on_checked(outcome)

        asked = {"bundle": bundle or None, "device": self.logic.parameters.device}
        self.logic.worker.submit("check", asked, done=answered)

    def onInstall(self) -> None:
        """Install what is missing, after asking; nothing else can be started until that has ended."""
        worker, missing = self.logic.worker, self.panel.setup.missing
        if worker.held:
            return
        worker.stop()  # what it has open cannot be replaced everywhere
        qt.QApplication.setOverrideCursor(qt.Qt.WaitCursor)
        try:
            with worker.hold():
                self.panel.message.clear()
                self.panel.setup.wait(INSTALLING)
                self.panel.rest()
                slicer.app.processEvents()  # so that it can be read
                self._guarded(lambda: install(missing, self.resourcePath("requirements.txt")))
        finally:
            qt.QApplication.restoreOverrideCursor()
            self.panel.rest()
            self.onCheck()

    def onLoad(self, path: str) -> None:
        """Load a study from the disk and choose its images."""
        qt.QApplication.setOverrideCursor(qt.Qt.WaitCursor)
        try:
            if self._guarded(lambda: self.panel.inputs.take(load_study(path))):
                self.panel.put_away()
        finally:
            qt.QApplication.restoreOverrideCursor()
        self.panel.rest()
        self.panel.show_images()

    def onRun(self) -> None:
        """Judge the chosen images."""
        self.panel.message.clear()
        try:
            self._run = self.logic.runParameters(self._on_run_ended, self.panel.run.tell)
        except Transformed as error:
            harden = error.harden
            self.panel.message.say(str(error), offer="Harden and run", helps=lambda: (harden(), self.onRun()))
        except RVQCError as error:
            self.panel.message.say(str(error))
        else:
            self.panel.show_result(None)
            self.panel.run.begin()

    def onCancel(self) -> None:
        if self._run is not None:
            self._run.cancel()

    def onDecide(self, kind: str) -> None:
        """Take the reviewer's decision on the stack that is shown."""
        result, key, p = self.panel.result, self.panel.key, self.logic.parameters
        if result is None:
            return
        fallback = p.results_folder or default_results()
        if self._guarded(
            lambda: review.decide(
                result, key, kind, self.panel.review.decision, fallback=fallback, candidate=p.candidate
            )
        ):
            self.panel.review.note.text, p.candidate = "", 0
            self.panel.show_decision()

    def _on_run_ended(self, end: Result | Outcome) -> None:
        if isinstance(end, Result):
            self.panel.take(end, self._on_shown)
        else:
            self.panel.message.say(end.message, log=end.log)
            self._on_shown()

    def _on_shown(self) -> None:
        self._run = None
        self.panel.rest()
        self.panel.refresh()
        if not self._open:
            self.logic.worker.stop()

    def _bundle(self) -> str:
        return chosen_bundle(self.logic.parameters.bundle).path

    def _on_checked(self, outcome: Outcome) -> None:
        self.panel.setup.show(outcome.result if outcome.kind == "result" else None)
        if outcome.kind == "cancelled":
            self._checked = None  # it is asked again when the panel is opened next
        elif outcome.kind != "result":
            self.panel.message.say(outcome.message, log=outcome.log)

    def _guarded(self, action: Callable[[], Any]) -> bool:
        """Do `action`; what a user can mend becomes one sentence in the panel."""
        try:
            action()
        except (RVQCError, OSError) as error:
            self.panel.message.say(str(error))
            return False
        return True

    def _on_scene_closing(self, caller: Any, event: Any) -> None:
        if self._run is not None:
            self._run.cancel("The scene was closed, so the QC run was stopped.")
            self._run = None  # also one that had ended and was being shown
        self.panel.forget()

    def _on_node_removed(self, caller: Any, event: Any) -> None:
        if not caller.IsBatchProcessing():  # the events of a scene that closes or is loaded come later
            self.panel.inputs.show()
            self.panel.rest()
            self.panel.look_again()

    def _on_scene_changed(self, caller: Any, event: Any) -> None:
        self.panel.refresh()


class RVQCSegmentTest(ScriptedLoadableModuleTest):
    """The self test: a phantom study through the whole panel, by clicks; skipped, with a sentence, where torch is missing."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear(0)

    def runTest(self) -> None:
        self.setUp()
        self_test.say_if_skipped(self.test_phantom, self.delayDisplay)

    def test_phantom(self) -> None:
        self_test.phantom_through_the_panel()

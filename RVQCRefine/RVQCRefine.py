"""The batch refine dialog: a folder of unlabelled studies, refined, reviewed, accepted.

Research use only, not a medical device. What the dialog is made of is in RVQCRefineLib, which is imported when the
module is opened: it shares rooms with RVQCSegment, whose folder Slicer may come to know later than this one.
"""

from __future__ import annotations

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


class RVQCRefine(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("RVQC Refine")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation"), "Cardiac"]
        parent.dependencies = ["RVQCSegment"]
        parent.contributors = ["The RVQC developers"]
        parent.helpText = _(
            "Adapts a bundle to a folder of unlabelled studies that it could not be trusted with, and shows every mask before "
            "and after. The new bundle is used only after somebody adopts it. <b>Research use only, not a medical device.</b>"
        )
        parent.acknowledgementText = _("After Galati and Zuluaga, STACOM 2021.")


class RVQCRefineLogic(ScriptedLoadableModuleLogic):
    """What can be done without the dialog; also for Python's console."""

    @staticmethod
    def cohortToScene(out: str) -> list[Any]:
        """The ``cohort.csv`` that ``rvqc batch`` wrote to `out` as a table node and charts; returns the chart nodes.

        Raises
        ------
        RVQCError
            There is no table, or it cannot be read.
        """
        from RVQCRefineLib.nodes import cohort_to_scene

        return cohort_to_scene(out)


class RVQCRefineWidget(ScriptedLoadableModuleWidget):
    """Opens the dialog and says how its run stands."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        self.logic: RVQCRefineLogic | None = None
        self.dialog: Any = None

    def setup(self) -> None:
        """Build the panel; the dialog comes with the first click."""
        from RVQCSlicerLib.looks import hint, main_button

        ScriptedLoadableModuleWidget.setup(self)
        self.logic = RVQCRefineLogic()
        words = qt.QLabel(
            _(
                "A bundle can learn from the studies of a new hospital or scanner that it could not be trusted with. "
                "Choose their folder, let it run, review the masks before and after, and adopt the new bundle or not."
            )
        )
        research = qt.QLabel(_("Research use only. RVQC is not a medical device; a clinician reviews every mask."))
        self.state = qt.QLabel()
        self.state.objectName = "RVQCRefineState"
        for label in (words, research, self.state):
            label.wordWrap = True
        hint(research)
        self.open = qt.QPushButton(_("Refine on a folder …"))
        self.open.objectName = "RVQCRefineOpen"
        main_button(self.open)
        self.open.connect("clicked(bool)", lambda checked=False: self.onOpen())
        for part in (words, self.open, self.state, research):
            self.layout.addWidget(part)
        self.layout.addStretch(1)

    def cleanup(self) -> None:
        """The module is unloaded or reloaded; a run that goes on is stopped and can be resumed."""
        if self.dialog is not None:
            self.dialog.close()
            self.dialog = None

    def onOpen(self) -> None:
        """Bring the dialog up, where it was left."""
        from RVQCSlicerLib.installer import outdated

        if said := outdated():
            self.state.text = said
            return
        if self.dialog is None:
            from RVQCRefineLib.dialog import RefineDialog
            from RVQCSlicerLib.process import WorkerProcess

            self.dialog = RefineDialog(WorkerProcess())
            self.dialog.session.listen(lambda what: self._showState())
            slicer.app.connect("aboutToQuit()", self.cleanup)
        self.dialog.show()

    def _showState(self) -> None:
        from RVQCRefineLib.run_page import STATES

        session = self.dialog.session
        if session.run is None:
            self.state.text = ""
            return
        self.state.text = f"{session.run.out.name}: {STATES[session.state]} {session.progress.said}"


class RVQCRefineTest(ScriptedLoadableModuleTest):
    """The self test: the dialog opens, recognises a phantom study, and a table of a batch comes into the scene."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear(0)

    def runTest(self) -> None:
        self.setUp()
        self.test_dialog_opens()

    def test_dialog_opens(self) -> None:
        slicer.util.selectModule("RVQCRefine")
        widget = slicer.util.getModuleWidget("RVQCRefine")
        widget.onOpen()
        self.assertTrue(widget.dialog.window.visible)
        self.assertFalse(widget.dialog.next.enabled)
        widget.dialog.window.close()
        self.delayDisplay("The self test passed.")

"""A small scripted module in the manner of Slicer's template, to try the host with."""

import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class HostTemplate(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Host template")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Examples")]
        self.parent.contributors = ["The RVQC developers"]
        slicer.app.connect("startupCompleted()", onStartup)


def onStartup():
    slicer.modules.hosttemplateStarted = True


class HostTemplateWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.events = []

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/HostTemplate.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = HostTemplateLogic()
        self.ui.applyButton.connect("clicked(bool)", self.onApply)
        self.ui.inputSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.onInput)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneClosing)
        self.onInput(None)

    def enter(self):
        self.events.append("enter")

    def exit(self):
        self.events.append("exit")

    def cleanup(self):
        self.events.append("cleanup")
        self.removeObservers()

    def onSceneClosing(self, caller, event):
        self.events.append("closing")

    def onInput(self, node):
        self.ui.applyButton.enabled = node is not None
        self.ui.applyButton.toolTip = _("Compute") if node is not None else _("Select a volume")

    def onApply(self, checked=False):
        with slicer.util.tryWithErrorDisplay(_("Failed to compute results.")):
            value = self.logic.process(self.ui.inputSelector.currentNode(), self.ui.thresholdSlider.value)
            self.ui.resultLabel.text = str(value)


class HostTemplateLogic(ScriptedLoadableModuleLogic):
    def process(self, volume, threshold):
        """How many voxels of a volume are above a threshold."""
        if volume is None:
            raise ValueError("Select a volume.")
        self.getParameterNode().SetParameter("Threshold", str(threshold))
        image = vtk.vtkImageThreshold()
        image.SetInputData(volume.GetImageData())
        image.ThresholdByUpper(threshold)
        image.SetInValue(1)
        image.SetOutValue(0)
        image.Update()
        return int(slicer.util.arrayFromVolume(volume).size and (slicer.util.arrayFromVolume(volume) > threshold).sum())


class HostTemplateTest(ScriptedLoadableModuleTest):
    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        self.setUp()
        self.test_logic()

    def test_logic(self):
        self.delayDisplay("Starting the test")
        volume = slicer.util.addVolumeFromArray(vtk_array())
        assert HostTemplateLogic().process(volume, 3.5) == 4


def vtk_array():
    import numpy as np

    return np.arange(8, dtype=np.float32).reshape(2, 2, 2)

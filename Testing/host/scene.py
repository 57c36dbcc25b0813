"""The MRML scene and its logics, as Slicer's application sets them up, out of the `slicer-core` wheel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer
import vtk

VIEWS = {"Red": ("Axial", "R", (0.952, 0.290, 0.200)), "Yellow": ("Sagittal", "Y", (0.929, 0.835, 0.298))}
VIEWS |= {"Green": ("Coronal", "G", (0.431, 0.690, 0.294))}
"""Slice view -> its orientation, letter and color: Slicer's own."""

LOGICS = {
    "Colors": "vtkMRMLColorLogic",
    "Units": "vtkSlicerUnitsLogic",
    "Terminologies": "vtkSlicerTerminologiesModuleLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Models": "vtkSlicerModelsLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Texts": "vtkSlicerTextsLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "CropVolume": "vtkSlicerCropVolumeLogic",
}
"""Module -> the class of its logic, in the order of their dependencies: volumes need colors."""


@dataclass(frozen=True)
class SceneParts:
    """What lives as long as the application: the scene, the application logic and one logic a module."""

    scene: Any
    application_logic: Any
    remote_io: Any
    data_io: Any
    layout_logic: Any
    logics: dict[str, Any]
    slice_logics: dict[str, Any]


def make_scene(temporary: Path) -> SceneParts:
    """Create the scene and everything that observes it; `temporary` holds what remote and bundle readers unpack."""
    scene = slicer.vtkMRMLScene()
    slicer.mrmlScene = scene
    application_logic = slicer.vtkSlicerApplicationLogic()
    application_logic.SetMRMLScene(scene)
    application_logic.SetTemporaryPath(str(temporary))
    remote_io, data_io = make_io(scene, application_logic, temporary)
    application_logic.SetSliceLogics(vtk.vtkCollection())
    application_logic.SetViewLogics(vtk.vtkCollection())
    logics = {name: make_logic(name, cls, scene, application_logic) for name, cls in LOGICS.items()}
    logics["Colors"].AddDefaultColorNodes()
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    slice_logics = {name: make_slice_logic(name, scene, application_logic) for name in VIEWS}
    layout_logic = slicer.vtkMRMLLayoutLogic()
    layout_logic.SetMRMLScene(scene)
    register_nodes(scene)
    return SceneParts(scene, application_logic, remote_io, data_io, layout_logic, logics, slice_logics)


def make_io(scene: Any, application_logic: Any, temporary: Path) -> tuple[Any, Any]:
    """Remote and bundle reading: without a cache directory an .mrb cannot be read."""
    remote_io = slicer.vtkMRMLRemoteIOLogic()
    remote_io.SetMRMLScene(scene)
    remote_io.SetMRMLApplicationLogic(application_logic)
    remote_io.GetCacheManager().SetRemoteCacheDirectory(str(temporary))
    data_io = slicer.vtkDataIOManagerLogic()
    data_io.SetMRMLScene(scene)
    data_io.SetMRMLApplicationLogic(application_logic)
    data_io.SetAndObserveDataIOManager(remote_io.GetDataIOManager())
    remote_io.AddDataIOToScene()
    return remote_io, data_io


def make_logic(name: str, class_name: str, scene: Any, application_logic: Any) -> Any:
    logic = getattr(slicer, class_name)()
    logic.SetMRMLApplicationLogic(application_logic)
    with quiet():  # the wheel has none of Slicer's terminology and color files
        logic.SetMRMLScene(scene)
    application_logic.SetModuleLogic(name, logic)
    return logic


@contextmanager
def quiet() -> Iterator[None]:
    """VTK's warnings and errors held back."""
    shown = vtk.vtkObject.GetGlobalWarningDisplay()
    vtk.vtkObject.GlobalWarningDisplayOff()
    yield
    vtk.vtkObject.SetGlobalWarningDisplay(shown)


def make_slice_logic(name: str, scene: Any, application_logic: Any) -> Any:
    """The logic of one slice view with its slice and composite node, which survive the closing of the scene."""
    logic = slicer.vtkMRMLSliceLogic()
    logic.SetMRMLApplicationLogic(application_logic)
    logic.SetMRMLScene(scene)
    node = logic.AddSliceNode(name)
    application_logic.GetSliceLogics().AddItem(logic)
    dress_slice_node(node, name)
    return logic


def dress_slice_node(node: Any, name: str) -> None:
    orientation, letter, color = VIEWS[name]
    node.SetLayoutLabel(letter)
    node.SetLayoutColor(*color)
    node.SetOrientation(orientation)


def register_nodes(scene: Any) -> None:
    """Node classes that Slicer's Qt modules register, needed to read a saved scene."""
    for class_name in ("vtkMRMLScriptedModuleNode",):
        node = getattr(slicer, class_name)()
        if scene.GetTagByClassName(class_name) != node.GetNodeTagName():
            scene.RegisterNodeClass(node)


def observe_scene(parts: SceneParts, closed: Callable[[], None]) -> None:
    """Keep the views usable when the scene is closed, and put new nodes where Slicer would.

    `closed` is called after a scene was closed and its views restored.
    """
    scene = parts.scene

    def on_close(caller: Any, event: str) -> None:
        # A hierarchy that something asked for while its nodes went refers to what is gone, and cannot be merged with another.
        for hierarchy in slicer.util.getNodesByClass("vtkMRMLSubjectHierarchyNode"):
            scene.RemoveNode(hierarchy)
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
        for name, logic in parts.slice_logics.items():
            dress_slice_node(logic.GetSliceNode(), name)
        closed()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def on_node_added(caller: Any, event: str, node: Any) -> None:
        if not scene.IsBatchProcessing():
            list_in_hierarchy(scene, node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def on_node_removed(caller: Any, event: str, node: Any) -> None:
        if scene.IsClosing():
            return  # asking for the hierarchy would make a new one, which outlives the scene that is closed
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        if item := hierarchy.GetItemByDataNode(node):
            hierarchy.RemoveItem(item, False)

    scene.AddObserver(scene.NodeAboutToBeRemovedEvent, on_node_removed)
    scene.AddObserver(scene.EndCloseEvent, on_close)
    scene.AddObserver(scene.NodeAddedEvent, on_node_added)
    scene.AddObserver(scene.EndImportEvent, lambda *_: [list_in_hierarchy(scene, node) for node in data_nodes(scene)])


def data_nodes(scene: Any) -> list[Any]:
    return [scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())]


def list_in_hierarchy(scene: Any, node: Any) -> None:
    """What Slicer's subject hierarchy plugins do: an item for every data node that is not hidden."""
    shown = ("vtkMRMLDisplayableNode", "vtkMRMLTableNode", "vtkMRMLTextNode", "vtkMRMLSequenceNode")
    shown += ("vtkMRMLSequenceBrowserNode", "vtkMRMLPlotChartNode", "vtkMRMLPlotSeriesNode")
    if node.GetHideFromEditors() or not any(node.IsA(name) for name in shown) or node.IsA("vtkMRMLAbstractViewNode"):
        return
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if hierarchy and not hierarchy.GetItemByDataNode(node):
        hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

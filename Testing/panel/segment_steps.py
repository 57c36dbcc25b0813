"""What the tests of the panel do again and again: small studies, loading, running, waiting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from conftest import Panel

RUN_S = 240
"""How long a run may take on a busy machine."""


def small_phantom(name: str = "Phantom Ü 1", slices: int = 2, views: tuple[str, ...] = ("SA",)) -> Any:
    """A phantom study whose SA stacks have their middle slices only, so that a run is short."""
    from RVQCLib.phantom import phantom_study

    study = phantom_study(6, views=views, name=name)
    stacks = []
    for stack in study.stacks:
        first = max((len(stack.pixels) - slices) // 2, 0)
        origin = (
            np.array(stack.geometry.origin)
            + first * stack.geometry.spacing[2] * np.reshape(stack.geometry.direction, (3, 3))[:, 2]
        )
        place = replace(stack.geometry, origin=tuple(origin))
        stacks.append(replace(stack, pixels=stack.pixels[first : first + slices], geometry=place))
    return replace(study, stacks=tuple(stacks), labels=())


def load(widget: Any, study: Any) -> Any:
    """Bring a study of the engine into the scene and choose it."""
    from RVQCSlicerLib.loading import add_study

    loaded = add_study(study, "a phantom")
    widget.panel.inputs.take(loaded)
    widget.panel.rest()
    return loaded


def finish(panel: Panel, widget: Any) -> None:
    panel.wait(lambda: widget._run is None, RUN_S)


def scene_names() -> list[str]:
    import slicer

    return sorted(
        node.GetName() for node in slicer.util.getNodes("*", useLists=False).values() if not node.GetHideFromEditors()
    )


def child(widget: Any, name: str) -> Any:
    import slicer

    return slicer.util.findChild(widget.panel.widget, name)


def warm(panel: Panel, widget: Any) -> dict:
    """Have the worker started and looked at, as opening the panel does."""
    widget.onCheck()
    panel.wait(lambda: widget.panel.setup.check.enabled, RUN_S)
    return widget.panel.setup.said.text


def press(panel: Panel, where: Any, key: str, *, control: bool = False) -> None:
    import qt

    panel.press(where, getattr(qt.Qt, f"Key_{key}"), qt.Qt.ControlModifier if control else None)


def beats(name: str, count: int = 3, slices: int = 2) -> Any:
    """A cine in the scene; the largest pixel of a frame is its number."""
    from RVQCSlicerLib.scene import add_sequence

    first = small_phantom(slices=slices).stacks[0]
    one = first.pixels / first.pixels.max()
    return add_sequence([replace(first, phase="", frame=k, pixels=one + (k - 1)) for k in range(count)], name)


def seen(widget: Any) -> Any:
    """The volume behind everything."""
    import slicer

    return slicer.app.applicationLogic().GetSliceLogicByLayoutName("Red").GetBackgroundLayer().GetVolumeNode()


def judged(images: dict[str, Any], name: str, cine: dict[str, Any] | None = None) -> Any:
    """A result in the scene as a run makes it, without a run: an overlay over each image, all of it visible."""
    import slicer

    from RVQCSlicerLib.results import Result
    from RVQCSlicerLib.scene import add_labels

    stacks, numbers = [], dict.fromkeys(("predicted_dice", "lower_bound_90", "pDC", "pHD_mm", "agreement"))
    for key, volume in images.items():
        count = len(slicer.util.arrayFromVolume(volume))
        slices = [{"index": k, "flag": False, "reasons": []} for k in range(count)]
        stacks.append(
            {"view": key[:2], "phase": key[3:], "verdict": "look", "reasons": [], "slices": slices, "candidates": []}
            | {"selected": [], "image": {"sha256": key}, "structures": dict.fromkeys(("RV", "LV", "MYO"), numbers)}
        )
    quality = {"study": name, "cine": [cine] if cine else [], "checks": [], "stacks": stacks}
    result = Result.create(quality, "")
    for key, volume in images.items():
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{name} {key} QC")
        node.CreateDefaultDisplayNodes()
        add_labels(node, np.ones(slicer.util.arrayFromVolume(volume).shape, np.uint8), volume, "mask.")
        result.set("volume", key, volume)
        result.set("overlay", key, node)
    return result


def visible_masks() -> list[str]:
    import slicer

    nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    return [node.GetName() for node in nodes if node.GetDisplayNode().GetVisibility()]


def pick(panel: Panel, selector: Any, name: str) -> None:
    """Choose a node as a user does with the keyboard."""
    import qt
    from PySide6.QtWidgets import QComboBox

    box = selector.findChild(QComboBox)
    for key in (qt.Qt.Key_Home, *[qt.Qt.Key_Down] * box.findText(name)):
        panel.press(box, key)


def put_under(patient: str, volume: Any) -> int:
    """Put a volume under a patient and a study of the subject hierarchy, as Slicer's DICOM module does; the study's item."""
    import slicer

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    person = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), f"Patient {patient}")
    hierarchy.SetItemAttribute(person, "DICOM.PatientID", patient)
    study = hierarchy.CreateStudyItem(person, "CMR")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(volume), study)
    return study

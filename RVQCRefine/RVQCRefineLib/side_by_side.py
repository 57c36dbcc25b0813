"""A stack in Slicer's slice views: the mask from before at the left, the one from after at the right; and final segmentations.

Images and masks come from the files of the run. What is only looked at leaves the scene with the next stack; what was
accepted stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import slicer

from RVQCLib.files import RVQCError
from RVQCLib.images import read_image, read_mask
from RVQCRefineLib.decisions import image_hash
from RVQCRefineLib.rows import Judged, Row
from RVQCSlicerLib.scene import add_labels, add_volume
from RVQCSlicerLib.viewer import StackViewer

IMAGE, ACCEPTED = "RVQC.Refine.Image", "RVQC.Refine.Accepted"
"""Attributes of the volumes and final segmentations: the stack that they are of."""
VIEWS = {"before": "Red", "after": "Yellow"}


class SideBySide:
    """Shows one stack at a time. `scrolled` is called with the index of the slice that is in view."""

    def __init__(self, scrolled) -> None:
        self._viewer = StackViewer(scrolled)
        self._own: list[slicer.vtkMRMLNode] = []
        self._volume: slicer.vtkMRMLVolumeNode | None = None

    def show(self, row: Row, image: Mapping[str, Any] | None) -> None:
        """Load a stack's image and masks and bring up both views.

        Raises
        ------
        RVQCError
            The image is not known or changed since the QC, or a file cannot be read; then nothing is shown.
        """
        self.clear()
        self._volume = volume_of(row, image)
        for moment, judged in (("before", row.before), ("after", row.after)):
            if judged is not None:
                self._own.append(_mask(row, judged, self._volume, moment))
        self._viewer.show(self._volume, _heart(row, self._own[-1]))
        self._arrange()
        flagged = list(row.shown.flags)
        self.go_to(flagged[0] if flagged else row.n_slices // 2)

    def go_to(self, index: int) -> None:
        """Show the slice with this index in both views."""
        self._viewer.go_to(index)
        self._follow()

    def clear(self) -> None:
        """Take what was only looked at out of the scene."""
        self._viewer.release()
        volume, self._volume = self._volume, None
        nodes, self._own = self._own, []
        if volume is not None and accepted_node(volume.GetAttribute(IMAGE) or "") is None:
            nodes.append(volume)
        for node in nodes:
            if node.GetScene() is not None:
                slicer.mrmlScene.RemoveNode(node)

    def _arrange(self) -> None:
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView)
        self._follow()

    def _follow(self) -> None:
        """Give both views the place, the plane and the field of view of the one that is steered."""
        steered = _slice_node(self._viewer.view_name)
        for name in VIEWS.values():
            node = _slice_node(name)
            if node is None or steered is None or node is steered:
                continue
            node.GetSliceToRAS().DeepCopy(steered.GetSliceToRAS())
            width, height, depth = steered.GetFieldOfView()
            own = node.GetDimensions()
            wide = height * own[0] / own[1] if own[1] else width
            node.SetFieldOfView(wide, height, depth)
            node.UpdateMatrices()


def accept_into_scene(home: Path, row: Row, image: Mapping[str, Any] | None, mask: Path) -> None:
    """Make an accepted mask a segmentation node beside its image. Raises RVQCError where a file cannot be read."""
    key = _key(row)
    withdraw(row)
    volume = volume_of(row, image)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{row.study} {row.view} {row.phase}")
    node.SetAttribute(ACCEPTED, key)
    node.SetAttribute("RVQC.Folder", str(home))
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    add_labels(node, read_mask(mask, view=row.view, phase=row.phase).pixels, volume)
    node.GetDisplayNode().SetVisibility(False)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    own, beside = hierarchy.GetItemByDataNode(node), hierarchy.GetItemByDataNode(volume)
    if own and beside:
        hierarchy.SetItemParent(own, hierarchy.GetItemParent(beside))


def withdraw(row: Row) -> None:
    """Take the final segmentation of a stack that is not accepted any more out of the scene."""
    node = accepted_node(_key(row))
    if node is not None:
        slicer.mrmlScene.RemoveNode(node)


def accepted_node(key: str) -> slicer.vtkMRMLSegmentationNode | None:
    """The final segmentation of a stack, None where there is none."""
    nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    return next((node for node in nodes if key and node.GetAttribute(ACCEPTED) == key), None)


def volume_of(row: Row, image: Mapping[str, Any] | None) -> slicer.vtkMRMLVolumeNode:
    """The image of a stack: the one in the scene, else from its file. Raises RVQCError where it is gone or changed."""
    key = _key(row)
    for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
        if node.GetAttribute(IMAGE) == key:
            return node
    if image is None:
        raise RVQCError(
            f"Where the image of {row.study} lies is not written down; choose the folder of the studies in step 1."
        )
    image_hash(row, image)
    frame = image["frame"]
    if image["phase"] == "":  # a cine whose phases the engine found
        found = next(entry for entry in row.shown.cine if entry["view"] == row.view)
        frame = found[row.phase.lower()]
    stack = read_image(image["file"], view=row.view, phase=row.phase, frame=frame)
    volume = add_volume(stack, f"{row.study} {row.view} {row.phase}")
    volume.SetAttribute(IMAGE, key)
    return volume


def _mask(row: Row, judged: Judged, volume: slicer.vtkMRMLVolumeNode, moment: str) -> slicer.vtkMRMLSegmentationNode:
    """The mask of one moment, seen in that moment's view only."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{row.study} {row.view} {row.phase} {moment}")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    add_labels(node, read_mask(judged.mask, view=row.view, phase=row.phase).pixels, volume)
    display = node.GetDisplayNode()
    display.SetOpacity2DFill(0.12)
    display.SetSliceIntersectionThickness(2)
    if _slice_node(VIEWS[moment]) is not None:
        display.AddViewNodeID(_slice_node(VIEWS[moment]).GetID())
    return node


def _heart(row: Row, node: slicer.vtkMRMLSegmentationNode) -> tuple[float, float, float] | None:
    """The middle in RAS of a structure that the newest mask has, LV first; None where it is empty."""
    for name in ("LV", "MYO", "RV"):
        if row.shown.stack["structures"][name]["volume_ml"] > 0:
            return tuple(node.GetSegmentCenterRAS(name))
    return None


def _slice_node(name: str) -> slicer.vtkMRMLSliceNode | None:
    logic = slicer.app.applicationLogic().GetSliceLogicByLayoutName(name) if name else None
    return logic.GetSliceNode() if logic is not None else None


def _key(row: Row) -> str:
    """The stack and its very image: the scene may hold one of the same name out of another run."""
    image = row.shown.stack.get("image") or {}
    return "/".join((*row.key, image.get("sha256", ""), str(image.get("frame"))))

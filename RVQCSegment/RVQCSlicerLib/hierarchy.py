"""Where nodes lie among the patients and studies of Slicer's subject hierarchy; its DICOM module puts them there."""

from __future__ import annotations

import slicer

INSTANCES = "DICOM.instanceUIDs"
"""Attribute of an image out of Slicer's DICOM database: the instances in it that hold its pixels."""
_PATIENT_ID = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMPatientIDAttributeName()


def patient_of(node: slicer.vtkMRMLNode) -> str:
    """The DICOM PatientID of an image or a cine, "" where it lies under no patient."""
    hierarchy, item = _item(node)
    return hierarchy.GetAttributeFromItemAncestor(item, _PATIENT_ID) if item else ""


def place_beside(node: slicer.vtkMRMLNode, image: slicer.vtkMRMLNode) -> None:
    """Put a node under the same patient and study as an image or a cine: what DICOM SEG export asks for."""
    (hierarchy, own), (_, beside) = _item(node), _item(image)
    if own and beside:
        hierarchy.SetItemParent(own, hierarchy.GetItemParent(beside))


def _item(node: slicer.vtkMRMLNode) -> tuple[slicer.vtkMRMLSubjectHierarchyNode | None, int]:
    """The hierarchy, and the item of a node in it, 0 for none; a cine lies where the volume is that shows its frames."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    if node.IsA("vtkMRMLSequenceNode"):
        browser = slicer.modules.sequences.logic().GetFirstBrowserNodeForSequenceNode(node)
        node = (browser.GetProxyNode(node) if browser is not None else None) or node
    return hierarchy, hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0

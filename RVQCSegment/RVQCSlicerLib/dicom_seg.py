"""The final segmentation of a stack as a DICOM SEG beside its series, by Slicer's own exporter."""

from __future__ import annotations

import importlib
from importlib.util import find_spec

import slicer

from RVQCLib.files import RVQCError
from RVQCSlicerLib import review
from RVQCSlicerLib.hierarchy import INSTANCES
from RVQCSlicerLib.results import Result
from RVQCSlicerLib.words import short

EXPORTER = "DICOMSegmentationPlugin"
"""Slicer's module; its class is called ``DICOMSegmentationPluginClass``."""


def obstacle(result: Result, key: str) -> str:
    """Why there can be no DICOM SEG of a stack now, and what to do, in a sentence; "" where nothing is in the way."""
    final, volume = result.get("accepted", key), result.get("volume", key)
    if final is None or result.decision(key).get("decision") != review.ACCEPTED or review.is_edited(result, key):
        return f"A DICOM SEG is made of what was accepted; accept {short(key)} first."
    if volume is None or not volume.GetAttribute(INSTANCES):
        return (
            f"The image of {short(key)} did not come from Slicer's DICOM database, so a DICOM SEG would refer to nothing; "
            "load the series with Slicer's DICOM module and run QC on it."
        )
    if find_spec(EXPORTER) is None:
        return "This application has no DICOM SEG exporter; use Slicer 5.12 or later, or save the scene."
    return ""


def save(result: Result, key: str, folder: str, reviewer: str) -> None:
    """Write the accepted mask of a stack to `folder`, and into Slicer's DICOM database; one file a view and phase.

    Raises
    ------
    RVQCError
        Something is in the way (see `obstacle`), or the exporter failed, with what it said.
    """
    if why := obstacle(result, key):
        raise RVQCError(why)
    final = result.get("accepted", key)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    exporter = getattr(importlib.import_module(EXPORTER), f"{EXPORTER}Class")()
    found = exporter.examineForExport(hierarchy.GetItemByDataNode(final))
    if not found:
        raise RVQCError(f"Not all images of {final.GetName()} are in Slicer's DICOM database; import the series again.")
    for exportable in found:
        exportable.directory = folder
        exportable.setTag("SeriesDescription", f"RVQC {final.GetName()}")
        if reviewer:
            exportable.setTag("ContentCreatorName", reviewer)
    if said := exporter.export(found):
        raise RVQCError(f"The DICOM SEG of {final.GetName()} was not written ({said}).")

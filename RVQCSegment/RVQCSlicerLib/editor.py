"""Slicer's Segment Editor, opened on the final segmentation of a stack."""

from __future__ import annotations

import slicer

from RVQCLib.files import RVQCError
from RVQCSlicerLib.results import Result


def open_editor(result: Result, key: str) -> None:
    """Go to the Segment Editor with the stack's final segmentation and its image.

    Raises
    ------
    RVQCError
        There is nothing to edit yet, or this application has no Segment Editor.
    """
    final, volume = result.get("accepted", key), result.get("volume", key)
    if final is None or volume is None:
        raise RVQCError("There is no segmentation to edit yet; press Needs edit or Accept first.")
    if getattr(slicer.modules, "segmenteditor", None) is None:
        raise RVQCError(f"This application has no Segment Editor; edit {final.GetName()} in 3D Slicer.")
    slicer.util.selectModule("SegmentEditor")
    editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
    editor.setSegmentationNode(final)
    editor.setSourceVolumeNode(volume)

"""What can be seen over the image of a stack: the mask, its reconstruction, their difference, any other candidate.

All of a stack lie in one segmentation node, so that the scene stays tidy; switching only shows and hides segments.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from RVQCLib.stack import Stack
from RVQCSlicerLib.results import Result, results_in_scene
from RVQCSlicerLib.scene import add_labels, oriented_image
from RVQCSlicerLib.segments import DIFFERENCE_COLOR, RECONSTRUCTION_COLOR, STRUCTURES
from RVQCSlicerLib.words import short

DIFFERENCE = "difference"


def layer(candidate: int) -> str:
    """The prefix of a mask's segments: of the selected mask (0), or of candidate 1, 2, …."""
    return f"candidate{candidate}." if candidate else "mask."


def build(result: Result, key: str) -> Iterator[None]:
    """Make the overlay of a stack from the files of `result`; yields between steps, so that nothing blocks.

    Raises
    ------
    RVQCError
        A file cannot be read, or the volume was changed or deleted meanwhile.
    """
    stack, volume, folder = result.stacks[key], result.get("volume", key), Path(result.folder)
    stem = stack["mask"].removesuffix(".nii.gz")
    node = slicer.vtkMRMLSegmentationNode()  # filled outside of the scene: no view is drawn anew for what is not shown
    node.SetName(f"{result.study} {short(key)} QC")
    mask = read(folder / f"{stem}.nii.gz", stack).pixels
    add_labels(node, mask, volume, layer(0))
    yield
    again = read(folder / f"{stem}_reconstruction.nii.gz", stack).pixels
    add_labels(node, again, volume, "again.")
    _add_difference(node, mask != again, volume)
    for number in range(1, len(stack["candidates"]) + 1):
        yield
        if (path := folder / f"{stem}_candidate{number}.nii.gz").is_file():  # a batch writes them only when asked
            add_labels(node, read(path, stack).pixels, volume, layer(number))
    yield
    result.set("overlay", key, slicer.mrmlScene.AddNode(node))
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetVisibility(False)
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    _style(node)


def has_candidates(result: Result, key: str) -> bool:
    """Whether the masks of the single candidates are there to be shown."""
    node = result.get("overlay", key)
    return node is not None and node.GetSegmentation().GetSegment(layer(1) + STRUCTURES[0].key) is not None


def read(path: Path, stack: dict[str, Any]) -> Stack:
    """A mask of a stack of quality.json. Raises RVQCError where it cannot be read."""
    from RVQCLib.images import read_mask

    return read_mask(path, view=stack["view"], phase=stack["phase"])


def _add_difference(
    node: slicer.vtkMRMLSegmentationNode, differs: np.ndarray, volume: slicer.vtkMRMLVolumeNode
) -> None:
    segment = slicer.vtkSegment()
    segment.SetName("difference of mask and reconstruction")
    segment.SetColor(DIFFERENCE_COLOR)
    segment.SetLabelValue(1)
    segment.AddRepresentation("Binary labelmap", oriented_image(differs.astype(np.uint8), volume))
    node.GetSegmentation().AddSegment(segment, DIFFERENCE)


def _style(node: slicer.vtkMRMLSegmentationNode) -> None:
    """Masks as coloured outlines with a breath of fill, the reconstruction as a white outline, differences filled."""
    display, segmentation = node.GetDisplayNode(), node.GetSegmentation()
    display.SetSliceIntersectionThickness(2)
    for index in range(segmentation.GetNumberOfSegments()):
        name = segmentation.GetNthSegmentID(index)
        fill = 0.55 if name == DIFFERENCE else 0.0 if name.startswith("again.") else 0.12
        display.SetSegmentOpacity2DFill(name, fill)
        display.SetSegmentOpacity2DOutline(name, 0.0 if name == DIFFERENCE else 1.0)
        if name.startswith("again."):
            segmentation.GetSegment(name).SetColor(RECONSTRUCTION_COLOR)
            segmentation.GetSegment(name).SetName(f"{segmentation.GetSegment(name).GetName()} (reconstruction)")
        elif name.startswith("candidate"):
            number = name.removeprefix("candidate").partition(".")[0]
            segmentation.GetSegment(name).SetName(f"{segmentation.GetSegment(name).GetName()} (candidate {number})")


def show(
    result: Result,
    shown: str,
    *,
    mask: bool = True,
    reconstruction: bool = False,
    difference: bool = False,
    candidate: int = 0,
) -> None:
    """Show the layers of stack `shown`, hide every other stack's, in the slice views only.

    Parameters
    ----------
    candidate : Whose mask: 0 the selected one, for which a final segmentation stands in where there is one, else that
        candidate. Reconstruction and difference are the selected one's.
    """
    final = result.get("accepted", shown)
    show_final = mask and not candidate and final is not None
    wanted = {layer(candidate) + s.key for s in STRUCTURES} if mask and not show_final else set()
    wanted |= {"again." + s.key for s in STRUCTURES} if reconstruction else set()
    wanted |= {DIFFERENCE} if difference else set()
    for key in result.stacks:
        other = result.get("accepted", key)
        if other is not None and other.GetDisplayNode() is not None:
            other.GetDisplayNode().SetVisibility(key == shown and show_final)
        node = result.get("overlay", key)
        if node is None or node.GetDisplayNode() is None:
            continue
        display, segmentation = node.GetDisplayNode(), node.GetSegmentation()
        display.SetVisibility(key == shown)
        for index in range(segmentation.GetNumberOfSegments()):
            name = segmentation.GetNthSegmentID(index)
            display.SetSegmentVisibility(name, name in wanted)


def hide_others(shown: Result | None) -> None:
    """Hide the masks of every result of the scene but `shown`: they may be another patient's, in the same place."""
    for result in results_in_scene():
        if shown is None or result.node is not shown.node:
            for node in (result.get(role, key) for role in ("overlay", "accepted") for key in result.stacks):
                if node is not None and node.GetDisplayNode() is not None:
                    node.GetDisplayNode().SetVisibility(False)


def heart_centre(result: Result, key: str) -> tuple[float, float, float] | None:
    """The middle in RAS of the first structure, LV first, that the selected mask has; None where it is empty."""
    node = result.get("overlay", key)
    for name in ("LV", "MYO", "RV") if node is not None else ():
        centre = node.GetSegmentCenterRAS(layer(0) + name)
        if centre is not None:
            return tuple(centre)
    return None

"""The slice view that lies in the acquisition plane of a stack, and the way to a slice in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import slicer
import vtk

from RVQCSlicerLib.scene import matrix_of

_LAYOUTS = {
    "Red": slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView,
    "Yellow": slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpYellowSliceView,
    "Green": slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpGreenSliceView,
}
_ORIENTATIONS = {"Red": "Axial", "Yellow": "Sagittal", "Green": "Coronal"}
HEART_MM = 170.0
"""What a view shows of the image around a heart."""


@contextmanager
def one_picture() -> Iterator[None]:
    """Whatever is changed inside, the views are drawn once, at the end."""
    slicer.app.pauseRender()
    try:
        yield
    finally:
        slicer.app.resumeRender()


class StackViewer:
    """Shows one stack in the slice view whose plane is the acquired one, and tells when the user scrolls there.

    Parameters
    ----------
    scrolled : Is called with the index of the slice that the view shows now.
    """

    def __init__(self, scrolled: Callable[[int], None]) -> None:
        self._scrolled = scrolled
        self._volume: slicer.vtkMRMLVolumeNode | None = None
        self._slice: slicer.vtkMRMLSliceNode | None = None
        self._observation = 0
        self._index = -1
        self._brought_up = ""

    @property
    def volume(self) -> slicer.vtkMRMLVolumeNode | None:
        """What is shown, None for nothing."""
        return self._volume

    @property
    def view_name(self) -> str:
        """The layout name of the view that is used ("Red", …), "" while there is none."""
        return self._slice.GetLayoutName() if self._slice is not None else ""

    @property
    def index(self) -> int | None:
        """Index of the slice that the view shows, None while there is none."""
        return self._index_shown()

    def show(self, volume: slicer.vtkMRMLVolumeNode, heart: tuple[float, float, float] | None = None) -> None:
        """Put `volume` behind everything, turn the slice views into its planes, and bring up the acquired one.

        With `heart`, its centre in RAS, the view comes closer.
        """
        self.release()
        slicer.util.setSliceViewerLayers(background=volume, foreground=None, label=None)
        self._volume = volume
        logic = self._acquisition_view(volume)
        self._slice = logic.GetSliceNode()
        self._bring_up(self._slice.GetLayoutName())
        logic.FitSliceToAll()
        if heart is not None:
            self._come_closer(heart)
        self._observation = self._slice.AddObserver(vtk.vtkCommand.ModifiedEvent, self._on_modified)

    def release(self) -> None:
        """Let go of volume and view."""
        if self._slice is not None and self._observation:
            self._slice.RemoveObserver(self._observation)
        self._volume = self._slice = None
        self._observation, self._index = 0, -1

    def go_to(self, index: int) -> None:
        """Show the slice with this index."""
        if self._volume is None or self._slice is None or self._volume.GetScene() is None:
            return
        columns, rows, _ = self._volume.GetImageData().GetDimensions()
        centre = matrix_of(self._volume) @ [(columns - 1) / 2, (rows - 1) / 2, index, 1]
        self._slice.JumpSliceByOffsetting(*centre[:3])

    def _acquisition_view(self, volume: slicer.vtkMRMLVolumeNode) -> slicer.vtkMRMLSliceLogic:
        """The logic of a standard view that looks along the slice axis, once all are turned to the volume."""
        manager = slicer.app.layoutManager()
        along = matrix_of(volume)[:3, 2]
        along = along / np.linalg.norm(along)
        best, best_cosine = None, -1.0
        for name, orientation in _ORIENTATIONS.items():
            logic = slicer.app.applicationLogic().GetSliceLogicByLayoutName(name)
            if logic is None and manager is not None and manager.sliceWidget(name) is not None:
                logic = manager.sliceWidget(name).sliceLogic()
            if logic is None:
                continue
            # Three planes at right angles, else two of the views may turn to the same plane of the volume and none to another.
            logic.GetSliceNode().SetOrientation(orientation)
            logic.GetSliceNode().RotateToVolumePlane(volume)
            to_ras = logic.GetSliceNode().GetSliceToRAS()
            cosine = abs(sum(to_ras.GetElement(row, 2) * along[row] for row in range(3)))
            if cosine > best_cosine:
                best, best_cosine = logic, cosine
        return best

    def _bring_up(self, name: str) -> None:
        """Give the view the window for itself, once: a layout that the user chooses afterwards stays."""
        manager = slicer.app.layoutManager()
        if manager is not None and self._brought_up != name:
            self._brought_up = name
            manager.setLayout(_LAYOUTS[name])

    def _come_closer(self, heart: tuple[float, float, float]) -> None:
        width, height, depth = self._slice.GetFieldOfView()
        nearer = HEART_MM / min(width, height)
        if nearer < 1:
            self._slice.SetFieldOfView(width * nearer, height * nearer, depth)
            self._slice.JumpSliceByCentering(*heart)

    def _on_modified(self, caller, event) -> None:
        index = self._index_shown()
        if index is not None and index != self._index:
            self._index = index
            self._scrolled(index)

    def _index_shown(self) -> int | None:
        if self._volume is None or self._slice is None or self._volume.GetImageData() is None:
            return None
        to_ras = self._slice.GetSliceToRAS()
        point = [to_ras.GetElement(row, 3) for row in range(3)]
        index = round(float((np.linalg.inv(matrix_of(self._volume)) @ [*point, 1])[2]))
        return min(max(index, 0), self._volume.GetImageData().GetDimensions()[2] - 1)

"""The host's slice views: real pictures of the scene, the mouse wheel, layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


@pytest.fixture
def scene(panel: Any) -> tuple[Any, Any, Any]:
    """A gray volume of 6 slices, a segment that fills the middle of slices 2 and 3, the Red view."""
    import slicer

    volume = slicer.util.addVolumeFromArray(np.full((6, 60, 80), 100, np.int16), np.diag([1.0, 1.0, 8.0, 1.0]), "stack")
    volume.CreateDefaultDisplayNodes()
    volume.GetDisplayNode().SetAutoWindowLevel(False)
    volume.GetDisplayNode().SetWindowLevel(200, 100)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mask")
    node.CreateDefaultDisplayNodes()
    segment = node.GetSegmentation().AddEmptySegment("RV", "RV", (1.0, 0.0, 0.0))
    mask = np.zeros((6, 60, 80), np.uint8)
    mask[2:4, 20:40, 30:50] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segment, volume)
    slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    view = slicer.app.layoutManager().sliceWidget("Red").sliceView()
    view.mrmlSliceNode().SetSliceOffset(16.0)
    panel.turn()
    yield volume, node, view
    slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    panel.turn()


def middle(panel: Any, view: Any) -> list[int]:
    pixels = panel.pixels(view)
    return pixels[pixels.shape[0] // 2, pixels.shape[1] // 2].tolist()


def test_a_slice_shows_the_image_and_the_segment_over_it(panel: Any, scene: Any) -> None:
    import slicer

    _, node, view = scene
    red, green, blue = middle(panel, view)
    assert red > 150 and green == blue < 80  # half transparent red over mid gray
    node.GetDisplayNode().SetVisibility(False)
    assert middle(panel, view) == [127, 127, 127]
    node.GetDisplayNode().SetVisibility(True)
    assert middle(panel, view) == [red, green, blue]
    slicer.mrmlScene.RemoveNode(node)
    assert middle(panel, view) == [127, 127, 127]


def test_the_wheel_goes_through_the_slices(panel: Any, scene: Any) -> None:
    view = scene[2]
    logic = view.mrmlSliceNode()
    places = []
    for steps in (1, 1, -1, -1, -1):
        panel.turn_wheel(view, steps)
        places.append(logic.GetSliceOffset())
    assert places == pytest.approx([24.0, 32.0, 24.0, 16.0, 8.0])
    assert middle(panel, view) == [127, 127, 127]  # slice 1 has no segment
    panel.turn_wheel(view, 1)
    assert middle(panel, view) != [127, 127, 127]


def test_the_slider_above_a_view_follows_and_leads(panel: Any, scene: Any) -> None:
    import slicer

    widget = slicer.app.layoutManager().sliceWidget("Red")
    slider = widget.sliceController()._slider
    before = slider.value
    widget.sliceLogic().SetSliceOffset(32.0)
    assert slider.value == before + 2
    slider.setValue(before - 1)
    assert widget.sliceLogic().GetSliceOffset() == pytest.approx(8.0)


def test_many_changes_are_one_picture(panel: Any, scene: Any) -> None:
    view = scene[2]
    panel.turn()
    before = view.frames()
    for offset in range(40):
        view.mrmlSliceNode().SetSliceOffset(float(offset))
    panel.turn()
    assert 1 <= view.frames() - before <= 3


def test_a_layout_shows_its_views(panel: Any, scene: Any) -> None:
    import slicer

    manager, layouts = slicer.app.layoutManager(), slicer.vtkMRMLLayoutNode
    assert manager.sliceViewNames() == ("Red", "Yellow", "Green")

    def shown() -> list[str]:
        panel.turn()
        return [name for name in manager.sliceViewNames() if manager.sliceWidget(name).visible]

    assert shown() == ["Red"]
    manager.setLayout(layouts.SlicerLayoutOneUpGreenSliceView)
    assert shown() == ["Green"] and manager.layout == layouts.SlicerLayoutOneUpGreenSliceView
    manager.layoutLogic().GetLayoutNode().SetViewArrangement(layouts.SlicerLayoutFourUpView)
    assert shown() == ["Red", "Yellow", "Green"]


def test_the_window_is_painted_with_its_views(panel: Any, scene: Any) -> None:
    pixels = panel.pixels(panel.window).reshape(-1, 3).astype(int)
    reddish = (pixels[:, 0] > 150) & (pixels[:, 1] < 80) & (pixels[:, 1] == pixels[:, 2])
    assert reddish.sum() > 1000


def test_an_oblique_stack_is_shown_in_its_own_plane(panel: Any, scene: Any) -> None:
    import slicer

    volume, node, _ = scene
    slicer.mrmlScene.RemoveNode(node)
    oblique = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]]) @ np.diag([1.0, 1.0, 8.0])
    matrix = np.eye(4)
    matrix[:3, :3] = oblique
    volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    values = slicer.util.arrayFromVolume(volume)
    values[:] = np.array([0, 40, 80, 120, 160, 200])[:, None, None]
    slicer.util.arrayFromVolumeModified(volume)
    slicer.util.setSliceViewerLayers(background=volume, fit=True, rotateToVolumePlane=True)
    manager = slicer.app.layoutManager()
    normals = {
        name: slicer.util.arrayFromVTKMatrix(manager.sliceWidget(name).mrmlSliceNode().GetSliceToRAS())[:3, 2]
        for name in manager.sliceViewNames()
    }
    (name,) = [name for name, normal in normals.items() if abs(abs(normal @ oblique[:, 2]) - 8) < 1e-6]
    assert name == "Yellow"  # not Red: a module has to look for the view that shows the acquired slices
    node = manager.sliceWidget(name).mrmlSliceNode()
    node.JumpSliceByCentering(*(matrix @ np.array([40.0, 30.0, 3.0, 1.0]))[:3])
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpYellowSliceView)
    assert middle(panel, manager.sliceWidget(name).sliceView()) == [153, 153, 153]  # 120 of 0 … 200 is 0.6

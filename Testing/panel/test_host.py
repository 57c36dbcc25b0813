"""The stand-in host's scene: exact geometry, segmentations, round trips, closing, sequences, what is missing."""

from __future__ import annotations

import ctypes.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from host import start

OBLIQUE = (0.36, 0.48, -0.8, -0.8, 0.6, 0.0, 0.48, 0.64, 0.6)  # an orthonormal matrix of a 3-4-5 triangle


@pytest.fixture
def stack(tmp_path: Path) -> tuple[Path, sitk.Image]:
    """A short oblique stack as a file, and as SimpleITK reads it; blanks and a letter outside ASCII in the path."""
    rng = np.random.default_rng(5)
    image = sitk.GetImageFromArray(rng.integers(0, 900, (7, 40, 50)).astype(np.int16))
    image.SetSpacing((1.4, 1.5, 8.0))
    image.SetOrigin((-81.25, 33.5, 120.75))
    image.SetDirection(OBLIQUE)
    path = tmp_path / "Müller stack" / "SA ED.nrrd"
    path.parent.mkdir()
    sitk.WriteImage(image, str(path))
    return path, sitk.ReadImage(str(path))


def ijk_to_ras(node: Any) -> np.ndarray:
    import slicer
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def expected_matrix(image: sitk.Image) -> np.ndarray:
    """SimpleITK's geometry (LPS) as a matrix from voxel index (i, j, k, 1) to RAS."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return np.diag([-1, -1, 1, 1]) @ matrix


def add_segmentation(volume: Any, mask: np.ndarray, name: str = "RV cavity") -> tuple[Any, str]:
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mask")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segment = node.GetSegmentation().AddEmptySegment(name, name, (1.0, 0.0, 0.0))
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segment, volume)
    return node, segment


@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz", ".mha"])
def test_an_oblique_volume_has_the_geometry_that_simpleitk_reads(panel: Any, stack: Any, ending: str) -> None:
    import slicer

    path = stack[0].with_name(f"stack{ending}")
    sitk.WriteImage(stack[1], str(path))
    image = sitk.ReadImage(str(path))
    node = slicer.util.loadVolume(str(path))
    assert node.GetName() == "stack"
    assert np.abs(ijk_to_ras(node) - expected_matrix(image)).max() < 1e-9
    assert np.array_equal(slicer.util.arrayFromVolume(node), sitk.GetArrayFromImage(image))
    assert node.GetDisplayNode().GetColorNode() is not None


def test_a_file_that_is_not_there_is_an_error(panel: Any, tmp_path: Path) -> None:
    import slicer

    with pytest.raises(RuntimeError, match="does not exist"):
        slicer.util.loadVolume(str(tmp_path / "nothing.nii.gz"))


def test_a_segment_comes_back_as_it_was_given(panel: Any, stack: Any) -> None:
    import slicer

    volume = slicer.util.loadVolume(str(stack[0]))
    mask = (slicer.util.arrayFromVolume(volume) > 700).astype(np.uint8)
    mask[:, :2] = 0  # the stored extent is smaller than the volume's
    node, segment = add_segmentation(volume, mask)
    assert 0 < mask.sum() < mask.size
    assert np.array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(node, segment, volume), mask)
    label = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    logic = slicer.modules.segmentations.logic()
    assert logic.ExportVisibleSegmentsToLabelmapNode(node, label, volume)
    assert np.array_equal(slicer.util.arrayFromVolume(label), mask)
    assert np.abs(ijk_to_ras(label) - expected_matrix(stack[1])).max() < 1e-9


@pytest.mark.parametrize("ending", [".mrb", ""])
def test_a_scene_comes_back_from_its_file(panel: Any, stack: Any, tmp_path: Path, ending: str) -> None:
    import slicer

    volume = slicer.util.loadVolume(str(stack[0]))
    mask = (slicer.util.arrayFromVolume(volume) > 700).astype(np.uint8)
    node, segment = add_segmentation(volume, mask)
    node.GetSegmentation().GetSegment(segment).SetTag("reviewer", "Zoë")
    table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", "numbers")
    slicer.util.updateTableFromArray(table, (np.array([1.5, 2.5]),), ["Dice"])
    parameters = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "parameters")
    parameters.SetParameter("Bundle", "/größer/than.json")
    parameters.SetNodeReferenceID("SA", volume.GetID())
    path = tmp_path / f"scene{ending}"
    assert slicer.util.saveScene(str(path))
    slicer.mrmlScene.Clear(0)
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    slicer.util.loadScene(str(path if ending else next(path.glob("*.mrml"))))
    volume, node = slicer.util.getNode("SA ED"), slicer.util.getNode("mask")
    assert np.array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(node, segment, volume), mask)
    assert np.abs(ijk_to_ras(volume) - expected_matrix(stack[1])).max() < 1e-9
    assert (
        node.GetSegmentation().GetSegment(segment).GetTag("reviewer", value := slicer_string()) and value.get() == "Zoë"
    )
    assert slicer.util.arrayFromTableColumn(slicer.util.getNode("numbers"), "Dice").tolist() == [1.5, 2.5]
    parameters = slicer.util.getNode("parameters")
    assert parameters.GetParameter("Bundle") == "/größer/than.json"
    assert parameters.GetNodeReference("SA") is volume


def slicer_string() -> Any:
    import vtk

    return vtk.reference("")


def test_a_saved_segmentation_has_the_files_geometry(panel: Any, stack: Any, tmp_path: Path) -> None:
    import slicer

    volume = slicer.util.loadVolume(str(stack[0]))
    mask = np.zeros((7, 40, 50), np.uint8)
    mask[1:6, 5:30, 10:40] = 1
    node, _ = add_segmentation(volume, mask)
    path = tmp_path / "mask.seg.nrrd"
    assert slicer.util.saveNode(node, str(path))
    image = sitk.ReadImage(str(path))
    assert sitk.GetArrayFromImage(image).sum() == mask.sum()
    slicer.mrmlScene.Clear(0)
    loaded = slicer.util.loadSegmentation(str(path))
    assert loaded.GetSegmentation().GetNthSegment(0).GetName() == "RV cavity"


def test_nodes_are_listed_in_the_subject_hierarchy(panel: Any, stack: Any) -> None:
    import slicer

    volume = slicer.util.loadVolume(str(stack[0]))
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(volume)
    assert item and hierarchy.GetItemName(item) == "SA ED"
    slicer.mrmlScene.RemoveNode(volume)
    assert not hierarchy.GetItemByDataNode(volume)


def test_the_views_survive_the_closing_of_the_scene(panel: Any, stack: Any) -> None:
    import slicer

    layout = slicer.app.layoutManager()
    before = {name: layout.sliceWidget(name).mrmlSliceNode() for name in layout.sliceViewNames()}
    slicer.util.loadVolume(str(stack[0]))
    before["Green"].SetOrientation("Axial")
    slicer.mrmlScene.Clear(0)
    assert {name: layout.sliceWidget(name).mrmlSliceNode() for name in before} == before
    assert {name: node.GetOrientation() for name, node in before.items()} == {
        **{"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}
    }
    assert before["Green"].GetLayoutLabel() == "G" and before["Green"].GetScene() is slicer.mrmlScene
    volume = slicer.util.loadVolume(str(stack[0]))
    composite = layout.sliceWidget("Green").sliceLogic().GetSliceCompositeNode()
    assert composite.GetBackgroundVolumeID() == volume.GetID()
    assert volume.GetDisplayNode().GetColorNode() is not None


def test_a_sequence_shows_the_frame_that_is_chosen(panel: Any) -> None:
    import slicer

    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "cine")
    for frame in range(3):
        volume = slicer.util.addVolumeFromArray(np.full((2, 3, 4), frame, np.int16), name="frame")
        sequence.SetDataNodeAtValue(volume, str(frame))
        slicer.mrmlScene.RemoveNode(volume)
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "cine browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    browser.SetSelectedItemNumber(2)
    panel.turn()
    assert slicer.util.arrayFromVolume(browser.GetProxyNode(sequence)).max() == 2


def test_sample_data_is_made_by_the_module_that_registered_it(panel: Any) -> None:
    import SampleData
    import slicer

    def make(source: Any) -> list[Any]:
        return [slicer.util.addVolumeFromArray(np.ones((2, 2, 2)), name=source.nodeNames[0])]

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="RVQC", sampleName="HostSample", uris=["phantom:1"], fileNames=["p.nrrd"], nodeNames=["phantom"],
        customDownloader=make, thumbnailFileName="x.png", sampleDescription="A sample",
    )  # fmt: skip
    source = SampleData.SampleDataLogic().sourceForSampleName("HostSample")
    (node,) = source.customDownloader(source)
    assert node.GetName() == "phantom" and node.GetScene() is slicer.mrmlScene
    with pytest.raises(RuntimeError, match="downloads nothing, so phantom:1"):
        SampleData.downloadSample("HostSample")
    assert [source.sampleDescription for source in SampleData.SampleDataLogic.sampleDataSourcesByCategory("RVQC")][
        -1:
    ] == ["A sample"]
    with pytest.raises(RuntimeError, match="No sample named"):
        SampleData.downloadSample("NoSuchSample")


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "find_spec", lambda name: None if name == "slicer_core" else object())
    assert start.missing().startswith("the stand-in for Slicer needs slicer-core:")
    monkeypatch.setattr(start, "find_spec", lambda name: object())
    monkeypatch.setattr(start.sys, "platform", "linux")
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    assert start.missing().startswith("the stand-in for Slicer needs libEGL, libGL,")
    assert "apt-get install --no-install-recommends libegl1 " in start.missing()
    with pytest.raises(RuntimeError, match="libegl1"):
        start.start(testing=True)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: f"lib{name}.so.1")
    assert start.missing() is None

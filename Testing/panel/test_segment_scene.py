"""Between scene and files: geometry to the last digit, masks back on the grid that they came from, names and codes."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

OBLIQUE = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
DIRECTIONS = {
    "straight": np.eye(3),
    "oblique": OBLIQUE,
    "flipped": OBLIQUE @ np.diag([-1.0, 1.0, 1.0]),
    "not orthonormal": OBLIQUE + np.array([[0, 0, 1e-3], [0, 2e-3, 0], [0, 0, 0]]),
}


def make_volume(direction: np.ndarray, pixels: np.ndarray, name: str = "volume") -> Any:
    import slicer

    from RVQCLib.stack import Geometry
    from RVQCSlicerLib.scene import place_volume

    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(volume, pixels)
    direction = direction / np.linalg.norm(direction, axis=0)
    place_volume(volume, Geometry((-101.3, 7 / 3, 55.55), (1.3671875, 1.40625, 9.999), tuple(direction.ravel())))
    return volume


def write(frames: list[Any], path: Path) -> Path:
    from RVQCSlicerLib.scene import write_frames

    for _ in write_frames(frames, path):
        pass
    return path


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("kind", ["int16", "uint16", "float32", "float64", "uint8"])
def test_a_volume_is_written_where_it_is(panel: Any, tmp_path: Path, direction: np.ndarray, kind: str) -> None:
    import SimpleITK as sitk

    from RVQCSlicerLib.scene import geometry_of, matrix_of

    pixels = (np.random.default_rng(1).random((3, 5, 4)) * 200).astype(kind)
    volume = make_volume(direction, pixels)
    image = sitk.ReadImage(str(write([volume], tmp_path / "Größe 1.mha")))
    assert np.array_equal(sitk.GetArrayFromImage(image), pixels)
    for ijk in ((0, 0, 0), (3, 4, 2)):
        lps = np.array(image.TransformContinuousIndexToPhysicalPoint([float(i) for i in ijk]))
        assert np.allclose(lps * [-1, -1, 1], (matrix_of(volume) @ [*ijk, 1])[:3], rtol=0, atol=1e-10)
    assert np.allclose(image.GetSpacing(), geometry_of(volume).spacing, rtol=0, atol=1e-12)


def test_the_engine_reads_a_cine_as_it_was(panel: Any, tmp_path: Path) -> None:
    from RVQCLib.images import read_cine
    from RVQCSlicerLib.scene import geometry_of

    frames = [make_volume(OBLIQUE, np.random.default_rng(k).random((2, 5, 4)).astype("float32")) for k in range(3)]
    stacks = read_cine(write(frames, tmp_path / "cine.mha"), view="SA")
    import slicer

    assert len(stacks) == 3
    for stack, frame in zip(stacks, frames, strict=True):
        assert np.array_equal(stack.pixels, slicer.util.arrayFromVolume(frame))
        assert np.allclose(stack.geometry.direction, geometry_of(frame).direction, rtol=0, atol=1e-12)


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_a_mask_comes_back_onto_its_grid(panel: Any, direction: np.ndarray) -> None:
    import slicer

    from RVQCSlicerLib.scene import add_labels, mask_of

    labels = np.zeros((3, 20, 18), np.uint8)
    labels[:, 3:9, 2:8], labels[1:, 5:7, 4:6], labels[0, 12:15, 10:17] = 2, 1, 3
    volume = make_volume(direction, np.zeros((3, 20, 18), np.float32))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    add_labels(node, labels, volume)
    assert np.array_equal(mask_of(node, volume, "SA", "ED").pixels, labels)


def test_a_mask_is_read_as_slicer_reads_it_and_leaves_nothing_in_the_scene(panel: Any) -> None:
    """Segments with labelmaps of their own, cut to what they hold, emptied, drawn on another grid, or made of surfaces."""
    import slicer

    from RVQCSlicerLib.scene import add_labels, mask_of

    labels = np.random.default_rng(3).integers(0, 4, (3, 20, 18)).astype(np.uint8)
    volume = make_volume(OBLIQUE, np.zeros(labels.shape, np.float32))
    finer = make_volume(OBLIQUE, np.zeros((3, 40, 36), np.float32))
    finer.SetSpacing(*(np.array(volume.GetSpacing()) * [0.5, 0.5, 1.0]))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    add_labels(node, labels, volume)
    assert np.array_equal(mask_of(node, volume, "SA", "ED").pixels, labels)
    small, fine = np.zeros(labels.shape, np.uint8), np.zeros((3, 40, 36), np.uint8)
    small[1, 4:9, 5:11], fine[:, 22:33, 7:18] = 1, 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(small, node, "RV", volume)
    slicer.util.updateSegmentBinaryLabelmapFromArray(np.zeros_like(small), node, "LV", volume)
    slicer.util.updateSegmentBinaryLabelmapFromArray(fine, node, "MYO", finer)
    parts = {3: "RV", 1: "LV", 2: "MYO"}
    asked = {label: slicer.util.arrayFromSegmentBinaryLabelmap(node, name, volume) > 0 for label, name in parts.items()}
    before = slicer.mrmlScene.GetNumberOfNodes()
    found = mask_of(node, volume, "SA", "ED").pixels
    assert np.array_equal(found == 3, asked[3]) and np.array_equal(found == 3, small > 0) and not (found == 1).any()
    assert np.array_equal(found == 2, asked[2] & ~asked[3]) and (found == 2).any()
    assert not mask_of(node, volume, "SA", "ED", "candidate1.").pixels.any()
    node.CreateClosedSurfaceRepresentation()
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    node.RemoveBinaryLabelmapRepresentation()
    assert (mask_of(node, volume, "SA", "ED").pixels == 2).any()
    assert slicer.mrmlScene.GetNumberOfNodes() == before


def test_segments_have_names_codes_colors_and_dicom_tags(panel: Any) -> None:
    import slicer
    import vtk

    from RVQCSlicerLib.scene import add_labels

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    add_labels(node, np.full((1, 4, 4), 3, np.uint8), make_volume(OBLIQUE, np.zeros((1, 4, 4), np.float32)))
    said = {}
    for index in range(node.GetSegmentation().GetNumberOfSegments()):
        segment, tag = node.GetSegmentation().GetNthSegment(index), vtk.reference("")
        assert segment.GetTag("DICOM.SegmentAlgorithmType", tag) and tag.get() == "AUTOMATIC"
        assert segment.GetTag("DICOM.SegmentAlgorithmName", tag) and tag.get() == "RVQC"
        assert segment.GetTag(segment.GetTerminologyEntryTagName(), tag)
        entry = slicer.vtkSlicerTerminologyEntry()
        assert slicer.modules.terminologies.logic().DeserializeTerminologyEntry(tag.get(), entry)
        said[segment.GetName()] = (entry.GetTypeObject().GetCodeValue(), entry.GetCategoryObject().GetCodeValue())
    anatomy = "123037004"
    assert said == {
        "RV cavity": ("53085002", anatomy),
        "LV cavity": ("87878005", anatomy),
        "LV myocardium": ("49848007", anatomy),
    }


def test_the_terminology_that_is_shipped_has_the_codes(panel: Any) -> None:
    import slicer

    from RVQCSlicerLib.segments import CONTEXT

    panel.open("RVQCSegment")
    logic, names = slicer.modules.terminologies.logic(), []
    category = slicer.vtkSlicerTerminologyCategory()
    assert logic.GetNthCategoryInTerminology(CONTEXT, 0, category)
    for index in range(3):
        kind = slicer.vtkSlicerTerminologyType()
        assert logic.GetNthTypeInTerminologyCategory(CONTEXT, category, index, kind)
        names.append((kind.GetCodeValue(), kind.GetCodeMeaning()))
    from RVQCSlicerLib.segments import STRUCTURES

    assert sorted(names) == sorted((structure.code, structure.meaning) for structure in STRUCTURES)


def multi_volume(scene: Any) -> Any:
    """A node as of Slicer's MultiVolumeImporter, whose class the stand-in lacks."""
    return SimpleNamespace(GetScene=lambda: scene, GetName=lambda: "beat", IsA="vtkMRMLMultiVolumeNode".__eq__)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda s: s.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "cine"), "is a cine of several frames"),
        (lambda s: multi_volume(s.mrmlScene), "load it again as a volume sequence"),
        (lambda s: s.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels"), "is no greyscale image"),
        (lambda s: s.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty"), "holds no image"),
        (lambda s: s.vtkMRMLScalarVolumeNode(), "no longer in the scene"),
        (lambda s: None, "no longer in the scene"),
    ],
)
def test_what_is_no_image_of_a_stack_is_said(panel: Any, spoil: Any, sentence: str) -> None:
    import slicer

    from RVQCLib.files import RVQCError
    from RVQCSlicerLib.scene import check_volume

    with pytest.raises(RVQCError, match=sentence):
        check_volume(spoil(slicer), "SA ED")


def test_colours_are_refused(panel: Any) -> None:
    import slicer

    from RVQCLib.files import RVQCError
    from RVQCSlicerLib.scene import check_volume

    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "photo")
    slicer.util.updateVolumeFromArray(volume, np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(RVQCError, match="photo, chosen for SA ED, has several values a pixel"):
        check_volume(volume, "SA ED")


def test_parameters_are_typed_and_live_in_the_scene(panel: Any) -> None:
    import slicer

    from RVQCSlicerLib.parameters import Parameters

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")
    parameters = Parameters(node)
    assert (parameters.study, parameters.show_mask, parameters.candidate, parameters.frame("SA_ED")) == (
        "",
        True,
        0,
        None,
    )
    parameters.study, parameters.show_mask, parameters.candidate = "Müller, A.", False, 3
    parameters.set_frame("SA_ED", 0)
    volume = make_volume(OBLIQUE, np.zeros((1, 4, 4), np.float32))
    parameters.choose("volume", "SA_ED", volume)
    again = Parameters(node)
    assert (again.study, again.show_mask, again.candidate, again.frame("SA_ED")) == ("Müller, A.", False, 3, 0)
    assert again.volume("SA_ED") is volume and again.volume("LA_ED") is None
    parameters.choose("volume", "SA_ED", None)
    assert again.volume("SA_ED") is None


MACHADO_2009 = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
"""Linear RGB as people see it who lack one kind of cone (Machado, Oliveira & Fernandes 2009, severity 1)."""
TO_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))


def lab(linear: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of linear RGB."""
    x, y, z = np.cbrt(np.array(TO_XYZ) @ np.clip(linear, 0, 1) / (0.9505, 1.0, 1.089))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", MACHADO_2009)
def test_the_colours_are_told_apart_without_a_kind_of_cone(panel: Any, sight: str) -> None:
    from RVQCSlicerLib.segments import DIFFERENCE_COLOR, RECONSTRUCTION_COLOR, STRUCTURES

    colors = [*(structure.color for structure in STRUCTURES), RECONSTRUCTION_COLOR, DIFFERENCE_COLOR]
    linear = [
        np.where(np.array(c) <= 0.04045, np.array(c) / 12.92, ((np.array(c) + 0.055) / 1.055) ** 2.4) for c in colors
    ]
    seen = [lab(np.array(MACHADO_2009[sight]) @ color) for color in linear]
    apart = min(np.linalg.norm(a - b) for a, b in combinations(seen, 2))
    assert apart > 20  # 2.3 is just noticed side by side

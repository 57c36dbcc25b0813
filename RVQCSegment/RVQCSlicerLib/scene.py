"""Between the scene and the engine: volume and sequence nodes written as files, files and masks made into nodes.

Geometry is exact both ways: what a node says of its place is written with every digit, and a mask comes back onto the
grid of the very node that it was made from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import slicer
import vtk

from RVQCLib.files import RVQCError, whole_file
from RVQCLib.stack import Geometry, Stack
from RVQCSlicerLib.segments import STRUCTURES, new_segment

FILE = "RVQC.File"
"""Attribute of a volume or a cine: the file that its pixels were read from."""
_SAME_PLACE_MM = 0.1
"""How far the corners of a cine's frames may lie apart."""
_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_META_TYPES = {
    "int8": "MET_CHAR", "uint8": "MET_UCHAR", "int16": "MET_SHORT", "uint16": "MET_USHORT", "int32": "MET_INT",
    "uint32": "MET_UINT", "float32": "MET_FLOAT", "float64": "MET_DOUBLE",
}  # fmt: skip


class Transformed(RVQCError):
    """Volumes lie under a transform. `volumes` may be hardened, if the user agrees."""

    def __init__(self, volumes: Sequence[slicer.vtkMRMLVolumeNode]) -> None:
        self.volumes = tuple(volumes)
        names = ", ".join(volume.GetName() for volume in volumes)
        super().__init__(
            f"{names} {'lies' if len(volumes) == 1 else 'lie'} under a transform; harden it, or take the volume out of it."
        )

    def harden(self) -> None:
        """Move the voxels where they are shown."""
        for volume in self.volumes:
            volume.HardenTransform()


def check_volume(volume: slicer.vtkMRMLNode | None, what: str) -> None:
    """Raise RVQCError where a node cannot be the image of a stack; `what` names its place, such as "SA ED"."""
    if volume is None or volume.GetScene() is None:
        raise RVQCError(f"The volume chosen for {what} is no longer in the scene; choose another one.")
    name = volume.GetName()
    if volume.IsA("vtkMRMLMultiVolumeNode"):
        raise RVQCError(
            f"{name}, chosen for {what}, is a multi-volume; load it again as a volume sequence, and choose that under “Cines, "
            "instead of ED and ES”."
        )
    if volume.IsA("vtkMRMLSequenceNode"):
        raise RVQCError(f"{name}, chosen for {what}, is a cine of several frames; choose it as the cine instead.")
    if not volume.IsA("vtkMRMLScalarVolumeNode") or volume.IsA("vtkMRMLLabelMapVolumeNode"):
        raise RVQCError(f"{name}, chosen for {what}, is no greyscale image; choose a scalar volume.")
    image = volume.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0:
        raise RVQCError(f"{name}, chosen for {what}, holds no image; load it again.")
    if image.GetNumberOfScalarComponents() != 1:
        raise RVQCError(f"{name}, chosen for {what}, has several values a pixel; choose a greyscale image.")
    browser = slicer.modules.sequences.logic().GetFirstBrowserNodeForProxyNode(volume)
    if browser is not None:
        cine = browser.GetSequenceNode(volume).GetName()
        raise RVQCError(
            f"{name}, chosen for {what}, shows the frames of a cine in turn; choose {cine} under “Cines, instead of ED and ES”."
        )


def refuse_transforms(volumes: Sequence[slicer.vtkMRMLVolumeNode]) -> None:
    """Raise `Transformed` where volumes lie under a transform: their voxels are not where they are shown."""
    moved = [volume for volume in volumes if volume.GetParentTransformNode() is not None]
    if moved:
        raise Transformed(moved)


def frames_of(sequence: slicer.vtkMRMLSequenceNode | None, what: str) -> list[slicer.vtkMRMLScalarVolumeNode]:
    """The frames of a cine in time order.

    Raises
    ------
    RVQCError
        The sequence is gone, holds no images, or images of several places.
    """
    if sequence is None or sequence.GetScene() is None:
        raise RVQCError(f"The cine chosen for {what} is no longer in the scene; choose another one.")
    frames = [sequence.GetNthDataNode(index) for index in range(sequence.GetNumberOfDataNodes())]
    if len(frames) < 2 or not all(frame.IsA("vtkMRMLScalarVolumeNode") and frame.GetImageData() for frame in frames):
        raise RVQCError(f"{sequence.GetName()}, chosen for {what}, is no sequence of images; choose a cine.")
    if any(frame.GetImageData().GetNumberOfScalarComponents() != 1 for frame in frames):
        raise RVQCError(
            f"{sequence.GetName()}, chosen for {what}, has several values a pixel; choose a greyscale cine."
        )
    if any(_apart(frames[0], frame) > _SAME_PLACE_MM for frame in frames[1:]):
        raise RVQCError(
            f"The frames of {sequence.GetName()}, chosen for {what}, differ in size or place, as those of several slices do; load "
            "the folder with all its slices by “Load study folder…”, which puts them in order."
        )
    return frames


def _apart(one: slicer.vtkMRMLVolumeNode, two: slicer.vtkMRMLVolumeNode) -> float:
    """How far the corners of two volumes lie apart at most, in mm; infinity where their sizes differ."""
    size, other = (volume.GetImageData().GetDimensions() for volume in (one, two))
    if size != other:
        return float("inf")
    corners = np.array([(*corner, 1) for corner in product(*((0, count - 1) for count in size))])
    return float(np.linalg.norm((corners @ (matrix_of(one) - matrix_of(two)).T)[:, :3], axis=1).max())


def show_frame(sequence: slicer.vtkMRMLSequenceNode, frame: int) -> slicer.vtkMRMLVolumeNode | None:
    """The volume in which Slicer shows a cine, turned to a frame (from 0); None where the sequence holds no images.

    It is the proxy of a sequence browser, which is made where there is none.
    """
    logic = slicer.modules.sequences.logic()
    browser = logic.GetFirstBrowserNodeForSequenceNode(sequence)
    if browser is None:
        browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", f"{sequence.GetName()} browser")
        browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    browser.SetSelectedItemNumber(frame)
    logic.UpdateProxyNodesFromSequences(browser)
    proxy = browser.GetProxyNode(sequence)
    return proxy if proxy is not None and proxy.IsA("vtkMRMLVolumeNode") else None


def matrix_of(volume: slicer.vtkMRMLVolumeNode) -> np.ndarray:
    """IJK to RAS, (4, 4)."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def geometry_of(volume: slicer.vtkMRMLVolumeNode) -> Geometry:
    """The volume's place as the engine says it (LPS)."""
    matrix = _TO_LPS @ matrix_of(volume)
    spacing = np.array(volume.GetSpacing())
    return Geometry(tuple(matrix[:3, 3]), tuple(spacing), tuple((matrix[:3, :3] / spacing).ravel()))


def fit_together(one: slicer.vtkMRMLVolumeNode, two: slicer.vtkMRMLVolumeNode) -> bool:
    """Whether two volumes have as many slices and, to a hundredth, the same voxels, as ED and ES of a heart do."""
    counts = {volume.GetImageData().GetDimensions()[2] for volume in (one, two)}
    return len(counts) == 1 and np.allclose(one.GetSpacing(), two.GetSpacing(), rtol=0.01)


def grid_in_words(volume: slicer.vtkMRMLVolumeNode) -> str:
    """How many slices a volume has, and the size of its voxels: "10 slices of 1.25 x 1.25 x 8 mm"."""
    count = volume.GetImageData().GetDimensions()[2]
    return f"{count} slice{'s' if count > 1 else ''} of {' x '.join(f'{size:.3g}' for size in volume.GetSpacing())} mm"


def write_frames(frames: Sequence[slicer.vtkMRMLScalarVolumeNode], path: Path) -> Iterator[None]:
    """Write one volume, or the frames that `frames_of` gives, to a MetaImage file, whole; yields after every frame."""
    first = slicer.util.arrayFromVolume(frames[0])
    kind = first.dtype if first.dtype.name in _META_TYPES else np.dtype(np.float32)
    with whole_file(path) as part, open(part, "wb") as stream:
        stream.write(_meta_header(geometry_of(frames[0]), first.shape, len(frames), kind).encode("ascii"))
        for frame in frames:
            pixels = slicer.util.arrayFromVolume(frame)
            stream.write(np.ascontiguousarray(pixels, kind.newbyteorder("<")).tobytes())
            yield


def _meta_header(geometry: Geometry, shape: tuple[int, ...], frames: int, kind: np.dtype) -> str:
    """A MetaImage header, of four dimensions for a cine. Numbers keep every digit; axes are listed one after the other."""
    axes = np.reshape(geometry.direction, (3, 3)).T
    origin, spacing, size = list(geometry.origin), list(geometry.spacing), [*shape[::-1]]
    if frames > 1:
        axes = np.pad(axes, (0, 1))
        axes[3, 3] = 1.0
        origin, spacing, size = origin + [0.0], spacing + [1.0], size + [frames]

    def text(values: Sequence[float]) -> str:
        return " ".join(repr(float(value)) for value in values)

    return (
        f"ObjectType = Image\nNDims = {len(size)}\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        f"CompressedData = False\nTransformMatrix = {text(axes.ravel())}\nOffset = {text(origin)}\n"
        f"ElementSpacing = {text(spacing)}\nDimSize = {' '.join(map(str, size))}\n"
        f"ElementType = {_META_TYPES[kind.name]}\nElementDataFile = LOCAL\n"
    )


def file_of(node: slicer.vtkMRMLNode) -> str:
    """The file that a volume or a cine came from, "" for none; whether it still holds the same is not asked."""
    storage = node.GetStorageNode() if hasattr(node, "GetStorageNode") else None
    return node.GetAttribute(FILE) or (storage.GetFileName() if storage is not None else "") or ""


def place_volume(volume: slicer.vtkMRMLVolumeNode, geometry: Geometry) -> None:
    """Give a volume node the engine's geometry."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(geometry.direction, (3, 3)) * geometry.spacing
    matrix[:3, 3] = geometry.origin
    volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(_TO_LPS @ matrix))


def add_volume(stack: Stack, name: str) -> slicer.vtkMRMLScalarVolumeNode:
    """A new volume node with the pixels and the place of an image stack, shown with a window of its own."""
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(volume, stack.pixels)
    place_volume(volume, stack.geometry)
    volume.SetAttribute(FILE, stack.source or None)
    volume.CreateDefaultDisplayNodes()
    return volume


def add_sequence(frames: Sequence[Stack], name: str) -> slicer.vtkMRMLSequenceNode:
    """A new sequence node with the frames of a cine; its index is the frame, from 0."""
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
    sequence.SetIndexName("frame")
    sequence.SetIndexUnit("")
    sequence.SetAttribute(FILE, frames[0].source or None)
    for number, frame in enumerate(frames):
        volume = slicer.vtkMRMLScalarVolumeNode()
        volume.SetName(name)
        slicer.util.updateVolumeFromArray(volume, frame.pixels)
        place_volume(volume, frame.geometry)
        sequence.SetDataNodeAtValue(volume, str(number))
    return sequence


def add_labels(
    segmentation: slicer.vtkMRMLSegmentationNode, labels: np.ndarray, volume: slicer.vtkMRMLVolumeNode, prefix: str = ""
) -> None:
    """Add RV, LV and MYO of a mask on the grid of `volume` as segments; their ids are `prefix` and the structure's key.

    The three share one labelmap, as Slicer does it for labels that do not overlap.
    """
    image = oriented_image(labels, volume)
    for structure in STRUCTURES:
        segment = new_segment(structure)
        segment.AddRepresentation("Binary labelmap", image)
        segmentation.GetSegmentation().AddSegment(segment, prefix + structure.key)


def oriented_image(labels: np.ndarray, volume: slicer.vtkMRMLVolumeNode) -> slicer.vtkOrientedImageData:
    """uint8 labels (slices, rows, columns) in the place of `volume`."""
    if labels.shape != slicer.util.arrayFromVolume(volume).shape:
        raise RVQCError(f"The mask does not fit {volume.GetName()}, which was changed meanwhile; run QC again.")
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(*labels.shape[::-1])
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    scalars = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    scalars[:] = np.ascontiguousarray(labels, np.uint8).ravel()
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    image.SetGeometryFromImageToWorldMatrix(matrix)
    return image


def lies_on(segmentation: slicer.vtkMRMLSegmentationNode, name: str, volume: slicer.vtkMRMLVolumeNode) -> bool:
    """Whether segment `name` is on the grid of `volume`, whatever part of it it fills."""
    labelmap, matrix = segmentation.GetBinaryLabelmapInternalRepresentation(name), vtk.vtkMatrix4x4()
    if labelmap is not None:
        labelmap.GetImageToWorldMatrix(matrix)
    own = slicer.util.arrayFromVTKMatrix(matrix)
    return labelmap is None or np.allclose(own, matrix_of(volume), rtol=0, atol=1e-3)


def mask_of(
    segmentation: slicer.vtkMRMLSegmentationNode,
    volume: slicer.vtkMRMLVolumeNode,
    view: str,
    phase: str,
    prefix: str = "",
) -> Stack:
    """The mask that the segments `prefix` + key hold now, on the grid of `volume`; where they overlap, RV wins over LV
    over MYO."""
    labels = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.uint8)
    grid = oriented_image(labels, volume)
    for structure in STRUCTURES[::-1]:
        labels[_voxels(segmentation, prefix + structure.key, grid)] = structure.label
    return Stack(labels, geometry_of(volume), view, phase)


def _voxels(
    segmentation: slicer.vtkMRMLSegmentationNode, name: str, grid: slicer.vtkOrientedImageData
) -> np.ndarray | bool:
    """Where on `grid` segment `name` is, False for nowhere; read without the scene, in which slicer.util's own way leaves a
    display node at every call."""
    segment = segmentation.GetSegmentation().GetSegment(name)
    if segment is None:
        return False
    labelmap = segmentation.GetBinaryLabelmapInternalRepresentation(name)
    if labelmap is None and segmentation.CreateBinaryLabelmapRepresentation():  # it was made of surfaces
        labelmap = segmentation.GetBinaryLabelmapInternalRepresentation(name)
    if labelmap is None or labelmap.IsEmpty():
        return False
    on_grid = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(labelmap, grid, on_grid)
    scalars = vtk.util.numpy_support.vtk_to_numpy(on_grid.GetPointData().GetScalars())
    return scalars.reshape(grid.GetDimensions()[::-1]) == segment.GetLabelValue()

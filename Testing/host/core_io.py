"""``slicer.app.coreIOManager()``: what `slicer.util` needs to load and save nodes and scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
import vtk

EXTENSIONS = {
    "SceneFile": (".mrml", ".mrb"),
    "SegmentationFile": (".seg.nrrd", ".seg.nhdr"),
    "SequenceFile": (".seq.nrrd", ".seq.nhdr"),
    "MarkupsFile": (".mrk.json", ".fcsv"),
    "TransformFile": (".h5", ".tfm", ".mat"),
    "TableFile": (".tsv", ".csv"),
    "TextFile": (".txt", ".json", ".xml"),
    "VolumeFile": (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd", ".dcm", ".hdr"),
}
NODES = {
    "SegmentationFile": ("vtkMRMLSegmentationNode", "vtkMRMLSegmentationStorageNode"),
    "TableFile": ("vtkMRMLTableNode", "vtkMRMLTableStorageNode"),
    "TextFile": ("vtkMRMLTextNode", "vtkMRMLTextStorageNode"),
    "TransformFile": ("vtkMRMLTransformNode", "vtkMRMLTransformStorageNode"),
}
STEMS = (".nii.gz", ".seg.nrrd", ".seq.nrrd", ".mrk.json")


class CoreIOManager:
    """Slicer's manager of readers and writers, for the file types above."""

    def __init__(self, logics: dict[str, Any]) -> None:
        self._logics = logics

    def fileType(self, path: str) -> str:
        name = str(path).lower()
        known = [kind for kind, endings in EXTENSIONS.items() if name.endswith(endings)]
        return known[0] if known else "NoFile"

    def loadNodes(self, kind: str, properties: dict, loaded: Any = None, messages: Any = None) -> bool:
        """Load a file into the scene. False, with the reason in `messages`, if it cannot be read."""
        path = Path(properties["fileName"])
        if kind != "SceneFile" and not path.exists():
            messages and messages.AddMessage(vtk.vtkCommand.ErrorEvent, f"{path} does not exist.")
            return False
        if kind == "SceneFile":
            return self._load_scene(path, properties, messages)
        if kind == "VolumeFile":
            node = self._load_volume(path, properties, messages)
        elif kind == "SequenceFile":
            node = self._logics["Sequences"].AddSequence(str(path), messages)
        else:
            node = self._load_stored(kind, path, properties, messages)
        if node is not None and loaded is not None:
            loaded.AddItem(node)
        return node is not None

    def _load_scene(self, path: Path, properties: dict, messages: Any) -> bool:
        scene = slicer.mrmlScene
        clear = properties.get("clear", False)
        if path.suffix == ".mrb":
            return bool(scene.ReadFromMRB(str(path), clear, messages))
        scene.SetURL(str(path))
        return bool(scene.Connect(messages) if clear else scene.Import(messages))

    def _load_volume(self, path: Path, properties: dict, messages: Any) -> Any:
        options = sum(
            bit
            for bit, name in ((1, "labelmap"), (2, "center"), (4, "singleFile"), (8, "autoWindowLevel"))
            if properties.get(name, name == "autoWindowLevel")
        ) | (16 if properties.get("discardOrientation") else 0)
        name = properties.get("name") or stem(path)
        node = self._logics["Volumes"].AddArchetypeVolume(str(path), name, options, None)
        if node is not None and properties.get("show", True):
            show_volume(node)
        return node

    def _load_stored(self, kind: str, path: Path, properties: dict, messages: Any) -> Any:
        node_class, storage_class = NODES[kind]
        name = slicer.mrmlScene.GenerateUniqueName(properties.get("name") or stem(path))
        node = slicer.mrmlScene.AddNewNodeByClass(node_class, name)
        storage = slicer.mrmlScene.AddNewNodeByClass(storage_class)
        storage.SetFileName(str(path))
        node.SetAndObserveStorageNodeID(storage.GetID())
        if not storage.ReadData(node):
            slicer.mrmlScene.RemoveNode(storage)
            slicer.mrmlScene.RemoveNode(node)
            return None
        if node.IsA("vtkMRMLDisplayableNode"):
            node.CreateDefaultDisplayNodes()
        return node

    def fileWriterFileType(self, node: Any, preferred: str = "") -> str:
        return f"{node.GetNodeTagName()}File"

    def saveNodes(self, kind: str, properties: dict, messages: Any = None) -> bool:
        """Write a node or, for "SceneFile", the scene to ``properties["fileName"]``."""
        path = str(properties["fileName"])
        if kind == "SceneFile":
            return self._save_scene(path, messages)
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode(path)
        storage = node.GetStorageNode()
        storage.SetFileName(path)
        storage.SetUseCompression(bool(properties.get("useCompression", True)))
        return bool(storage.WriteData(node))

    def _save_scene(self, path: str, messages: Any) -> bool:
        scene = slicer.mrmlScene
        if path.endswith(".mrb"):
            return bool(scene.WriteToMRB(path, None, messages))
        if path.endswith(".mrml"):
            scene.SetURL(path)
            return bool(scene.Commit(path, messages))
        Path(path).mkdir(parents=True, exist_ok=True)
        return bool(slicer.app.applicationLogic().SaveSceneToSlicerDataBundleDirectory(path, None, messages))


def stem(path: Path) -> str:
    """The name of a file without its ending."""
    name = path.name
    ending = next((e for e in STEMS if name.lower().endswith(e)), path.suffix)
    return name.removesuffix(name[len(name) - len(ending) :])


def show_volume(node: Any) -> None:
    """Show a volume in every slice view, as Slicer does after loading."""
    selection = slicer.app.applicationLogic().GetSelectionNode()
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        selection.SetActiveLabelVolumeID(node.GetID())
    else:
        selection.SetActiveVolumeID(node.GetID())
    slicer.app.applicationLogic().PropagateVolumeSelection(1)

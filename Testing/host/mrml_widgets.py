"""Stand-ins for Slicer's MRML widgets that scripted modules use."""

from __future__ import annotations

from typing import Any, ClassVar

import slicer
import vtk
from PySide6.QtCore import Property, Qt, Signal
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QTableWidget, QTableWidgetItem, QWidget


class qMRMLWidget(QWidget):
    """A widget that knows the scene and tells its children by the connections of their .ui file."""

    mrmlSceneChanged = Signal(object)
    SIGNATURES: ClassVar = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged"}

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene: Any = None

    def mrmlScene(self) -> Any:
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)


class qMRMLNodeComboBox(qMRMLWidget):
    """Chooses a node of given classes. Follows the scene: new nodes appear, removed ones vanish, names change.

    Where the current node is removed its neighbour becomes current, and while a scene is imported none is, as in Slicer 5.12
    (qMRMLSceneModel.cxx); both are told by `currentNodeChanged` only. `nodeActivated` tells a user's choice, and also a node
    that `setCurrentNode` changes to (not None), because Slicer sets it by an Enter key (qMRMLNodeComboBox.cxx).
    """

    currentNodeChanged = Signal(object)
    currentNodeValid = Signal(bool)
    currentNodeIDChanged = Signal(str)
    nodeActivated = Signal(object)
    nodeAddedByUser = Signal(object)
    SIGNATURES: ClassVar = {
        "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged",
        "currentNodeChanged(bool)": "currentNodeValid",
        "nodeActivated(vtkMRMLNode*)": "nodeActivated",
        "nodeAddedByUser(vtkMRMLNode*)": "nodeAddedByUser",
    }

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._types: list[str] = []
        self._flags = dict.fromkeys(("addEnabled", "removeEnabled", "renameEnabled", "editEnabled"), True)
        self._flags |= {"noneEnabled": False, "showHidden": False, "showChildNodeTypes": True}
        self._flags |= {"selectNodeUponCreation": True}
        self._words = {"baseName": "", "noneDisplay": "None"}
        self._attributes: list[tuple[str, str, str | None]] = []
        self._nodes: list[Any] = []
        self._node: Any = None
        self._watched: list[tuple[Any, int]] = []
        self._box = QComboBox()
        self._box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self._box.setMinimumContentsLength(12)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        self._box.activated.connect(self._activated)

    def setMRMLScene(self, scene: Any) -> None:
        for observed, tag in self._watched:
            observed.RemoveObserver(tag)
        self._watched = []
        if scene is not None:
            several, one = (
                (scene.EndBatchProcessEvent, scene.EndCloseEvent),
                (scene.NodeAddedEvent, scene.NodeRemovedEvent),
            )
            self._watched = [(scene, scene.AddObserver(event, self._scene_changed)) for event in several]
            self._watched += [(scene, scene.AddObserver(event, self._node_changed)) for event in one]
            self._watched.append((scene, scene.AddObserver(scene.EndImportEvent, self._imported)))
        super().setMRMLScene(scene)
        self._refresh()

    def _scene_changed(self, caller: Any, event: str) -> None:
        if not caller.IsBatchProcessing():
            self._refresh()

    def _imported(self, caller: Any, event: str) -> None:
        if self._flags["noneEnabled"]:
            self._take(None)
        self._scene_changed(caller, event)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _node_changed(self, caller: Any, event: str, node: Any) -> None:
        if self._accepts(node):
            self._scene_changed(caller, event)

    def _accepts(self, node: Any) -> bool:
        if node.GetHideFromEditors() and not self._flags["showHidden"]:
            return False
        children = self._flags["showChildNodeTypes"]
        matching = [n for n in self._types if (node.IsA(n) if children else node.GetClassName() == n)]
        for class_name, name, value in self._attributes:
            has = node.GetAttribute(name)
            if node.IsA(class_name) and (has is None or (value is not None and has != value)):
                return False
        return bool(matching)

    def _refresh(self) -> None:
        scene, before = self._scene, self._nodes
        everything = [] if scene is None else [scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())]
        self._nodes = ([None] if self._flags["noneEnabled"] else []) + [n for n in everything if self._accepts(n)]
        self._box.clear()
        for node in self._nodes:
            self._box.addItem(self._words["noneDisplay"] if node is None else node.GetName())
        self._take(self._node if self._node in self._nodes else self._neighbour(before))

    def _neighbour(self, before: list[Any]) -> Any:
        """The node that comes to where the current one was in the list of `before`."""
        place = before.index(self._node) if self._node in before else 0
        return self._nodes[min(place, len(self._nodes) - 1)] if self._nodes else None

    def _take(self, node: Any) -> None:
        self._box.setCurrentIndex(self._nodes.index(node) if node in self._nodes else -1)
        if node is self._node:
            return
        self._node = node
        self.currentNodeChanged.emit(node)
        self.currentNodeValid.emit(node is not None)
        self.currentNodeIDChanged.emit(node.GetID() if node else "")

    def _activated(self, index: int) -> None:
        self._take(self._nodes[index])
        self.nodeActivated.emit(self._node)

    def currentNode(self) -> Any:
        return self._node

    def setCurrentNode(self, node: Any) -> None:
        self._refresh_names()
        before = self._node
        self._take(node if node in self._nodes else (None if self._flags["noneEnabled"] else self._node))
        if self._node is not None and self._node is not before:
            self.nodeActivated.emit(self._node)

    def _refresh_names(self) -> None:
        for index, node in enumerate(self._nodes):
            if node is not None:
                self._box.setItemText(index, node.GetName())

    def setCurrentNodeID(self, node_id: str) -> None:
        self.setCurrentNode(self._scene.GetNodeByID(node_id) if self._scene and node_id else None)

    def nodeCount(self) -> int:
        return sum(node is not None for node in self._nodes)

    def nodeFromIndex(self, index: int) -> Any:
        return [node for node in self._nodes if node is not None][index]

    def addNode(self, class_name: str | None = None) -> Any:
        """What the menu's "Create new" does."""
        name = self._words["baseName"] or class_name or self._types[0].removeprefix("vtkMRML").removesuffix("Node")
        node = self._scene.AddNewNodeByClass(class_name or self._types[0], self._scene.GenerateUniqueName(name))
        self.nodeAddedByUser.emit(node)
        if self._flags["selectNodeUponCreation"]:
            self.setCurrentNode(node)
        return node

    def addAttribute(self, class_name: str, name: str, value: str | None = None) -> None:
        """Show only nodes of a class that have an attribute (of this value)."""
        self._attributes.append((class_name, name, value))
        self._refresh()

    def _set_types(self, types: list[str]) -> None:
        self._types = [types] if isinstance(types, str) else list(types)
        self._refresh()

    def _flag(name: str) -> Any:
        def write(self: qMRMLNodeComboBox, value: bool) -> None:
            self._flags[name] = value
            self._refresh()

        return Property(bool, lambda self: self._flags[name], write)

    def _word(name: str) -> Any:
        def write(self: qMRMLNodeComboBox, value: str) -> None:
            self._words[name] = value
            self._refresh()

        return Property(str, lambda self: self._words[name], write)

    nodeTypes = Property(list, lambda self: self._types, _set_types)
    noneEnabled, addEnabled, removeEnabled = _flag("noneEnabled"), _flag("addEnabled"), _flag("removeEnabled")
    renameEnabled, editEnabled, showHidden = _flag("renameEnabled"), _flag("editEnabled"), _flag("showHidden")
    showChildNodeTypes, baseName = _flag("showChildNodeTypes"), _word("baseName")
    selectNodeUponCreation, noneDisplay = _flag("selectNodeUponCreation"), _word("noneDisplay")
    currentNodeID = Property(str, lambda self: self._node.GetID() if self._node else "", setCurrentNodeID)
    del _flag, _word


class qMRMLTableView(QTableWidget):
    """Shows a table node; it is read again when the node changes."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._node: Any = None
        self._tag = 0
        self.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)

    def setMRMLScene(self, scene: Any) -> None:
        """Taken for the sake of the interface."""

    def mrmlTableNode(self) -> Any:
        return self._node

    def setMRMLTableNode(self, node: Any) -> None:
        if self._node is not None:
            self._node.RemoveObserver(self._tag)
        self._node = node
        if node is not None:
            self._tag = node.AddObserver("ModifiedEvent", lambda caller, event: self._fill())
        self._fill()

    def _fill(self) -> None:
        table = self._node.GetTable() if self._node else None
        columns = table.GetNumberOfColumns() if table else 0
        self.setColumnCount(columns)
        self.setRowCount(table.GetNumberOfRows() if table else 0)
        self.setHorizontalHeaderLabels([table.GetColumnName(c) or "" for c in range(columns)])
        for row in range(table.GetNumberOfRows() if table else 0):
            for column in range(columns):
                item = QTableWidgetItem(table.GetValue(row, column).ToString())
                item.setTextAlignment(Qt.AlignmentFlag.AlignVCenter)
                self.setItem(row, column, item)


STAND_INS = (qMRMLWidget, qMRMLNodeComboBox, qMRMLTableView)


def give_to_slicer(strict: Any) -> None:
    """Put the strict stand-ins on ``slicer``, where modules look for them."""
    for cls in STAND_INS:
        setattr(slicer, cls.__name__, strict(cls))

"""What the panel remembers, typed, in the module's parameter node: saved with the scene, shared by widget and logic."""

from __future__ import annotations

import os
from typing import Any, Generic, TypeVar

import slicer

from RVQCLib.stack import PHASES, VIEWS

T = TypeVar("T")
STACKS = tuple(f"{view}_{phase}" for view in VIEWS for phase in PHASES)


class _Value(Generic[T]):
    """A value kept as text under its attribute's name."""

    def __init__(self, default: T) -> None:
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, parameters: Any, owner: type) -> T:
        text = parameters.node.GetParameter(self._name)
        kind = type(self._default)
        if text == "" or text is None:
            return self._default
        try:
            return text == "true" if kind is bool else kind(text)
        except ValueError:  # a scene of a later version
            return self._default

    def __set__(self, parameters: Any, value: T) -> None:
        text = str(value).lower() if isinstance(self._default, bool) else str(value)
        parameters.node.SetParameter(self._name, text)


def default_results() -> str:
    """Where results go when no folder is named."""
    return os.path.join(getattr(slicer.app, "defaultScenePath", "") or os.path.expanduser("~"), "RVQC")


class Parameters:
    """A view of a vtkMRMLScriptedModuleNode."""

    study = _Value("")
    proposed = _Value("")  # the name that was made from the images
    bundle = _Value("")
    device = _Value("auto")
    results_folder = _Value("")
    reviewer = _Value("")
    stack = _Value("")
    candidate = _Value(0)
    show_mask = _Value(True)
    show_reconstruction = _Value(False)
    show_difference = _Value(False)

    def __init__(self, node: slicer.vtkMRMLScriptedModuleNode) -> None:
        self.node = node

    def volume(self, key: str) -> slicer.vtkMRMLNode | None:
        """The volume chosen for a stack, such as "SA_ED"."""
        return self.node.GetNodeReference(f"volume.{key}")

    def volumes(self) -> dict[str, slicer.vtkMRMLNode | None]:
        """The volumes of all stacks."""
        return {key: self.volume(key) for key in STACKS}

    def cine(self, view: str) -> slicer.vtkMRMLNode | None:
        """The sequence chosen for a view."""
        return self.node.GetNodeReference(f"cine.{view}")

    def images(self) -> list[slicer.vtkMRMLNode]:
        """All volumes and cines that are chosen."""
        found = [*self.volumes().values(), *(self.cine(view) for view in VIEWS)]
        return [node for node in found if node is not None]

    def frame(self, key: str) -> int | None:
        """The frame of the cine that is ED or ES, from 0; None to have it found."""
        text = self.node.GetParameter(f"frame.{key}")
        return int(text) if text else None

    def choose(self, role: str, key: str, node: slicer.vtkMRMLNode | None) -> None:
        """Set a "volume" or a "cine"."""
        self.node.SetNodeReferenceID(f"{role}.{key}", node.GetID() if node is not None else None)

    def set_frame(self, key: str, frame: int | None) -> None:
        """Set or, with None, forget the frame of a cine."""
        self.node.SetParameter(f"frame.{key}", "" if frame is None else str(frame))

    @property
    def result(self) -> slicer.vtkMRMLTextNode | None:
        """The result that is shown."""
        return self.node.GetNodeReference("result")

    @result.setter
    def result(self, node: slicer.vtkMRMLTextNode | None) -> None:
        self.node.SetNodeReferenceID("result", node.GetID() if node is not None else None)

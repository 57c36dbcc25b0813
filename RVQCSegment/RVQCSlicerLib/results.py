"""A study's result as the scene holds it: one text node with quality.json that refers to the nodes of every stack.

Saved with the scene, it brings everything back: what was said, the overlays, what was accepted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import slicer
import vtk

from RVQCLib.overall import stack_verdict
from RVQCLib.stack import PHASES
from RVQCSlicerLib.parameters import Parameters
from RVQCSlicerLib.words import failure_of

ATTRIBUTE = "RVQC.Study"
MADE = "RVQC.Made"
"""Attribute of the volumes that were made for a result: what out of, "a cine" or "a file"."""
_USERS = ("vtkMRMLSegmentationNode", "vtkMRMLTextNode", "vtkMRMLScriptedModuleNode")
"""Nodes that may refer to an image: masks, results, and what is chosen in modules."""


def slices_of(stack: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A stack's slices as they are to be shown: where the mask failed as a whole, none of them can be sound."""
    if not (failure := failure_of(stack)):
        return list(stack["slices"])
    return [{**entry, "flag": True, "reasons": [failure, *entry["reasons"]]} for entry in stack["slices"]]


def flagged_words(stack: Mapping[str, Any]) -> str:
    """How many slices of a stack are flagged, "" for none and where there is but one slice."""
    slices = slices_of(stack)
    flagged = sum(entry["flag"] for entry in slices)
    return f"{flagged} of {len(slices)} slices flagged" if flagged and len(slices) > 1 else ""


class Result:
    """A view of the text node `node`; nodes of a stack are None where they are not there (any more)."""

    def __init__(self, node: slicer.vtkMRMLTextNode) -> None:
        self.node = node

    @staticmethod
    def create(quality: dict[str, Any], folder: str) -> Result:
        """A new result in the scene. `folder` is where it was written."""
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", f"{quality['study']} quality")
        node.SetEncoding(vtk.VTK_ENCODING_UTF_8)
        node.SetText(json.dumps(quality, ensure_ascii=False))
        node.SetAttribute(ATTRIBUTE, quality["study"])
        node.SetAttribute("RVQC.Folder", folder)
        return Result(node)

    @cached_property
    def quality(self) -> dict[str, Any]:
        """The content of quality.json."""
        return json.loads(self.node.GetText())

    @cached_property
    def stacks(self) -> dict[str, dict[str, Any]]:
        """The judgement of every stack by its key, such as "SA_ED"."""
        return {f"{stack['view']}_{stack['phase']}": stack for stack in self.quality["stacks"]}

    @property
    def study(self) -> str:
        """The study's name."""
        return self.quality["study"]

    @property
    def folder(self) -> str:
        """Where the engine wrote it."""
        return self.node.GetAttribute("RVQC.Folder") or ""

    def verdict(self, key: str) -> str:
        """A stack's verdict; "look" at best where the study's checks speak against its view (`RVQCLib.overall`)."""
        return stack_verdict(self.stacks[key], self.quality["checks"])

    def image(self, key: str) -> dict[str, Any]:
        """Which image was judged: "file", "frame" of a cine, "sha256"; empty in results of an earlier RVQC."""
        return self.stacks[key].get("image") or {}

    def get(self, role: str, key: str) -> slicer.vtkMRMLNode | None:
        """The node of a stack in a `role`: "volume", "overlay" or "accepted"; or, by its view, the "cine" that was judged."""
        return self.node.GetNodeReference(f"RVQC.{role}.{key}")

    def is_of(self, parameters: Parameters) -> bool:
        """Whether every image that is chosen is one that was judged, of a cine at the frames that were."""
        own = [self.get("volume", key) for key in self.stacks]
        for entry in self.quality["cine"]:
            frames = [parameters.frame(f"{entry['view']}_{phase}") for phase in PHASES]
            if frames == [entry[phase.lower()] for phase in PHASES]:
                own.append(self.get("cine", entry["view"]))
        return all(image in own for image in parameters.images())

    def set(self, role: str, key: str, node: slicer.vtkMRMLNode | None) -> None:
        """Remember a node of a stack, or that there is none any more."""
        self.node.SetNodeReferenceID(f"RVQC.{role}.{key}", node.GetID() if node is not None else None)

    def decision(self, key: str) -> dict[str, str]:
        """The last review of a stack as JSON; empty where there is none."""
        return json.loads(self.node.GetAttribute(f"RVQC.Decision.{key}") or "{}")

    def decide(self, key: str, review: dict[str, str]) -> None:
        """Remember the last review of a stack."""
        self.node.SetAttribute(f"RVQC.Decision.{key}", json.dumps(review))

    def own_nodes(self) -> Iterator[slicer.vtkMRMLNode]:
        """What a new run of the same study replaces: overlays, volumes that were made for them, and the text itself.

        Accepted masks are the user's, and so are volumes that anything else refers to.
        """
        own = [self.node, *filter(None, (self.get("overlay", key) for key in self.stacks))]
        volumes = [volume for key in self.stacks if (volume := self.get("volume", key)) and volume.GetAttribute(MADE)]
        others = [node for kind in _USERS for node in slicer.util.getNodesByClass(kind) if node not in own]
        for volume in volumes:
            if not any(slicer.mrmlScene.IsNodeReferencingNodeID(node, volume.GetID()) for node in others):
                yield volume
        yield from own[::-1]


def results_in_scene() -> list[Result]:
    """All results, in the order of the scene."""
    nodes = slicer.util.getNodesByClass("vtkMRMLTextNode")
    return [Result(node) for node in nodes if node.GetAttribute(ATTRIBUTE)]


def remove(nodes: Iterable[slicer.vtkMRMLNode]) -> None:
    """Take nodes out of the scene, those that are still in it."""
    for node in list(nodes):
        if node.GetScene() is not None:
            slicer.mrmlScene.RemoveNode(node)

"""A study from the disk as nodes in the scene: any layout that the engine reads."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import slicer

from RVQCLib.stack import Stack, Study
from RVQCSlicerLib.scene import add_sequence, add_volume
from RVQCSlicerLib.words import short


@dataclass(frozen=True)
class Loaded:
    """What was recognised: the study's name, a sentence for people, volumes by stack and cines by view."""

    study: str
    said: str
    volumes: dict[str, slicer.vtkMRMLScalarVolumeNode] = field(default_factory=dict)
    cines: dict[str, slicer.vtkMRMLSequenceNode] = field(default_factory=dict)


def get_ready() -> None:
    """Import what reads images, a fifth of a second the first time: better while the panel opens than at a click."""
    with suppress(ImportError):  # the set-up row says what is missing
        import RVQCLib.study  # noqa: F401


def load_study(path: str) -> Loaded:
    """Read a file or folder and put its images into the scene, named "<study> SA ED".

    Raises
    ------
    RVQCError
        The path holds no study or several, or a file cannot be read; the scene is as before.
    """
    from RVQCLib.study import source_of

    source = source_of(path)
    layouts = {"acdc": "ACDC", "mnms2": "M&Ms-2", "dicom": "DICOM", "cine": "a cine", "file": "one file"}
    return add_study(source.load(), layouts.get(source.layout, "a plain folder"))


def add_study(study: Study, layout: str) -> Loaded:
    """Put the images of `study` into the scene; all of them, or none."""
    volumes = {stack.name: add_volume(stack, f"{study.name} {short(stack.name)}") for stack in study.stacks}
    cines = {cine[0].view: add_sequence(cine, f"{study.name} {cine[0].view} cine") for cine in study.cines}
    found = [f"{short(stack.name)} ({_size([stack])})" for stack in study.stacks]
    found += [f"{cine[0].view} cine ({_size(cine)})" for cine in study.cines]
    group = f", group {study.group}" if study.group else ""
    return Loaded(study.name, f"Recognized {layout}{group}: {', '.join(found)}.", volumes, cines)


def _size(frames: Iterable[Stack]) -> str:
    frames = list(frames)
    slices = len(frames[0].pixels)
    text = f"{slices} slice{'s' if slices > 1 else ''}"
    return f"{len(frames)} frames of {text}" if len(frames) > 1 else text

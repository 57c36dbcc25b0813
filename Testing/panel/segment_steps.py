"""What the tests of the panel do again and again: small studies, loading, running, waiting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from conftest import Panel

RUN_S = 240
"""How long a run may take on a busy machine."""


def small_phantom(name: str = "Phantom Ü 1", slices: int = 2, views: tuple[str, ...] = ("SA",)) -> Any:
    """A phantom study whose SA stacks have their middle slices only, so that a run is short."""
    from RVQCLib.phantom import phantom_study

    study = phantom_study(6, views=views, name=name)
    stacks = []
    for stack in study.stacks:
        first = max((len(stack.pixels) - slices) // 2, 0)
        origin = (
            np.array(stack.geometry.origin)
            + first * stack.geometry.spacing[2] * np.reshape(stack.geometry.direction, (3, 3))[:, 2]
        )
        place = replace(stack.geometry, origin=tuple(origin))
        stacks.append(replace(stack, pixels=stack.pixels[first : first + slices], geometry=place))
    return replace(study, stacks=tuple(stacks), labels=())


def load(widget: Any, study: Any) -> Any:
    """Bring a study of the engine into the scene and choose it."""
    from RVQCSlicerLib.loading import add_study

    loaded = add_study(study, "a phantom")
    widget.panel.inputs.take(loaded)
    widget.panel.rest()
    return loaded


def finish(panel: Panel, widget: Any) -> None:
    panel.wait(lambda: widget._run is None, RUN_S)


def scene_names() -> list[str]:
    import slicer

    return sorted(
        node.GetName() for node in slicer.util.getNodes("*", useLists=False).values() if not node.GetHideFromEditors()
    )


def child(widget: Any, name: str) -> Any:
    import slicer

    return slicer.util.findChild(widget.panel.widget, name)


def warm(panel: Panel, widget: Any) -> dict:
    """Have the worker started and looked at, as opening the panel does."""
    widget.onCheck()
    panel.wait(lambda: widget.panel.setup.check.enabled, RUN_S)
    return widget.panel.setup.said.text


def press(panel: Panel, where: Any, key: str, *, control: bool = False) -> None:
    import qt

    panel.press(where, getattr(qt.Qt, f"Key_{key}"), qt.Qt.ControlModifier if control else None)

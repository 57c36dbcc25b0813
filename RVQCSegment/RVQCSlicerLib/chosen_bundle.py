"""Which bundle is used: the one chosen in the scene, else the one adopted in RVQC Refine, else the one that comes with RVQC."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import slicer

SETTING = "RVQC/Bundle"
"""The application setting in which RVQC Refine keeps the folder of the adopted bundle; empty for the one that comes with RVQC."""


@dataclass(frozen=True)
class ChosenBundle:
    """The bundle that a run takes. `path` is "" for the shipped one; `said` says which it is and why, in a sentence."""

    path: str
    said: str
    gone: bool = False


def chosen_bundle(in_scene: str) -> ChosenBundle:
    """The bundle in use where the scene says `in_scene` ("" for nothing).

    An adopted bundle whose folder is gone is not used, and `said` tells so; one that somebody chose in this scene is
    never exchanged silently: the run refuses it.
    """
    adopted = str(slicer.app.userSettings().value(SETTING) or "")
    if adopted and in_scene in ("", adopted):
        name = Path(adopted).name
        if Path(adopted).is_dir():
            return ChosenBundle(adopted, f"Bundle: {name}, adopted in RVQC Refine.")
        return ChosenBundle(
            "",
            f"\N{BLACK UP-POINTING TRIANGLE} The adopted bundle {name} is no longer at {adopted}; the one that comes with "
            "RVQC is used. Put it back, or choose another one.",
            gone=True,
        )
    if in_scene:
        return ChosenBundle(in_scene, f"Bundle: {Path(in_scene).name}, chosen in this scene.")
    return ChosenBundle("", "Bundle: the one that comes with RVQC.")
